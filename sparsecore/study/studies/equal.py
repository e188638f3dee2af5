"""A deep network made wider at a fixed number of connections: are many weak ties better than few strong ones?"""

from __future__ import annotations

from math import prod

from sparsecore.models.catalogue import MODELS

from ..making.run import Run
from ..making.scale import Net, Scale
from ..reporting.figures import Drawing, by_factor
from ..reporting.readings import course, dead_runs
from ..reporting.results import Point, Results
from ..reporting.study import Study

WIDTHS, QUICK = (1.0, 2.0, 3.0), (1.0, 2.0)
EPOCHS = 40
"""Of all runs; a dense network that trains about as long as the widest has twice as many."""
WIDER, DENSE_LONGER = "as many connections", "dense, for as many hours"


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.deep:
        title = f"{net.title}, {_connections(net, 1.0, 1.0):,} connections"
        epochs = int(net.recipe["epochs"]) if scale.quick else EPOCHS
        for width in scale.some(WIDTHS, QUICK):
            found.append(Point(title, WIDER, width, _run(net, width, epochs)))
        found.append(Point(title, DENSE_LONGER, 1.0, net.dense(epochs=2 * epochs)))
    return found


def _run(net: Net, width: float, epochs: int) -> Run:
    """A network wider by a factor, with all connections that its dense first and last layer leave to the others."""
    if width == 1:
        return net.dense(epochs=epochs)
    base = float(net.recipe.get("width", 1.0))
    return net.train(random=True, sparsity=sparsity_at(net, width), width=base * width, epochs=epochs)


def sparsity_at(net: Net, width: float) -> float:
    """Of the sparse layers of a network wider by a factor, so that it has as many connections as the dense one."""
    goal, dense, possible = _connections(net, 1.0, 1.0), _connections(net, width, 0.0), _connections(net, width, 1.0)
    return round(1 - (goal - dense) / (possible - dense), 6)


def _connections(net: Net, width: float, kept: float) -> int:
    """Connections of a network that keeps a fraction of those of its sparse layers."""
    shape = (3, 32, 32) if net.dataset == "cifar10" else (1, 28, 28)
    width *= float(net.recipe.get("width", 1.0))
    links = MODELS[net.model].links(shape, classes=10, every=True, width=width)
    first, *sparse, last = (link.inputs * link.outputs * prod(link.kernel_size) for link in links)
    return round(first + last + kept * sum(sparse))


def figures(results: Results) -> list[Drawing]:
    caption = "ResNet-20 made wider, with as many connections."
    return [Drawing("equal", caption, by_factor(results, "width, 1 = the paper\'s channels"))]


def readings(results: Results) -> list[str]:
    found = []
    for table in results.tables:
        found += course(results, table, WIDER)
        longer, wider = results.row(table, DENSE_LONGER), results.row(table, WIDER)
        if longer and wider:
            widest = max(wider, key=lambda cell: float(cell.point.x))
            found.append(
                f"{table}: {widest.point.column} times as wide {widest.mean:.2f}% in {widest.seconds / 3600:.1f} h, "
                f"dense {longer[0].mean:.2f}% in {longer[0].seconds / 3600:.1f} h."
            )
    return [*found, dead_runs(results)]


STUDY = Study(
    "equal-connections", "Wider, as many connections",
    "With as many connections as a dense ResNet-20, is a wider network that is sparse from birth better?",
    "width",
    "Not in the slides. First and last layer are dense; what they take, the sparse layers do without. The dense "
    "network that trains about as many hours as the widest has twice the epochs of all others.",
    points, figures, readings, unasked=2,
)  # fmt: skip
