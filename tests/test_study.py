"""The study: its runs as values, its cache, what it survives, and what it says from numbers that are made up."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sparsecore.models.catalogue import MODELS

from sparsecore import options as train_options
from sparsecore.study import slides, studies
from sparsecore.study.__main__ import main
from sparsecore.study.archive import Archive, course_of, read_archives, write_archive
from sparsecore.study.cost import seconds_of
from sparsecore.study.figures import by_sparsity
from sparsecore.study.outcome import Outcome, dead_classes, read_outcome, write
from sparsecore.study.readings import beside_slides, course, dead_runs, explained, versus
from sparsecore.study.report import Report, Section, parts, write_csv
from sparsecore.study.results import Cell, Results, against_slides, differ, gather
from sparsecore.study.run import Run, prune, train
from sparsecore.study.runner import board_of
from sparsecore.study.scale import LENET300, full, quick
from sparsecore.study.study import Drawing, Point, Study

matplotlib = pytest.importorskip("matplotlib")

RECIPE = {"epochs": 2, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant",
          "warm_up": 0.0}  # fmt: skip
DENSE = train("lenet300", "mnist-subset", RECIPE, dense=True)
PRUNED = prune(DENSE, sparsity="0.9")
RETRAINED = train("lenet300", "mnist-subset", RECIPE, PRUNED, rewind="initial")


def outcome(accuracy: float, *, train_accuracy: float | None = 0.99, lost: Sequence[int] = ()) -> Outcome:
    """A finished run with this test accuracy, that never answers some classes."""
    answers = tuple(0 if k in lost else 1000 for k in range(10))
    return Outcome(
        accuracy=accuracy, train_accuracy=train_accuracy, connections=27_520, sparsity=0.9, global_sparsity=0.897,
        epochs=2, train_seconds=1.5, step_ms=0.1, seconds=3.0, answers=answers, support=(1000,) * 10,
        version="0", commit="abc", machine="a machine, 2 cores",
    )  # fmt: skip


def point(series: str, x: float, slides: float | None = None) -> Point:
    return Point("a table", series, x, train("lenet300", "mnist", RECIPE, note=f"{series} {x}"), slides)


def results(*rows: tuple[Point, Iterable[float]]) -> Results:
    """Cells with these accuracies in percent, one a seed."""
    cells = [
        Cell(each, {seed: outcome(a / 100) for seed, a in enumerate(accuracies)}) for each, accuracies in rows
    ]  # fmt: skip
    return Results(tuple(cells))


def all_runs(points: Iterable[Point]) -> list[Run]:
    runs = (each.run.seeded(seed) for each in points for seed in (0, 1))
    return [each for run in runs for each in (*run.sources(), run)]


# -- runs as values --------------------------------------------------------------------------------------------------


def test_a_key_is_the_same_for_the_same_configuration_only() -> None:
    shuffled = train("lenet300", "mnist-subset", dict(reversed(RECIPE.items())), dense=True)
    assert shuffled.key == DENSE.key and shuffled == DENSE
    others = [
        DENSE.seeded(0), DENSE.seeded(1), PRUNED, PRUNED.seeded(0), prune(DENSE, sparsity="0.95"), RETRAINED,
        train("lenet300", "mnist-subset", RECIPE, prune(DENSE, sparsity="0.95"), rewind="initial"),
        train("lenet300", "mnist-subset", RECIPE | {"lr": 0.2}, dense=True),
        train("lenet300", "mnist", RECIPE, dense=True),
    ]  # fmt: skip
    keys = [run.key for run in (DENSE, *others)]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


def test_a_key_does_not_change_between_versions() -> None:
    """What was computed yesterday is found today. Whoever changes this on purpose raises `run.VERSION`."""
    assert (DENSE.seeded(0).key, RETRAINED.seeded(0).key) == ("ac353ce027ca86eb", "80f8fb2380c2641a")


def test_a_seed_reaches_the_sources_but_for_those_that_have_one() -> None:
    seeded = RETRAINED.seeded(3)
    assert [each.options.get("seed") for each in (*seeded.sources(), seeded)] == [3, None, 3]
    pinned = train("lenet300", "mnist-subset", RECIPE, PRUNED.seeded(0), rewind="fresh")
    assert pinned.seeded(3).source == pinned.seeded(4).source == PRUNED.seeded(0)
    assert pinned.seeded(3).key != pinned.seeded(4).key


def test_none_is_left_out_of_a_run() -> None:
    assert train("lenet300", "mnist", RECIPE, hidden=None) == train("lenet300", "mnist", RECIPE)


@pytest.mark.parametrize("scale", [full(), quick()], ids=["full", "quick"])
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_run_is_a_command_that_the_parser_takes(name: str, scale: Any) -> None:
    parser = train_options.parser(list(MODELS))
    for run in all_runs(studies.STUDIES[name].points(scale)):
        assert seconds_of(run) > 0
        if run.kind == "train":
            given = {k: v for k, v in vars(parser.parse_args(run.arguments(Path("runs")))).items() if v is not None}
            train_options.check(given, parser)
            recipe = {name for name, value in vars(MODELS[given["model"]].recipe).items() if value is not None}
            recipe -= {"padding"} if run.source is not None else set()  # the network that it starts from has it
            assert recipe <= set(given), "what a recipe says is pinned, so that a better default changes no study"


def test_every_cell_of_the_slides_has_its_counterpart() -> None:
    found: dict[str, dict[float, float]] = {}
    for study in studies.STUDIES.values():
        for each in study.points(full()):
            if each.slides is not None:
                network = {"LeNet-300-100, MNIST": "L300", "LeNet-5, MNIST": "L5", "LeNet-5, CIFAR-10": "L5 CIFAR-10"}
                found.setdefault(f"{network[each.table]} {each.series}", {})[float(each.x)] = each.slides
    assert found == slides.SPARSITY | slides.WIDTH
    assert sum(map(len, found.values())) == 66


def test_studies_share_the_runs_that_are_the_same() -> None:
    dense = LENET300.dense().seeded(0).key
    sharing = [name for name, study in studies.STUDIES.items()
               if dense in {run.key for run in all_runs(study.points(full()))}]  # fmt: skip
    assert {"one-time", "iterative", "retrain", "radix", "where"} <= set(sharing)


# -- dead classes ----------------------------------------------------------------------------------------------------


def test_dead_classes_are_told_from_a_bad_network() -> None:
    even, ten = (1000,) * 10, range(10)
    assert dead_classes(even, even) == ()
    assert dead_classes(tuple(1111 * (k != 3) for k in ten), even) == (3,)
    assert dead_classes(tuple(19 if k == 3 else 1109 for k in ten), even) == (3,)
    assert dead_classes(tuple(20 if k == 3 else 1109 for k in ten), even) == ()
    assert dead_classes(tuple(10_000 * (k == 1) for k in ten), even) == (0, 2, 3, 4, 5, 6, 7, 8, 9)
    assert dead_classes((500, 500), (1000, 0)) == ()  # a class without samples cannot be lost
    # As bad as a network that lost a class, and yet it answers all: 90% right everywhere.
    assert dead_classes(even, even) == ()


def test_runs_that_lost_classes_are_found_and_named() -> None:
    found = {0: outcome(0.98), 1: outcome(0.8873, lost=[4]), 2: outcome(0.78, lost=[1, 7])}
    bad = Cell(point("retrained", 90.0), found)
    good = Cell(point("retrained", 50.0), {0: outcome(0.98)})
    said = dead_runs(Results((bad, good)))
    assert said == "2 of 4 runs lost classes: a table, retrained at 90: class 4 at 88.7%, classes 1 7 at 78.0%."
    assert dead_runs(Results((good,))) == "No run of 1 lost a class."


# -- what is read from numbers ---------------------------------------------------------------------------------------


def test_means_spreads_and_what_can_be_told_apart() -> None:
    (cell, near, far) = results(
        (point("a", 1.0), (97.0, 98.0, 99.0)), (point("b", 1.0), (97.9, 98.0, 98.1)), (point("c", 1.0), (90.0, 90.1))
    ).cells  # fmt: skip
    assert (cell.mean, cell.spread) == (pytest.approx(98.0), pytest.approx(1.0))
    assert cell.error == pytest.approx(1 / 3**0.5)
    assert near.error == pytest.approx(0.14, abs=0.001)  # √(0.98·0.02/10,000): seeds that agree by chance say no more
    assert differ(cell, near) == differ(near, cell) == 0
    assert differ(cell, far) == pytest.approx(7.95) and differ(far, cell) == pytest.approx(-7.95)
    single = results((point("a", 1.0), (97.0,))).cells[0]
    assert single.spread == 0


def test_versus_speaks_in_both_directions() -> None:
    ours, theirs = (point("RadiX-Net", x) for x in (0.1, 10.0)), (point("random", x) for x in (0.1, 10.0))
    better, worse = (98.0, 98.1, 97.9), (95.0, 95.1, 94.9)
    for first, second, wanted in (
        (better, worse, "“RadiX-Net” is ahead of “random” at 0.1 (by 3.00 points)"),
        (worse, better, "“RadiX-Net” is behind “random” at 0.1 (by 3.00 points)"),
    ):
        a, b = point("RadiX-Net", 0.1), point("random", 0.1)
        assert versus(results((a, first), (b, second)), "a table", "RadiX-Net", "random") == [f"a table: {wanted}."]
    found = results(*zip(ours, (better, worse), strict=True), *zip(theirs, (worse, worse), strict=True))
    assert versus(found, "a table", "RadiX-Net", "random") == [
        "a table: “RadiX-Net” is ahead of “random” at 0.1 (by 3.00 points) and cannot be told from “random” at 10."
    ]
    assert versus(found, "a table", "RadiX-Net", "nobody") == []
    same = results((point("a", 1.0), better), (point("b", 1.0), better))
    assert versus(same, "a table", "a", "b") == ["a table: “a” and “b” cannot be told apart at 1."]


def test_course_names_the_best_the_worst_and_what_is_as_good() -> None:
    falling = results(*((point("s", x), (y, y + 0.02)) for x, y in ((0.0, 98.0), (50.0, 97.9), (99.0, 91.0))))
    assert course(falling, "a table", "s") == [
        "a table, s: best at 0 with 98.01 ± 0.01%, and 50 cannot be told from it; worst at 99 with 91.01 ± 0.01%."
    ]
    rising = results(*((point("s", x), (y, y + 0.02)) for x, y in ((0.0, 91.0), (99.0, 98.0))))
    assert "best at 99 with" in course(rising, "a table", "s")[0]
    level = results(*((point("s", x), (98.0,)) for x in (0.0, 99.0)))
    assert course(level, "a table", "s") == ["a table, s: no column can be told from the best, 98.00% at 0."]


def test_beside_the_slides_in_both_directions() -> None:
    above = results((point("s", 50.0, 97.0), (98.0,)), (point("s", 90.0, 96.0), (96.5,)))
    assert beside_slides(above) == [
        "a table, s: our mean is above the slides' number in 2 of 2 columns, by 0.50 to 1.00 points."
    ]
    mixed = results((point("s", 50.0, 97.0), (98.0,)), (point("s", 90.0, 96.5), (96.0,)), (point("t", 1.0), (50.0,)))
    assert beside_slides(mixed) == [
        "a table, s: our mean is above the slides' number in 1 of 2 columns, and not at 90 (−0.50 points)."
    ]
    equal = results((point("s", 50.0, 97.0), (97.0,)))
    assert not equal.cells[0].above_slides, "as high is not higher"
    assert beside_slides(equal) == ["a table, s: our mean is not above the slides' number at 50 (+0.00 points)."]


def test_cells_below_the_slides_are_explained_by_their_data() -> None:
    def cell(*found: Outcome) -> Cell:
        return Cell(point("s", 90.0, 97.0), dict(enumerate(found)))

    assert explained(cell(outcome(0.96), outcome(0.87, lost=[2]))).startswith("1 of 2 runs lost classes: class 2")
    assert "within two standard errors" in explained(cell(outcome(0.968)))
    assert "fits the training set (99.0%) better" in explained(cell(outcome(0.95)))
    assert "does not fit the training set either (95.1%)" in explained(cell(outcome(0.95, train_accuracy=0.951)))
    assert "was not trained again" in explained(cell(outcome(0.95, train_accuracy=None)))


@pytest.mark.parametrize(
    ("with_relu", "without", "wanted"),
    [
        ((0, 4), (), "explains plateaus"), ((0, 1, 2), (0,), "not their only cause"),
        ((), (1,), "0 of 9 runs with a ReLU on the logits lost classes, and 1 of 9 without: these"),
        ((1,), (1,), "does not explain them"), ((), (), "no plateau to explain"),
    ],
)  # fmt: skip
def test_the_verdict_on_the_logits_follows_the_runs(
    with_relu: Sequence[int], without: Sequence[int], wanted: str
) -> None:
    study = studies.STUDIES["logits-relu"]
    points = [p for p in study.points(full()) if p.table == "LeNet-300-100, MNIST" and p.x == 90]
    lost = dict(zip((p.series for p in points), (with_relu, without), strict=True))
    cells = [Cell(p, {s: outcome(0.88, lost=[3]) if s in lost[p.series] else outcome(0.98) for s in range(9)})
             for p in points]  # fmt: skip
    assert wanted in study.readings(Results(tuple(cells)))[0]


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_draws_and_reads_what_it_is_given(name: str) -> None:
    """From a table of made-up numbers, whole, with holes, and of one run."""
    study, scale = studies.STUDIES[name], full()
    points = list(study.points(scale))
    known = {p.run.seeded(seed).key: outcome(0.9 + 0.0005 * k + 0.001 * seed) for k, p in enumerate(points)
             for seed in range(3)}  # fmt: skip
    for some in (known, dict(list(known.items())[::4]), dict(list(known.items())[:1])):
        found = gather(points, range(3), Archive(some, {}))
        readings = study.readings(found)
        assert readings or len(found.cells) == 1
        assert all(line.endswith(".") and "nan" not in line for line in readings)
        for drawing in study.figures(found):
            assert drawing.figure.axes and drawing.caption


# -- the report ------------------------------------------------------------------------------------------------------


def made_up() -> Report:
    found = results(
        (point("s", 0.0, 97.0), (98.0, 98.1)), (point("s", 90.0, 96.5), (96.0, 96.2)),
        (point("t <b>", 90.0), (50.0, 60.0)),
    )  # fmt: skip
    study = replace(study_of(), name="made-up", title="Made up & more", x="x, %")
    drawings = [Drawing("made-up", "A figure.", by_sparsity(found)), Drawing("second", "Another.", by_sparsity(found))]
    section = Section(study, found, drawings, ["It is <so>."])
    return Report([section], {"a run": "it <failed>"}, 3, "python -m sparsecore.study", ["commit abc", "a machine"])


def test_the_report_says_what_the_numbers_say() -> None:
    report = made_up()
    assert [cell.point.x for cell in report.below] == [90.0]
    assert [cell.point.x for cell in report.compared] == [90.0, 0.0], "the furthest below first"
    assert len(report.outcomes) == 6
    assert report.summary() == [
        "6 runs in 18 s of one core.",
        "In 1 of 2 cells (50%) our mean is higher than the slides' number.", "No run lost classes.", "1 run failed.",
        "3 runs not made yet: this is a report of what there is.",
    ]  # fmt: skip


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    from sparsecore.study.page import write_page

    write_page(made_up(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert text.count("<svg") == 3 and not re.search(r'(src|href)="(?!#)[^"]*"', text.replace("xlink:href", "href"))
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids), "figures share a page, and must not share names"
    assert all(name in ids for name in re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', text))
    assert "t &lt;b&gt;" in text and "it &lt;failed&gt;" in text and "Made up &amp; more" in text
    assert '<span class="bad">96.10</span> <i>± 0.14</i>' in text and '<span class="good">98.05</span>' in text


def test_the_markdown_page_has_its_pictures_beside_it(tmp_path: Path) -> None:
    from sparsecore.study.markdown import write_markdown

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.png").write_bytes(b"")
    write_markdown(made_up(), tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    pictures = re.findall(r"\]\((results/[^)]+)\)", text)
    assert len(pictures) == 3 and all((tmp_path / each).stat().st_size > 1000 for each in pictures)
    assert not (tmp_path / "results" / "old.png").exists()
    assert "| s | 98.05 ± 0.07 (97) | 96.10 ± 0.14 **(96.5)** |" in text
    assert "- a table, s, 90: 96.10 ± 0.14% against 96.5. 0.40 points below" in text
    assert "- a run: it <failed>" in text


def test_the_csv_has_a_line_for_each_run(tmp_path: Path) -> None:
    assert write_csv(made_up(), tmp_path / "runs.csv") == 6
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["series"], row["x"], row["seed"], row["test_accuracy"]) for row in rows[:3]] == [
        ("s", "0", "0", "0.98"), ("s", "0", "1", "0.981"), ("s", "90", "0", "0.96")
    ]  # fmt: skip
    assert "--seed=1" in rows[1]["command"]


# -- what is kept of runs that are elsewhere -------------------------------------------------------------------------


def test_outcomes_in_a_file_are_those_that_were_written(tmp_path: Path) -> None:
    runs = [RETRAINED.seeded(seed) for seed in (0, 1, 1)]
    course = [{"event": "prune", "step": 3, "layers": [{"name": "a 1→2", "sparsity": 0.5}]}]
    outcomes = {run.key: outcome(0.9 + 0.01 * k, lost=[k]) for k, run in enumerate(runs)} | {"another": outcome(0.1)}
    write_archive(tmp_path / "all.jsonl", runs, Archive(outcomes, {runs[0].key: course}))
    read = read_archives([tmp_path / "all.jsonl"])
    assert read == ({run.key: outcomes[run.key] for run in runs}, {runs[0].key: course})
    write_archive(tmp_path / "one.jsonl", runs[:1], Archive(outcomes, {}))
    both = read_archives([tmp_path / "one.jsonl", tmp_path / "all.jsonl"])
    assert both == read, "files add up"
    assert str(runs[0]) in (tmp_path / "all.jsonl").read_text().replace('\\"', '"')


@pytest.mark.parametrize("line", ["", "{", "[]", '{"run": "a", "command": "b"}', '"text"', "\0"])
def test_a_file_that_holds_no_outcomes_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    write_archive(path, [DENSE], Archive({DENSE.key: outcome(0.9)}, {}))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"runs.jsonl, line 2: expected a run"):
        read_archives([path])
    assert main(["--from", str(path), "--dry-run"]) == 2


def test_runs_that_are_elsewhere_are_not_made_again_but_where_their_network_is_needed(tmp_path: Path) -> None:
    there = {run.key: outcome(0.9) for run in (DENSE, RETRAINED)}
    board = board_of([DENSE, RETRAINED], tmp_path, there)
    assert not board.waiting and set(board.finished) == set(there)
    board = board_of([DENSE, PRUNED, RETRAINED], tmp_path, there)
    assert set(board.waiting) == {DENSE, PRUNED} and set(board.finished) == {RETRAINED.key}
    (tmp_path / DENSE.key).mkdir()
    write(tmp_path / DENSE.key, outcome(0.9))
    assert board_of([DENSE, PRUNED, RETRAINED], tmp_path, there).waiting == [PRUNED]


def test_parts_name_their_commit_and_machine() -> None:
    runs = [DENSE.seeded(0), DENSE.seeded(1), train("lenet5", "cifar10", RECIPE)]
    found = {runs[0].key: outcome(0.9), runs[1].key: outcome(0.9),
             runs[2].key: replace(outcome(0.9), commit="def", machine="another, 8 cores")}  # fmt: skip
    assert parts([*runs, *runs], found) == [
        "mnist-subset: 2 runs, 6 s of one core, commit abc, version 0, on a machine, 2 cores",
        "cifar10: 1 run, 3 s of one core, commit def, version 0, on another, 8 cores",
    ]


def test_courses_keep_what_is_drawn(tmp_path: Path) -> None:
    layer = {"layer": 0, "name": "a", "threshold": 0.123456789, "removed": 3, "connections": 9, "sparsity": 0.25}
    lines = [{"event": "epoch", "epoch": 1, "train_loss": 2.0, "test_accuracy": 0.5}, {"event": "result"},
             {"event": "prune", "epoch": 0.5, "step": 7, "accuracy_before": 0.5, "accuracy_after": 0.25,
              "layers": [layer]}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = course_of(tmp_path)
    assert first == {"event": "epoch", "epoch": 1, "test_accuracy": 0.5}
    assert second["layers"] == [{"name": "a", "sparsity": 0.25, "threshold": 0.123457, "removed": 3}]
    assert course_of(tmp_path / "nowhere") == []


def test_a_cell_is_compared_once_however_many_studies_show_it() -> None:
    found = results((point("s", 0.0, 97.0), (98.0,)))
    assert len(against_slides([found, found])) == 1


# -- making runs -----------------------------------------------------------------------------------------------------


def study_of(*runs: Run, seeds: int = 1) -> Study:
    """A study of these runs."""
    points = [Point("digits", "runs", float(k), run) for k, run in enumerate(runs)]
    return Study("small", "Small", "Is it?", "run", "Nothing.", lambda scale: points, lambda found: [],
                 lambda found: [dead_runs(found)], seeds)  # fmt: skip


def use(monkeypatch: pytest.MonkeyPatch, study: Study) -> None:
    """Let the command know this study alone."""
    monkeypatch.setattr(studies, "STUDIES", {study.name: study})


SCRIPT = """
import sys
from tests.test_study import main, study_of, studies, long_runs
studies.STUDIES = {"small": study_of(*long_runs())}
sys.exit(main(["--quick", "--out", sys.argv[1], "--workers", "2"]))
"""


def long_runs() -> list[Run]:
    """Two that take seconds, so that they can be killed under way, and one that comes after."""
    longer = [train("lenet300", "mnist-subset", RECIPE | {"epochs": 12, "lr": lr}, dense=True) for lr in (0.1, 0.05)]
    return [*longer, prune(longer[0], sparsity="0.9")]


def begin(out: Path) -> subprocess.Popen[str]:
    """A study of `long_runs` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)], cwd=Path(__file__).parent.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_epochs(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until runs have come so far."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if sum(path.read_text().count("\n") for path in out.glob("runs/*/metrics.jsonl")) >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the runs did not begin")


class Quick(NamedTuple):
    """`--quick` as a user runs it: stopped by a signal on its way, then to its end; what it said, and what it took.

    `seconds` are those of two cores that do nothing else: half of what all processes had of one.
    """

    out: Path
    refused: str
    stopped: tuple[int, str, str]
    finished: tuple[int, str, str]
    seconds: float


@pytest.fixture(scope="module")
def quickly(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    out, begun = tmp_path_factory.mktemp("quick") / "out", os.times()
    command = [sys.executable, "-m", "sparsecore.study", "--quick", "--workers", "2", "--out", str(out)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
    while len(list(out.glob("runs/*/outcome.json"))) < 6 and process.poll() is None:
        time.sleep(0.02)
    refused = subprocess.run([*command, "where"], **pipes).stderr
    process.terminate()
    said = process.communicate(timeout=120)
    again = subprocess.run(command, **pipes)
    ended = os.times()
    seconds = (ended.children_user - begun.children_user + ended.children_system - begun.children_system) / 2
    return Quick(out, refused, (process.returncode, *said), (again.returncode, again.stdout, again.stderr), seconds)


def test_quick_runs_take_less_than_three_minutes(quickly: Quick) -> None:
    status, out, error = quickly.finished
    assert (status, error) == (0, "")
    assert quickly.seconds < 180
    for name in ("report.html", "results.md", "runs.csv", "runs.jsonl"):
        assert str(quickly.out / name) in out and (quickly.out / name).stat().st_size > 5000


def test_a_signal_stops_it_in_order_and_nothing_is_lost(quickly: Quick) -> None:
    status, out, error = quickly.stopped
    assert status == 143 and error.count("\n") == 1 and "stopped; about" in error
    assert "results.md" in out, "what there is is reported"
    made = int(re.search(r"^(\d+) runs made in", out, re.MULTILINE)[1])  # type: ignore[index]
    left, there = map(int, re.search(r"^(\d+) runs to make, (\d+) more are there", quickly.finished[1]).groups())  # type: ignore[union-attr]
    assert made == there >= 6 and left + there == len(list(quickly.out.glob("runs/*")))


def test_two_studies_do_not_work_in_one_folder(quickly: Quick) -> None:
    assert "another study is at work there" in quickly.refused and quickly.refused.count("\n") == 1


def test_quick_runs_learn_and_none_but_the_slides_own_lose_classes(quickly: Quick) -> None:
    net = quick().nets[0]
    found = read_archives([quickly.out / "runs.jsonl"]).outcomes
    assert len(found) == len({run.key for study in studies.STUDIES.values() for point in study.points(quick())
                              for seed in range(study.seeds) for run in (*point.run.seeded(seed).sources(),
                                                                         point.run.seeded(seed))})  # fmt: skip
    runs = [net.dense(), net.one_time(90), net.retrained(net.one_time(90)), net.iterative(90), net.radix((10, 10))]
    dense, pruned, retrained, iterative, radix = (found[run.seeded(0).key] for run in runs)
    assert all(each.accuracy > 0.92 and sum(each.support) == sum(each.answers) == 2000
               for each in (dense, retrained, iterative, radix))  # fmt: skip
    assert pruned.connections == retrained.connections == iterative.connections == radix.connections == 27_520
    assert pruned.train_accuracy is None and pruned.accuracy < retrained.accuracy
    with (quickly.out / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["study"] for row in rows} == set(studies.STUDIES)
    lost = {row["command"] for row in rows if row["dead_classes"]}
    assert all("--relu-logits" in each or "sparsecore.prune" in each for each in lost)


def test_runs_are_made_once_and_reported_from_their_file_elsewhere(
    quickly: Quick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (quickly.out / "runs").rglob("*")}
    here = ["where", "--quick", "--out", str(quickly.out)]
    assert main([*here, "--dry-run"]) == 0
    there = ["where", "--quick", "--out", str(tmp_path / "other"), "--from", str(quickly.out / "runs.jsonl")]
    for command in (here, there):
        assert main(command) == 0
        assert "0 runs to make, 6 more are there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (quickly.out / "runs").rglob("*")} == before
    assert not list((tmp_path / "other" / "runs").iterdir())
    for name in ("runs.csv", "runs.jsonl", "results/where.png"):
        assert (tmp_path / "other" / name).read_bytes() == (quickly.out / name).read_bytes()


def test_a_failure_is_named_and_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = train("lenet300", "mnist-subset", RECIPE | {"lr": 1e30}, dense=True)
    use(monkeypatch, study_of(wild, prune(prune(wild, sparsity="0.9"), sparsity="0.95"), DENSE))
    assert main(["--quick", "--out", str(tmp_path), "--workers", "1"]) == 1
    out, error = capsys.readouterr()
    lines = error.splitlines()
    assert len(lines) == 3 and "Traceback" not in error
    assert f"digits, runs, 0, seed 0 ({tmp_path / 'runs' / wild.seeded(0).key})" in lines[0] and "diverged" in lines[0]
    assert all("its source failed" in line for line in lines[1:])
    assert "FAILED" in out and "diverged" in (tmp_path / "results.md").read_text()
    assert read_outcome(tmp_path / "runs" / DENSE.seeded(0).key) is not None


def test_killed_at_any_time_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert begin(whole).wait(120) == 0
    out = tmp_path / "killed"
    for epochs in (3, 9):
        process = begin(out)
        wait_for_epochs(out, epochs, process)
        os.kill(process.pid, signal.SIGKILL)  # the study alone: its workers notice, save and leave
        process.communicate()
        with (out / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the last worker has saved
    process = begin(out)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    for run in long_runs():
        key = run.seeded(0).key
        there, wanted = read_outcome(out / "runs" / key), read_outcome(whole / "runs" / key)
        assert there is not None and wanted is not None
        assert (there.accuracy, there.answers) == (wanted.accuracy, wanted.answers)
        models = [(place / "runs" / key / "model.safetensors") for place in (out, whole)]
        assert weights(models[0]) == weights(models[1])


def weights(path: Path) -> bytes:
    from sparsecore.checkpoint import read

    return bytes(read(path).network.params.tobytes())


def test_a_worker_that_is_killed_fails_its_run_alone(tmp_path: Path) -> None:
    process = begin(tmp_path)
    wait_for_epochs(tmp_path, 3, process)
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    if listed.returncode:
        process.terminate()
        process.communicate()
        pytest.skip("ps cannot list a process's children here")
    worker = next(int(line.split()[0]) for line in listed.stdout.splitlines() if "sparsecore.study.worker" in line)
    os.kill(worker, signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "its process was ended by signal 9" in error
    assert begin(tmp_path).wait(120) == 0, "the same command makes it good"


def test_an_outcome_that_is_not_whole_counts_as_none(tmp_path: Path) -> None:
    write(tmp_path, outcome(0.97))
    assert read_outcome(tmp_path) == outcome(0.97)
    whole = (tmp_path / "outcome.json").read_text()
    for broken in (whole[:50], "", "[]", json.dumps({"accuracy": 1})):
        (tmp_path / "outcome.json").write_text(broken)
        assert read_outcome(tmp_path) is None


def test_sources_come_first_and_long_chains_early(tmp_path: Path) -> None:
    board = board_of([run.seeded(0) for run in (RETRAINED, DENSE, PRUNED)], tmp_path)
    assert len(board.waiting) == 3
    first = board.ready()
    assert first == DENSE.seeded(0) and board.ready() is None
    board.finished[first.key] = outcome(0.9)
    assert board.ready() == PRUNED.seeded(0) and board.ready() is None
    lengths = [seconds_of(each) for each in sorted(board.waiting, key=seconds_of)]
    assert all(a <= b for a, b in pairwise(lengths))


@pytest.mark.parametrize("arguments", [["bogus"], ["--quick", "--dataset", "mnist"], ["--seeds", "0"]])
def test_commands_that_cannot_be_followed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error


def test_a_missing_data_set_is_said_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSECORE_DATA_DIR", str(tmp_path / "empty"))
    assert main(["--dataset", "cifar10", "--out", str(tmp_path / "out")]) == 2
    assert "python -m sparsecore.data fetch cifar10" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_replaced_is_not_the_same_run() -> None:
    assert replace(LENET300, recipe=dict(LENET300.recipe) | {"epochs": 1}).dense().key != LENET300.dense().key
