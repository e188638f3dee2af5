"""`python -m sparsecore.study`: train what the studies still need, and report.

Exit status: 0, 1 if runs failed, 2 for a command that cannot be followed, 130 or 143 when it was interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console.output import complain, work, write_anything

if TYPE_CHECKING:
    from ..console.arguments import Parser
    from ..console.interrupts import Interrupts
    from .making.archive import Archive
    from .making.run import Run
    from .making.runner import Board
    from .making.scale import Scale
    from .reporting.report import Report
    from .reporting.study import Study

PROGRAM = "python -m sparsecore.study"
EXAMPLE = f"{PROGRAM} radix --seeds 3"
QUICK_SEEDS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return work(PROGRAM, _command, arguments)


def _command(arguments: list[str], interrupts: Interrupts) -> int:
    from ..files import to_append
    from .making.archive import read_archives
    from .making.runner import Maker, board_of
    from .reporting.progress import show
    from .reporting.readings import counted, duration
    from .reporting.trial import try_report

    options = _options(arguments)
    plan = Plan(options)
    runs = plan.out / "runs"
    elsewhere = read_archives(map(Path, options.get("from", ())))
    board = board_of(plan.runs, runs, elsewhere.outcomes)
    _say_estimate(board, plan)
    if options.get("dry_run"):
        return 0
    _check_data(board, options)
    _make_folders(plan, options.get("from", ()))
    with to_append(plan.out / "lock") as lock:
        _lock(lock.fileno(), plan.out)
        board = board_of(plan.runs, runs, elsewhere.outcomes)
        if board.waiting:
            try_report(plan.places)
        begun, count = time.monotonic(), len(board.waiting)
        shown = show(board, plan.names, runs, plan.cores, plan.keys)
        maker = Maker(
            board, runs, workers=plan.workers, threads=plan.threads, shown=shown, hold=lock.fileno(),
            data_dir=options.get("data_dir"),
        )  # fmt: skip
        interrupts.stop = maker.stop
        try:
            maker()
        finally:
            shown.close()
        interrupts.stop = None
        if made := count - len(board.waiting) - len(board.failed):
            print(f"{counted(made, 'run')} made in {duration(time.monotonic() - begun)}")
        for path in _written(plan, board, elsewhere, arguments):
            print(path)
    if interrupts.status:
        left = f"about {duration(board.remaining / plan.cores)} of work is left"
        return complain(PROGRAM, f"stopped; {left}; the same command goes on", interrupts.status)
    for run, why in board.failed.items():
        complain(PROGRAM, f"failed: {plan.names.get(run.key, run.key)} ({runs / run.key}): {why}", 1)
    return 1 if board.failed else 0


class Plan:
    """What a command line asks for.

    Attributes
    ----------
    studies : list of Study
    scale : Scale
    seeds : int or None
        That the user asks for; each study's own number if None.
    workers, threads : int
        Processes, and threads of each.
    out, results : Path
        The folder of everything, and the Markdown page.
    page, table, lines : Path
        The report's other files: HTML, CSV, and what `--from` takes.
    places : tuple of Path
        The folders that the report is written to.
    runs : list of Run
        All, with their seeds.
    everything : list of Run
        These, and the runs that they start from.
    names : dict of str to str
        A name for people, by a run's key.
    keys : dict of str to set of str
        The keys of the runs that a study needs, by its title.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from .studies import STUDIES

        self.scale = _scale(options)
        self.quick = self.scale.quick
        self.seeds: int | None = options.get("seeds", QUICK_SEEDS if self.quick else None)
        self.threads: int = options.get("threads", 1)
        self.workers: int = options.get("workers", max(1, _cores() // self.threads))
        self.out = Path(options.get("out", "runs/quick-study" if self.quick else "runs/study"))
        self.results = Path(options.get("results", self.out / "results.md"))
        self.page, self.table, self.lines = (self.out / name for name in ("report.html", "runs.csv", "runs.jsonl"))
        self.places = self.out, self.results.parent, self.results.with_suffix("")
        self.studies: list[Study] = [STUDIES[name] for name in options["names"] or STUDIES]
        self.runs: list[Run] = []
        self.everything: list[Run] = []
        self.names: dict[str, str] = {}
        self.keys: dict[str, set[str]] = {}
        for study in self.studies:
            points = study.points(self.scale)
            if not points and options["names"]:
                raise ValueError(f"{study.name}: has no runs on {options.get('dataset', 'the embedded digits')}")
            for point in points:
                for seed in self.seeds_of(study):
                    self._add(study, point.run.seeded(seed), f"{point.title}, seed {seed}")

    def seeds_of(self, study: Study) -> range:
        """The seeds of a study's runs."""
        return range((self.seeds or study.unasked) * study.seeds)

    @property
    def cores(self) -> int:
        """That compute at the same time."""
        return self.workers * self.threads

    def _add(self, study: Study, run: Run, name: str) -> None:
        self.runs.append(run)
        self.everything += [*run.sources(), run]
        for each in (*run.sources(), run):
            self.keys.setdefault(study.title, set()).add(each.key)
            self.names.setdefault(each.key, name if each is run else f"what comes before {name}")
        if self.names[run.key].startswith("what comes before"):
            self.names[run.key] = name


def _options(arguments: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = vars(parser().parse_args(arguments))
    missing = " and ".join(name for name in ("matplotlib", "jinja2") if find_spec(name) is None)
    if missing:
        raise ValueError(f"the report needs {missing}, not installed here: pip install 'sparsecore[plot]'")
    return options


def parser() -> Parser:
    """The parser of this command."""
    from ..console.arguments import CACHE, Parser, integer
    from .studies import STUDIES

    made = Parser(PROGRAM, "Train the networks of the studies and report on them.", EXAMPLE)
    count = integer("a whole number from 1 to 256", 2, 1, 256)
    made.add_argument(
        "names", nargs="*", default=(), type=_study, metavar="NAME",
        help=f"studies, all if none is given: {', '.join(STUDIES)}",
    )  # fmt: skip
    made.add_argument(
        "--seeds", type=count, help=f"of each run: if not given, {QUICK_SEEDS} with --quick, and otherwise 3, or fewer "
                                    "where a run takes hours",
    )  # fmt: skip
    made.add_argument("--quick", action="store_true", help="few epochs on the embedded digits, to see that all works")
    made.add_argument(
        "--dataset", choices=("mnist", "cifar10"), help="the part of the studies on this data set; both if not given"
    )
    made.add_argument(
        "--from", action="append", metavar="FILE",
        help="a runs.jsonl, whose runs need not be made; may be repeated (none if not given)",
    )
    made.add_argument("--out", metavar="DIR", help="for runs, which are kept, and reports: runs/study if not given")
    made.add_argument("--results", metavar="FILE", help="the report in Markdown: results.md in --out if not given")
    made.add_argument("--workers", type=count, help="processes, as many as there are cores for if not given")
    made.add_argument(
        "--threads", type=count, help="of each process (1): for the last runs, when there are fewer than cores"
    )
    made.add_argument("--data-dir", help=CACHE)
    made.add_argument("--dry-run", action="store_true", help="say how long it would take, and stop")
    return made


def _study(text: str) -> str:
    from .studies import STUDIES

    if text not in STUDIES:
        raise ArgumentTypeError(f"expected a study, one of {', '.join(STUDIES)}, got {text!r}")
    return text


def _scale(options: dict[str, Any]) -> Scale:
    """The networks to study."""
    from .making.scale import full, quick

    if options.get("quick"):
        if "dataset" in options:
            raise ValueError("--dataset: not with --quick, which uses the embedded digits")
        return quick()
    return full((options["dataset"],) if "dataset" in options else ("mnist", "cifar10"))


def _check_data(board: Board, options: dict[str, Any]) -> None:
    """Raise ValueError if runs need a data set that is missing."""
    from ..data import load

    for name in sorted({run.dataset for run in board.waiting}):
        if load(name, data_dir=options.get("data_dir")).name != name:
            raise ValueError(f"{name} is not here and could not be fetched: python -m sparsecore.data fetch {name}, "
                             "or try --quick, which uses the embedded digits")  # fmt: skip


def _say_estimate(board: Board, plan: Plan) -> None:
    from .making.cost import seconds_of
    from .reporting.readings import duration

    parts: dict[str, float] = {}
    for run in board.waiting:
        parts[run.dataset] = parts.get(run.dataset, 0.0) + seconds_of(run)
    shares = "".join(f"\n  {name}: about {duration(each / plan.cores)}" for name, each in sorted(parts.items()))
    cached = f", {board.cached} more are there" if board.cached else ""
    print(f"{len(board.waiting)} runs to make{cached}, {plan.workers} at a time, in {plan.out}: about "
          f"{duration(sum(parts.values()) / plan.cores)}{shares if len(parts) > 1 else ''}", flush=True)  # fmt: skip


def _report(plan: Plan, board: Board, archive: Archive, arguments: list[str]) -> Report:
    from .reporting.report import Report, parts, section_of
    from .reporting.results import gather

    sections = []
    for study in plan.studies:
        results = gather(study.points(plan.scale), plan.seeds_of(study), archive)
        if results.cells:
            sections.append(section_of(study, results))
    return Report(
        sections, failures={plan.names.get(run.key, run.key): why for run, why in board.failed.items()},
        missing=len(board.waiting), command=" ".join([PROGRAM, *map(_typed, arguments)]),
        where=parts(plan.everything, archive.outcomes), quick=plan.quick,
    )  # fmt: skip


def _archive(plan: Plan, board: Board, elsewhere: Archive) -> Archive:
    """What is known of all runs, including those made elsewhere."""
    from .making.archive import Archive, course_of

    drawn = [point.run.seeded(0).key for study in plan.studies if study.over_time for point in study.points(plan.scale)]
    here = {key: course for key in drawn if (course := course_of(plan.out / "runs" / key))}
    there = {key: elsewhere.courses[key] for key in drawn if key in elsewhere.courses}
    return Archive(board.finished, there | here)


def _written(plan: Plan, board: Board, elsewhere: Archive, arguments: list[str]) -> list[Path]:
    """Write the report in all its forms, what was found before what is drawn of it; gives back their paths."""
    from .making.archive import write_archive
    from .reporting.markdown import write_markdown
    from .reporting.page import write_page
    from .reporting.report import drawn, write_csv

    archive = _archive(plan, board, elsewhere)
    write_archive(plan.lines, plan.everything, archive)
    report = _report(plan, board, archive, arguments)
    write_csv(report, plan.table)
    report = drawn(report)
    write_page(report, plan.page)
    write_markdown(report, plan.results)
    return [plan.page, plan.results, plan.table, plan.lines]


def _make_folders(plan: Plan, read: Sequence[str]) -> None:
    """Make what runs and reports are written to, now: hours later is too late to find that it cannot be.

    Nothing that was `read` is written over: it may hold runs of other studies.
    """
    ours = [os.path.realpath(path) for path in (plan.page, plan.table, plan.lines, plan.out / "lock")]
    if not plan.results.suffix or os.path.realpath(plan.results) in ours:
        raise ValueError(f"--results: expected a name of its own, such as results.md, got {plan.results}")
    for file in plan.page, plan.results, plan.table, plan.lines:
        if file.is_dir():
            raise ValueError(f"{file}: expected a file to write to, got a folder: choose another --out or --results")
    written = {os.path.realpath(path) for path in (plan.page, plan.table, plan.lines, plan.results)}
    for path in read:
        if os.path.realpath(path) in written:
            raise ValueError(f"--from: {path} would be written over: copy it to another name, or choose another --out")
    for folder in plan.out / "runs", *plan.places:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder}: cannot be made a folder ({error.strerror}): choose another --out or --results"
                             ) from None  # fmt: skip


def _lock(file: int, out: Path) -> None:
    """Lock an open file, which workers are given too: so the lock is there until the last of them has saved."""
    from ..runs.lock import lock

    if not lock(file):
        raise ValueError(f"{out}: another study is at work there, or its last runs are saving: wait, or choose another "
                         "--out")  # fmt: skip


def _typed(word: str) -> str:
    """A word as a shell takes it, on one line; what cannot be printed, such as bytes that are no text, is escaped."""
    from shlex import quote

    return quote("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in word))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
