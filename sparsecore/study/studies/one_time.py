"""One-time pruning without more training: how much of a trained network is not needed as it is?"""

from __future__ import annotations

from ..making.scale import Scale
from ..reporting.figures import Drawing, by_sparsity
from ..reporting.readings import beside_slides, course
from ..reporting.results import Point, Results
from ..reporting.slides import SPARSITY
from ..reporting.study import Study

REMOVED = (50.0, 75.0, 90.0, 95.0, 99.0)
QUICK = (90.0, 99.0)


def points(scale: Scale) -> list[Point]:
    theirs, found = SPARSITY["L300 one-time, no retraining"], []
    for net in scale.choose("L300", "L5"):
        slides = theirs if net.name == "L300" else {}
        found.append(Point(net.title, "one-time, no retraining", 0.0, net.dense(), slides.get(0)))
        for removed in scale.some(REMOVED, QUICK):
            run = net.one_time(removed)
            found.append(Point(net.title, "one-time, no retraining", removed, run, slides.get(removed)))
    return found


def figures(results: Results) -> list[Drawing]:
    return [Drawing("one-time", "Accuracy after one-time pruning, without more training.", by_sparsity(results))]


def readings(results: Results) -> list[str]:
    return beside_slides(results) + [
        line for table in results.tables for line in course(results, table, "one-time, no retraining")
    ]


STUDY = Study(
    "one-time", "One-time pruning", "How much of a trained dense network can go at once, without any more training?",
    "connections removed, %",
    "As in the slides, the smallest weights go. Here the same fraction of each sparse layer goes; the last layer, and "
    "LeNet-5's first, stay dense.",
    points, figures, readings,
)  # fmt: skip
