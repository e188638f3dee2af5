"""Wider and deeper networks at a fixed number of connections: what is a connection worth, and where?"""

from __future__ import annotations

from itertools import pairwise

from ..making.run import Run
from ..making.scale import Net, Scale
from ..reporting.figures import Drawing, by_factor
from ..reporting.readings import course, dead_runs, versus
from ..reporting.results import Point, Results
from ..reporting.study import Study

CONNECTIONS = 27_520
"""Those of LeNet-300-100 at 90%, its head included."""
WIDTHS = (1.0, 2.0, 4.0)
QUICK = (1.0, 4.0)
DEPTHS = (2, 3, 4)


def points(scale: Scale) -> list[Point]:
    return [
        Point(f"{net.title}, {CONNECTIONS:,} connections", f"{depth} hidden layers", width, _run(net, width, depth))
        for net in scale.choose("L300")
        for depth in DEPTHS
        for width in scale.some(WIDTHS, QUICK)
    ]


def _run(net: Net, width: float, depth: int) -> Run:
    """Hidden layers of 300·width neurons, the last of 100·width; random, with all connections that the head leaves."""
    hidden = [round(300 * width)] * (depth - 1) + [round(100 * width)]
    possible = sum(a * b for a, b in pairwise([784, *hidden]))
    kept = (CONNECTIONS - 10 * hidden[-1]) / possible
    return net.train(random=True, sparsity=round(1 - kept, 8), hidden=",".join(map(str, hidden)))


def figures(results: Results) -> list[Drawing]:
    caption = f"Networks of {CONNECTIONS:,} connections, wired at random."
    return [Drawing("larger", caption, by_factor(results, "width of the hidden layers, 1 = 300 and 100"))]


def readings(results: Results) -> list[str]:
    found = []
    for table in results.tables:
        for series in results.series(table):
            found += course(results, table, series)
        shallow, *deeper = results.series(table)
        for series in deeper:
            found += versus(results, table, series, shallow)
    return [*found, dead_runs(results)]


STUDY = Study(
    "larger", "Larger networks, as many connections",
    "With a fixed number of connections, is it better to be wide, or deep, or neither?",
    "width of the hidden layers",
    "The slides' open question. The dense last layer counts: what it takes, the sparse layers do without.",
    points, figures, readings,
)  # fmt: skip
