"""`python -m sparsecore.sweep`: train a network with many settings, each run once, and say which are best.

Exit status: 0, 1 if runs failed, 2 for a command or a file that cannot be followed, 130 or 143 when it was interrupted.
"""

from __future__ import annotations

import csv
import io
import os
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console.output import complain, work

if TYPE_CHECKING:
    from ..console.arguments import Parser
    from ..console.interrupts import Interrupts
    from .making.outcome import Outcome
    from .making.run import Run
    from .making.runner import Board
    from .making.sweep import Point, Sweep

PROGRAM = "python -m sparsecore.sweep"
EXAMPLE = f"{PROGRAM} sweep.toml --workers 2"
SCORES = {"accuracy": "accuracy", "r2": "R²"}
"""What a point is compared by, by the name of its column."""
MOST_COMPARED = 6
"""Runs on the comparison page, one of each of the best points: as many as there are colours that can be told apart."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return work(PROGRAM, _command, arguments)


def parser() -> Parser:
    """The parser of this command."""
    from ..console.arguments import CACHE, Parser, integer

    made = Parser(PROGRAM, "Train a network with many settings, and say which are best.", EXAMPLE)
    made.add_argument("sweep", metavar="FILE", help="what all runs have, and what varies, in TOML; see docs/sweeps.md")
    made.add_argument(
        "--out", metavar="DIR", help="for runs, which are kept, and sweep.csv: runs/ with FILE's name if not given"
    )
    made.add_argument(
        "--workers", type=_workers, metavar="N",
        help="processes, or mpi for those of mpiexec; as many as there are cores for if not given",
    )  # fmt: skip
    made.add_argument(
        "--threads", type=integer("a whole number from 1 to 256", 2, 1, 256),
        help="of each process (1): for the last runs, when there are fewer than cores",
    )  # fmt: skip
    made.add_argument("--data-dir", help=CACHE)
    made.add_argument("--dry-run", action="store_true", help="name the runs that are missing, and stop")
    return made


def _workers(text: str) -> int | str:
    if text == "mpi":
        return text
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 256):
        raise ArgumentTypeError(f"expected a whole number from 1 to 256, or mpi, such as 2, got {text!r}")
    return int(text)


def _command(arguments: list[str], interrupts: Interrupts) -> int:
    from ..files import to_append
    from .making import mpi
    from .making.runner import Maker, board_of
    from .making.sweep import read_sweep

    options: dict[str, Any] = vars(parser().parse_args(arguments))
    threads, file = options.get("threads", 1), Path(options["sweep"])
    workers = options.get("workers", max(1, _cores() // threads))
    if workers == "mpi":
        mpi.check()
    sweep = read_sweep(file)
    out = Path(options.get("out", Path("runs") / file.stem))
    names = {run.key: f"{point.title} seed {run.seed}" for point in sweep.points for run in point.runs}
    runs, data_dir = out / "runs", options.get("data_dir")
    if options.get("dry_run"):
        board = board_of(sweep.runs, runs)
        for run in board.waiting:
            print(names[run.key])
        print(f"{len(board.waiting)} runs to make, {board.cached} are there")
        return 0
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out}: cannot be made a folder ({error.strerror}): choose another --out") from None
    with to_append(out / "lock") as lock:
        _lock(lock.fileno(), out)
        board = board_of(sweep.runs, runs)
        print(f"{len(board.waiting)} runs to make, {board.cached} are there, in {out}", flush=True)
        _check_data(board, data_dir)
        shown = Lines(board, names)
        maker = (
            mpi.MpiMaker(board, runs, threads=threads, shown=shown, data_dir=data_dir) if workers == "mpi"
            else Maker(
                board, runs, workers=workers, threads=threads, shown=shown, hold=lock.fileno(), data_dir=data_dir
            )
        )  # fmt: skip
        interrupts.stop = maker.stop
        maker()
        interrupts.stop = None
        shown(board)
        _write(sweep, board, out)
    if interrupts.status:
        left = f"{len(board.waiting)} runs are left"
        return complain(PROGRAM, f"stopped; {left}; the same command goes on", interrupts.status)
    for run, why in board.failed.items():
        complain(PROGRAM, f"failed: {names[run.key]} ({runs / run.key}): {why}", 1)
    return 1 if board.failed else 0


class Lines:
    """A line for each run that ends, with how long the others may take, going by those that have ended."""

    def __init__(self, board: Board, names: dict[str, str]) -> None:
        self._names, self._shown, self._begun = names, set(board.finished), time.monotonic()
        self._count, self._ended = len(board.waiting), 0

    def __call__(self, board: Board) -> None:
        for key in [key for key in board.finished if key not in self._shown]:
            outcome = board.finished[key]
            dead = f"  lost classes {', '.join(map(str, outcome.dead))}" if outcome.dead else ""
            self._line(key, f"{outcome.shown}  {outcome.seconds:.1f} s{dead}")
        for run in [run for run in board.failed if run.key not in self._shown]:
            self._line(run.key, f"FAILED: {board.failed[run]}")

    def _line(self, key: str, text: str) -> None:
        from .reporting.readings import duration

        self._shown.add(key)
        self._ended += 1
        left = (time.monotonic() - self._begun) / self._ended * (self._count - self._ended)
        print(f"{self._ended}/{self._count}  {self._names[key]}  {text}  ({duration(left)} left)", flush=True)


def _write(sweep: Sweep, board: Board, out: Path) -> None:
    """The table, best first, as lines and as sweep.csv; and the comparison of the runs."""
    from statistics import fmean

    from ..files import replace

    rows = [_row(point, found) for point in sweep.points if (found := _outcomes(point, board))]
    if not rows:
        return
    rows = list({tuple(row[name] for name in row): row for row in rows}.values())  # what was drawn twice is there once
    score = next(name for name in SCORES if name in rows[0])
    rows.sort(key=lambda row: -row[score])
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    replace(out / "sweep.csv", text.getvalue().encode())
    cells = [list(rows[0]), *([_cell(name, value, score) for name, value in row.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"{SCORES[score]} of the test split, the highest first")
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(out / "sweep.csv")
    best = sorted((-fmean(each.score for _, each in found), point.title, found[0][0].key)
                  for point in sweep.points if (found := _outcomes(point, board)))  # fmt: skip
    for path in compared([(title, out / "runs" / key) for _, title, key in dict.fromkeys(best)], out):
        print(path)


def compared(runs: Sequence[tuple[str, Path]], out: Path) -> list[Path]:
    """The comparison page of the first of some runs, each a title and a folder; none where nothing can make one."""
    from importlib import import_module
    from importlib.util import find_spec

    try:
        compare = import_module(f"{__package__.rpartition('.')[0]}.commands.compare")
    except ModuleNotFoundError:
        return []
    if any(find_spec(name) is None for name in ("matplotlib", "jinja2")):
        return []
    page = out / "compare.html"
    shown = [compare.run_in(str(folder))._replace(name=title) for title, folder in runs[:MOST_COMPARED]]
    compare.write_page(shown, page)
    return [page]


def _outcomes(point: Point, board: Board) -> list[tuple[Run, Outcome]]:
    return [(run, board.finished[run.key]) for run in point.runs if run.key in board.finished]


def _row(point: Point, found: list[tuple[Run, Outcome]]) -> dict[str, Any]:
    """A point's settings, and the means over its seeds."""
    from statistics import fmean, stdev

    from .making.sweep import shown

    scores, name = [outcome.score for _, outcome in found], "accuracy" if found[0][1].r2 is None else "r2"
    return {field: shown(value) for field, value in point.given.items()} | {
        name: fmean(scores), "deviation": stdev(scores) if len(found) > 1 else 0.0, "runs": len(found),
        "connections": round(fmean(outcome.connections for _, outcome in found)),
        "layer_sparsity": fmean(outcome.sparsity for _, outcome in found),
        "seconds": fmean(outcome.seconds for _, outcome in found), "lost": sum(bool(each.dead) for _, each in found),
    }  # fmt: skip


def _cell(name: str, value: Any, score: str) -> str:
    if not isinstance(value, float):
        return str(value)
    if score == "r2" and name in ("r2", "deviation"):
        return f"{value:.4f}"
    return f"{value:.1f}" if name == "seconds" else f"{value:.2%}"


def _check_data(board: Board, data_dir: str | None) -> None:
    """Raise ValueError if a run's data set is missing, now rather than once in every run."""
    from ..data import load

    kinds = {(run.dataset, run.options.get("target"), run.options.get("loss")) for run in board.waiting}
    for name, target, loss in sorted(kinds, key=str):
        found = load(name, data_dir=data_dir, target=target, loss=loss)
        if name == "mnist" and found.name != name:
            raise ValueError("mnist is not here and could not be fetched: try dataset = \"mnist-subset\"")


def _lock(file: int, out: Path) -> None:
    from ..runs.lock import lock

    if not lock(file):
        raise ValueError(f"{out}: another sweep is at work there: wait, or choose another --out")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
