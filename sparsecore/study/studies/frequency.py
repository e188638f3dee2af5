"""Pruning more often: the slides pruned every 200 steps, and asked what more often would do."""

from __future__ import annotations

from ..making.scale import Scale
from ..reporting.figures import Drawing, by_factor
from ..reporting.readings import course
from ..reporting.results import Point, Results
from ..reporting.study import Study

REMOVED = {"L300": (90.0, 99.0), "L5": (99.0,)}
QUICK = {"L300": (90.0,), "L5": ()}
STEPS = {"L300": (20, 200, 1000, 4000), "L5": (50, 200)}


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.choose("L300", "L5"):
        strides = [every for steps in STEPS[net.name] if (every := round(steps * net.every / 200)) > 1]
        for removed in scale.some(REMOVED[net.name], QUICK[net.name]):
            for every in strides:
                found.append(Point(net.title, f"to {removed:g}%", float(every), net.iterative(removed, every)))
    return found


def figures(results: Results) -> list[Drawing]:
    figure = by_factor(results, "steps between two prunings")
    return [Drawing("frequency", "Accuracy by how often a run prunes on its way to the same sparsity.", figure)]


def readings(results: Results) -> list[str]:
    return [line for table in results.tables for series in results.series(table)
            for line in course(results, table, series)]  # fmt: skip


STUDY = Study(
    "frequency", "Pruning more often", "Is it better to prune a little and often, or more and seldom?",
    "steps between two prunings",
    "All else as in the study iterative, where 200 steps lie between two prunings, as in the slides.",
    points, figures, readings,
)  # fmt: skip
