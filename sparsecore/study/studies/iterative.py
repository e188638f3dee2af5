"""Pruning while training: threshold, layer sparsity and accuracy over time, and what is left of the accuracy."""

from __future__ import annotations

from ..making.scale import Scale
from ..reporting.figures import Drawing, by_sparsity, over_time
from ..reporting.readings import beside_slides, course
from ..reporting.results import Point, Results
from ..reporting.slides import SPARSITY
from ..reporting.study import Study

REMOVED = (50.0, 75.0, 90.0, 95.0, 99.0)
QUICK = (90.0, 99.0)
CIFAR = (50.0, 75.0, 90.0)


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.lenets:
        slides = SPARSITY[f"{net.name} iterative"]
        found.append(Point(net.title, "iterative", 0.0, net.dense(), slides.get(0)))
        for removed in CIFAR if net.name == "L5 CIFAR-10" else scale.some(REMOVED, QUICK):
            found.append(Point(net.title, "iterative", removed, net.iterative(removed), slides.get(removed)))
    return found


def figures(results: Results) -> list[Drawing]:
    drawn = [Drawing("iterative", "Accuracy of networks pruned while they train.", by_sparsity(results))]
    for number, table in enumerate(results.tables):
        runs = [
            (f"{cell.point.x:g}%", cell.point.run)
            for cell in results.row(table, "iterative") if cell.point.run.options.get("prune")
        ]  # fmt: skip
        if runs:
            caption = f"{table}: pruning over time (the first seed)."
            drawn.append(Drawing(f"iterative-time-{number + 1}", caption, over_time(results, runs)))
    return drawn


def readings(results: Results) -> list[str]:
    return beside_slides(results) + [line for table in results.tables for line in course(results, table, "iterative")]


STUDY = Study(
    "iterative", "Iterative pruning", "How sparse can a network become while it trains?",
    "connections removed, %",
    "As in the slides, pruned every 200 steps along the cubic curve, by magnitude, layer by layer. Where the slides do "
    "not say, pruning goes from a twentieth of the run to its half. The recipe (momentum, cosine, fewer epochs) is "
    "this engine's, and on CIFAR-10 whole images with a border of a pixel stand for the slides' crops of 24×24.",
    points, figures, readings, over_time=True,
)  # fmt: skip
