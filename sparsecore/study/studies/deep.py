"""A deep network on CIFAR-10: which way of being sparse costs least?"""

from __future__ import annotations

from typing import Any

from ..making.run import Run
from ..making.scale import Net, Scale, fraction
from ..reporting.figures import Drawing, by_sparsity
from ..reporting.readings import dead_runs, versus
from ..reporting.results import Cell, Point, Results
from ..reporting.study import Study

DENSE, UNIFORM, ERK, ROWS, RADIX, PRUNED = (
    "dense", "static, uniform", "static, ERK", "static, rows in fours", "RadiX layers", "pruned"
)  # fmt: skip
WIRINGS: dict[str, dict[str, Any]] = {
    UNIFORM: {}, ERK: {"distribution": "erk"}, ROWS: {"granularity": "rows:4"},
}  # fmt: skip
REMOVED, QUICK = (90.0, 95.0), (90.0,)
RADICES, RADIX_REMOVED = "2,2,2,2*4/2,2", 87.5
"""Each channel of a block's convolution reads two of every sixteen."""
QUICK_RADICES, QUICK_RADIX_REMOVED = "2,2*9", 50.0


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.deep:
        found.append(Point(net.title, DENSE, 0.0, net.dense()))
        radices, removed = (QUICK_RADICES, QUICK_RADIX_REMOVED) if scale.quick else (RADICES, RADIX_REMOVED)
        found.append(Point(net.title, RADIX, removed, net.train(radix=radices)))
        for removed in scale.some(REMOVED, QUICK):
            found += [Point(net.title, name, removed, _static(net, name, removed)) for name in WIRINGS]
            found.append(Point(net.title, PRUNED, removed, net.iterative(removed)))
    return found


def _static(net: Net, name: str, removed: float) -> Run:
    return net.train(random=True, sparsity=fraction(removed), **WIRINGS[name])


def figures(results: Results) -> list[Drawing]:
    caption = "Networks that are sparse from birth in several ways, pruned while they train, and dense."
    return [Drawing("deep", caption, by_sparsity(results, (DENSE, *WIRINGS, RADIX, PRUNED)))]


def readings(results: Results) -> list[str]:
    found = []
    for table in results.tables:
        for one, other in ((ERK, UNIFORM), (ROWS, UNIFORM), (PRUNED, ERK)):
            found += versus(results, table, one, other)
        found += _times(results, table)
    return [*found, dead_runs(results)]


def _times(results: Results, table: str) -> list[str]:
    """How long runs took beside the dense one."""
    dense = results.row(table, DENSE)
    if not dense:
        return []
    cells = [cell for cell in results.cells if cell.point.table == table]
    others = [cell for cell in cells if cell.point.series != DENSE and cell.seconds]
    said = ", ".join(f"{each.point.series} {each.point.column}% {dense[0].seconds / each.seconds:.1f}"
                     for each in sorted(others, key=_seconds))  # fmt: skip
    return [f"{table}: the dense network trained so many times as long as others: {said}."] if others else []


def _seconds(cell: Cell) -> float:
    return cell.seconds


STUDY = Study(
    "deep", "A deep network", "On a deep network, which way of being sparse costs least?",
    "connections removed, %",
    "Not in the slides, which asked for larger networks and for strategies for convolutions. ResNet-20 with its first "
    "and last layer dense. “ERK” gives small layers more of the connections; “rows in fours” lets four neighbouring "
    "channels read the same; the RadiX layers connect whole filters, and keep what their radices say. “Pruned” starts "
    "dense, as in the study iterative. One seed shows no spread.",
    points, figures, readings, unasked=1,
)  # fmt: skip
