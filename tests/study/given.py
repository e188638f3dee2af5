"""Runs, outcomes and results that are made up, for the tests of the study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sparsecore.study.making.outcome import Outcome
from sparsecore.study.making.run import Run, prune, train
from sparsecore.study.reporting.figures import Drawing, by_sparsity
from sparsecore.study.reporting.readings import dead_runs
from sparsecore.study.reporting.report import Report, Section
from sparsecore.study.reporting.results import Cell, Point, Results
from sparsecore.study.reporting.study import Study

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
    return Point("a table", series, x, train("lenet300", "mnist", RECIPE, data_dir=f"{series} {x}"), slides)


def results(*rows: tuple[Point, Iterable[float]]) -> Results:
    """Cells with these accuracies in percent, one a seed."""
    cells = [
        Cell(each, {seed: outcome(a / 100) for seed, a in enumerate(accuracies)}) for each, accuracies in rows
    ]  # fmt: skip
    return Results(tuple(cells))


def all_runs(points: Iterable[Point]) -> list[Run]:
    runs = (each.run.seeded(seed) for each in points for seed in (0, 1))
    return [each for run in runs for each in (*run.sources(), run)]


def study_of(*runs: Run, seeds: int = 1) -> Study:
    """A study of these runs."""
    points = [Point("digits", "runs", float(k), run) for k, run in enumerate(runs)]
    return Study("small", "Small", "Is it?", "run", "Nothing.", lambda scale: points, lambda found: [],
                 lambda found: [dead_runs(found)], seeds)  # fmt: skip


def made_up() -> Report:
    """A report of one study, with two figures."""
    found = results(
        (point("s", 0.0, 97.0), (98.0, 98.1)), (point("s", 90.0, 96.5), (96.0, 96.2)),
        (point("t <b>", 90.0), (50.0, 60.0)),
    )  # fmt: skip
    study = replace(study_of(), name="made-up", title="Made up & more", x="x, %")
    drawings = [Drawing("made-up", "A figure.", by_sparsity(found)), Drawing("second", "Another.", by_sparsity(found))]
    section = Section(study, found, drawings, ["It is <so>."])
    return Report([section], {"a run": "it <failed>"}, 3, "python -m sparsecore.study", ["commit abc", "a machine"])
