"""Training anew on the structure that pruning left: is the structure worth anything without its weights?"""

from __future__ import annotations

from ..making.scale import Net, Scale
from ..reporting.figures import Drawing, by_sparsity
from ..reporting.readings import beside_slides, dead_runs, versus
from ..reporting.results import Point, Results
from ..reporting.slides import SPARSITY
from ..reporting.study import Study

REMOVED = (50.0, 75.0, 90.0, 95.0, 99.0)
QUICK = (90.0, 99.0)


def points(scale: Scale) -> list[Point]:
    return [point for net in scale.choose("L300", "L5")
            for point in _of(net, scale.some(REMOVED, QUICK))]  # fmt: skip


def _of(net: Net, columns: tuple[float, ...]) -> list[Point]:
    found = []
    if 0 in (theirs := SPARSITY[f"{net.name} one-time, retrained"]):
        found.append(Point(net.title, "one-time, retrained", 0.0, net.dense(), theirs[0]))
    for removed in columns:
        for way, structure in ("one-time", net.one_time(removed)), ("iterative", net.iterative(removed)):
            slides = SPARSITY[f"{net.name} {way}, retrained"].get(removed)
            found.append(Point(net.title, f"{way}, retrained", removed, net.retrained(structure), slides))
            if net.name == "L300":
                run = net.retrained(structure, "fresh")
                found.append(Point(net.title, f"{way}, fresh values", removed, run))
        found.append(Point(net.title, "iterative, not retrained", removed, net.iterative(removed)))
    return found


def figures(results: Results) -> list[Drawing]:
    caption = "Accuracy of networks trained on the structure that pruning left."
    return [Drawing("retrain", caption, by_sparsity(results))]


def readings(results: Results) -> list[str]:
    found = [*beside_slides(results), dead_runs(results)]
    for table in results.tables:
        found += versus(results, table, "iterative, retrained", "one-time, retrained")
        found += versus(results, table, "iterative, retrained", "iterative, not retrained")
        found += versus(results, table, "one-time, retrained", "one-time, fresh values")
    return found


STUDY = Study(
    "retrain", "Training on the pruned structure",
    "Is the structure that pruning finds enough, when its connections get the values of the beginning again?",
    "connections removed, %",
    "Structures are those of the studies one-time and iterative. The slides do not say which values retraining began "
    "with: “retrained” takes those that the connections had before any training, “fresh values” draws new ones.",
    points, figures, readings,
)  # fmt: skip
