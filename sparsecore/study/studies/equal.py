"""A deep network made wider at a fixed number of connections: are many weak ties better than few strong ones?"""

from __future__ import annotations

from math import prod
from typing import Any

from sparsecore.models.catalogue import MODELS

from ..making.run import Run
from ..making.scale import Net, Scale
from ..reporting.figures import Drawing, by_factor
from ..reporting.readings import course, dead_runs
from ..reporting.results import Point, Results
from ..reporting.study import Study

WIDTHS, QUICK = (1.0, 2.0, 3.0), (1.0, 2.0)
EPOCHS = 40
"""Of all runs, but of two that train for as many hours as each other: a dense network, and the widest whose connections
move and whose activations are in bfloat16, which takes 1.4 times as long a step (`python -m bench.wider`)."""
DENSE_EPOCHS, MOVED_EPOCHS = 80, 56
WIDER, DENSE_LONGER, MOVED = "as many connections", "dense, for as many hours", "moved, for as many hours"
MOVING: dict[str, Any] = {"rewire": "rigl", "every": 100, "fraction": 0.3, "until": 0.75, "grow": 4.0}
"""As in the study `dynamic`."""
DECAY = 1e-3
"""Of the two that are compared for as many hours: chosen for both on held-out images (docs/study.md)."""


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.deep:
        title = f"{net.title}, {_connections(net, 1.0, 1.0):,} connections"
        epochs = int(net.recipe["epochs"]) if scale.quick else EPOCHS
        for width in scale.some(WIDTHS, QUICK):
            found.append(Point(title, WIDER, width, _run(net, width, epochs)))
        longer = [2 * epochs] * 2 if scale.quick else [DENSE_EPOCHS, MOVED_EPOCHS]
        found.append(Point(title, DENSE_LONGER, 1.0, net.dense(epochs=longer[0], weight_decay=DECAY)))
        moved = _run(net, width, longer[1], **MOVING, weight_decay=DECAY, activations="bfloat16")
        found.append(Point(title, MOVED, width, moved))
    return found


def _run(net: Net, width: float, epochs: int, **options: Any) -> Run:
    """A network wider by a factor, with all connections that its dense first and last layer leave to the others."""
    if width == 1:
        return net.dense(epochs=epochs)
    base = float(net.recipe.get("width", 1.0))
    return net.train(random=True, sparsity=sparsity_at(net, width), width=base * width, epochs=epochs, **options)


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
        longer, moved = results.row(table, DENSE_LONGER), results.row(table, MOVED)
        if longer and moved:
            found.append(
                f"{table}: {moved[0].point.column} times as wide, its connections moving, {moved[0].mean:.2f}% in "
                f"{moved[0].seconds / 3600:.1f} h, dense {longer[0].mean:.2f}% in {longer[0].seconds / 3600:.1f} h."
            )
    return [*found, dead_runs(results)]


STUDY = Study(
    "equal-connections", "Wider, as many connections",
    "With as many connections as a dense ResNet-20, is a wider network that is sparse from birth better?",
    "width",
    "Not in the slides. First and last layer are dense; what they take, the sparse layers do without. Two more train "
    "for as many hours as each other: the dense network, and the widest by RigL with activations in bfloat16. Both "
    "decay by 0.001, twice as much as the others: chosen on held-out images, on which both were better with it.",
    points, figures, readings, unasked=2,
)  # fmt: skip
