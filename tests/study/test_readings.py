"""What the study says and draws from numbers that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sparsecore.study import studies
from sparsecore.study.making.archive import Archive
from sparsecore.study.making.outcome import Outcome
from sparsecore.study.making.scale import full
from sparsecore.study.reporting.readings import beside_slides, course, dead_runs, explained, versus
from sparsecore.study.reporting.results import Cell, Results, differ, gather
from sparsecore.training.lost import lost_classes
from tests.study.given import outcome, point, results

pytest.importorskip("matplotlib")


def test_dead_classes_are_told_from_a_bad_network() -> None:
    even, ten = (1000,) * 10, range(10)
    assert lost_classes(even, even) == ()
    assert lost_classes(tuple(1111 * (k != 3) for k in ten), even) == (3,)
    assert lost_classes(tuple(19 if k == 3 else 1109 for k in ten), even) == (3,)
    assert lost_classes(tuple(20 if k == 3 else 1109 for k in ten), even) == ()
    assert lost_classes(tuple(10_000 * (k == 1) for k in ten), even) == (0, 2, 3, 4, 5, 6, 7, 8, 9)
    assert lost_classes((500, 500), (1000, 0)) == ()  # a class without samples cannot be lost
    # As bad as a network that lost a class, and yet it answers all: 90% right everywhere.
    assert lost_classes(even, even) == ()


def test_runs_that_lost_classes_are_found_and_named() -> None:
    found = {0: outcome(0.98), 1: outcome(0.8873, lost=[4]), 2: outcome(0.78, lost=[1, 7])}
    bad = Cell(point("retrained", 90.0), found)
    good = Cell(point("retrained", 50.0), {0: outcome(0.98)})
    said = dead_runs(Results((bad, good)))
    assert said == "2 of 4 runs lost classes: a table, retrained at 90: class 4 at 88.7%, classes 1 7 at 78.0%."
    assert dead_runs(Results((good,))) == "No run of 1 lost a class."


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


def test_the_study_of_deep_networks_compares_times_where_they_are_known() -> None:
    rows = [(point(name, x), (90.0,)) for name, x in (("dense", 0.0), ("static, ERK", 90.0), ("static, ERK", 95.0))]
    cells = list(results(*rows).cells)
    cells[1] = Cell(cells[1].point, {0: replace(outcome(0.9), train_seconds=0.0)})
    said = studies.STUDIES["deep"].readings(Results(tuple(cells)))
    assert "a table: the dense network trained so many times as long as others: static, ERK 95% 1.0." in said


def test_the_study_of_moving_says_from_where_on_a_series_is_behind() -> None:
    found = results(
        (point("dense", 0.0), (98.5, 98.6)), (point("static, random", 90.0), (98.5, 98.6)),
        (point("static, random", 98.0), (96.0, 96.1)), (point("RigL", 90.0), (98.6, 98.7)),
        (point("RigL", 98.0), (98.4, 98.5)), (point("SET", 98.0), (97.0, 97.1)),
    )  # fmt: skip
    said = studies.STUDIES["dynamic"].readings(found)
    assert "a table: “RigL” is ahead of “SET” at 98 (by 1.40 points)." in said
    assert "a table: static, random behind the dense network from 98% on; RigL nowhere behind the dense network; SET " \
           "behind the dense network from 98% on." in said  # fmt: skip
    assert any(line.startswith("a table: training took, at 98%, dense 1.5 s, ") for line in said)


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
