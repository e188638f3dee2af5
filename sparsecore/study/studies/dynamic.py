"""Connections that move while a network trains: can a network that is sparse from birth be as good as a pruned one?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..making.run import Run
from ..making.scale import Net, Scale, fraction
from ..reporting.figures import Drawing, by_factor, by_sparsity
from ..reporting.readings import course, dead_runs, versus
from ..reporting.results import Cell, Point, Results, differ
from ..reporting.study import Study

DENSE, STATIC, SET, RIGL, ALL, REGROWTH, PRUNED = (
    "dense", "static, random", "SET", "RigL", "RigL, all places", "regrowth", "pruned"
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    SET: {"rewire": "set"}, RIGL: {"rewire": "rigl", "grow": 4.0}, ALL: {"rewire": "rigl", "grow": "exact"},
    REGROWTH: {"rewire": "regrow", "grow": 4.0, "start_sparsity": 0.8},
}  # fmt: skip
REMOVED, QUICK = (80.0, 90.0, 95.0, 98.0, 99.0), (90.0, 98.0)
EVERY, FRACTION, UNTIL = 100, 0.3, 0.75
LONGER = {"lr": 0.15, "weight_decay": 6e-4, "warm_up": 1.0}
"""The recipe of this engine's runs that prune or move connections, where they are four times as long as the study's."""

AT = 98.0
"""Where settings are varied."""
STRIDES, QUICK_STRIDES = (25, 50, 100, 200, 400, 800), (50, 200)
FRACTIONS, QUICK_FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7), (0.1, 0.5)
BY_STRIDE, BY_FRACTION = "steps between updates", "fraction that moves at first"


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.choose("L300"):
        longer = _longer(net)
        for each in (net, longer):
            found += _by_sparsity(each, scale.some(REMOVED, QUICK))
        found += _by_settings(longer, scale)
    return found


def _longer(net: Net) -> Net:
    epochs = 4 * int(net.recipe["epochs"])
    return replace(net, title=f"{net.title}, {epochs} epochs", recipe={**net.recipe, "epochs": epochs, **LONGER})


def _by_sparsity(net: Net, columns: tuple[float, ...]) -> list[Point]:
    found = [Point(net.title, DENSE, 0.0, net.dense())]
    for removed in columns:
        found.append(Point(net.title, STATIC, removed, net.train(random=True, sparsity=fraction(removed))))
        for name in METHODS:
            if name != REGROWTH or removed > 100 * METHODS[name]["start_sparsity"]:
                found.append(Point(net.title, name, removed, _moving(net, name, removed)))
        found.append(Point(net.title, PRUNED, removed, net.iterative(removed)))
    return found


def _by_settings(net: Net, scale: Scale) -> list[Point]:
    model, found = net.title.split(",")[0], []
    for name in (SET, RIGL, REGROWTH):
        for every in scale.some(STRIDES, QUICK_STRIDES):
            run = _moving(net, name, AT, every)
            found.append(Point(f"{model}, {AT:g}%, {BY_STRIDE}", name, float(_steps(net, every)), run))
        for part in scale.some(FRACTIONS, QUICK_FRACTIONS):
            run = _moving(net, name, AT, part=part)
            found.append(Point(f"{model}, {AT:g}%, {BY_FRACTION}", name, part, run))
    return found


def _moving(net: Net, name: str, removed: float, every: float = EVERY, part: float = FRACTION) -> Run:
    options = {"every": _steps(net, every), "fraction": part, "until": UNTIL, **METHODS[name]}
    return net.train(sparsity=fraction(removed), **options)


def _steps(net: Net, every: float) -> int:
    """So many steps, fewer in proportion where runs are cut short."""
    return max(round(every * net.every / 200), 1)


def figures(results: Results) -> list[Drawing]:
    drawn, names = [], (DENSE, STATIC, *METHODS, PRUNED)
    for name, ending, caption in (
        ("dynamic", "", "Networks of fixed wiring, with connections that move, pruned, and dense."),
        ("dynamic-every", BY_STRIDE, f"Connections that move more or less often, {AT:g}% removed."),
        ("dynamic-fraction", BY_FRACTION, f"More or fewer connections that move at an update, {AT:g}% removed."),
    ):
        if (some := _of(results, ending)).cells:
            figure = by_factor(some, ending, names) if ending else by_sparsity(some, names)
            drawn.append(Drawing(name, caption, figure))
    return drawn


def _of(results: Results, ending: str) -> Results:
    """The tables that vary a setting; without one, those by sparsity."""

    def belongs(table: str) -> bool:
        return table.endswith(ending) if ending else not table.endswith((BY_STRIDE, BY_FRACTION))

    return replace(results, cells=tuple(cell for cell in results.cells if belongs(cell.point.table)))


def readings(results: Results) -> list[str]:
    found = []
    for table in _of(results, "").tables:
        for one, other in ((SET, STATIC), (RIGL, SET), (ALL, RIGL), (RIGL, PRUNED), (REGROWTH, PRUNED)):
            found += versus(results, table, one, other)
        found += _beside_dense(results, table) + _times(results, table)
    for table in (*_of(results, BY_STRIDE).tables, *_of(results, BY_FRACTION).tables):
        for series in results.series(table):
            found += course(results, table, series)
    return [*found, dead_runs(results)]


def _beside_dense(results: Results, table: str) -> list[str]:
    """How far each series can go before it is behind the dense network."""
    dense, found = results.row(table, DENSE), []
    for series in results.series(table):
        row = sorted(results.row(table, series), key=lambda cell: cell.point.x)
        if dense and row and series != DENSE:
            behind = [cell for cell in row if differ(dense[0], cell) > 0]
            said = f"behind the dense network from {behind[0].point.column}% on" if behind else \
                "nowhere behind the dense network"  # fmt: skip
            found.append(f"{series} {said}")
    return [f"{table}: {'; '.join(found)}."] if found else []


def _times(results: Results, table: str) -> list[str]:
    """What training took where settings are varied, beside the dense network."""
    cells = [cell for cell in results.cells if cell.point.table == table and cell.point.x in (0.0, AT)]
    if len(cells) < 2:
        return []
    said = ", ".join(f"{cell.point.series} {cell.seconds:.1f} s" for cell in sorted(cells, key=_seconds))
    return [f"{table}: training took, at {AT:g}%, {said}."]


def _seconds(cell: Cell) -> float:
    return cell.seconds


STUDY = Study(
    "dynamic", "Connections that move",
    "Networks that are sparse from birth stay behind pruned ones. Do they still if connections move while they train?",
    "connections removed, %, or what its title says",
    "Not in the slides. All start from the same random wirings. SET, RigL and regrowth move connections after every "
    f"{EVERY} steps up to {UNTIL:.0%} of a run, at first {FRACTION:.0%} of a layer's, ever fewer along a cosine; RigL "
    "and regrowth look at gradients at four times as many free places as connections come, or at all places. Regrowth "
    "starts with 80% removed and is as sparse as the others at the end. “Pruned” is as in the study iterative, and "
    "starts dense. The longer runs, in which settings are varied, have the recipe of runs that prune or move.",
    points, figures, readings,
)  # fmt: skip
