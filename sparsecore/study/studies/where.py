"""Which layers may be sparse? Each alone, those that usually are, and all, pruned while they train."""

from __future__ import annotations

from collections.abc import Sequence

from ..making.run import Run
from ..making.scale import LeNet, Scale, fraction
from ..reporting.figures import COLOURS, Drawing, accuracy_axis, legend, panels
from ..reporting.readings import dead_runs
from ..reporting.results import Cell, Point, Results, differ
from ..reporting.study import Study

LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "L300": {"first": (1, 0, 0), "second": (0, 1, 0), "last": (0, 0, 1), "first and second": (1, 1, 0),
             "all": (1, 1, 1)},
    "L5": {"first convolution": (1, 0, 0, 0), "second convolution": (0, 1, 0, 0), "first fully connected": (0, 0, 1, 0),
           "last": (0, 0, 0, 1), "the two in the middle": (0, 1, 1, 0), "all": (1, 1, 1, 1)},
}  # fmt: skip
REMOVED = {"L300": (90.0, 99.0), "L5": (95.0,)}
QUICK = {"L300": (90.0,), "L5": ()}
NONE = "none"


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.choose("L300", "L5"):
        for removed in scale.some(REMOVED[net.name], QUICK[net.name]):
            found.append(Point(net.title, NONE, removed, net.dense()))
            for series, chosen in LAYERS[net.name].items():
                found.append(Point(net.title, series, removed, _run(net, removed, chosen)))
    return found


def _run(net: LeNet, removed: float, chosen: tuple[int, ...]) -> Run:
    """Pruned in these layers; in those that are sparse elsewhere, it is the run of the study iterative."""
    if [k for k, each in enumerate(chosen) if each] == [net.first, net.first + 1]:
        return net.iterative(removed)
    return net.iterative(removed, prune_to=",".join(fraction(removed) if each else "0" for each in chosen))


def figures(results: Results) -> list[Drawing]:
    figure, all_axes = panels(len(results.tables), width=5.4)
    colours = dict(zip(dict.fromkeys(cell.point.x for cell in results.cells), COLOURS, strict=False))
    for axes, table in zip(all_axes, results.tables, strict=True):
        names = results.series(table)
        columns = list(dict.fromkeys(cell.point.x for cell in results.cells if cell.point.table == table))
        for x in columns:
            colour = colours[x]
            cells = [cell for cell in results.cells if (cell.point.table, cell.point.x) == (table, x)]
            shift = 0.25 * (columns.index(x) - (len(columns) - 1) / 2)
            for cell in cells:
                at = names.index(cell.point.series) + shift
                errors = [100 - each for each in cell.percents]
                axes.plot([at] * len(errors), errors, ".", color=colour, alpha=0.5, markersize=4)
                axes.plot([at - 0.1, at + 0.1], [100 - cell.mean] * 2, color=colour, linewidth=2.4)
            axes.plot([], [], color=colour, linewidth=2.4, label=f"{x:g}% removed")
        accuracy_axis(axes, [cell for cell in results.cells if cell.point.table == table])
        axes.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=8)
        axes.set(title=table)
    legend(figure)
    return [Drawing("where", "Accuracy when only these layers become sparse.", figure)]


def readings(results: Results) -> list[str]:
    found = []
    for table in results.tables:
        for x in dict.fromkeys(cell.point.x for cell in results.row(table, NONE)):
            row = {cell.point.series: cell for cell in results.cells if cell.point[0] == table and cell.point.x == x}
            dense = row.pop(NONE)
            if row:
                found.append(_cost(table, x, dense, list(row.values())))
    return [*found, dead_runs(results)]


def _cost(table: str, x: float | str, dense: Cell, others: Sequence[Cell]) -> str:
    free = [cell.point.series for cell in others if differ(dense, cell) <= 0]
    costs = sorted((cell for cell in others if differ(dense, cell) > 0), key=lambda cell: cell.mean)
    parts = [f"{cell.point.series} ({dense.mean - cell.mean:.2f})" for cell in costs]
    said = f"costs most to fewest points: {', '.join(parts)}" if parts else "no choice of layers costs anything"
    rest = f"; free of charge: {', '.join(free)}" if free and parts else ""
    return f"{table}, {x:g}% removed: {said}{rest}."


STUDY = Study(
    "where", "Where a network may be sparse",
    "Which layers can do without most of their connections, and which cannot?",
    "connections removed from these layers, %",
    "Pruned as in the study iterative; layers that are not named stay dense.",
    points, figures, readings,
)  # fmt: skip
