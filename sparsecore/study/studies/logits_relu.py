"""The slides' networks had a ReLU on their logits. With it a class can die: does that explain their plateaus?"""

from __future__ import annotations

from ..making.run import Run
from ..making.scale import Net, Scale, by_slides
from ..reporting.figures import COLOURS, Drawing, legend, panels
from ..reporting.readings import dead_runs, versus
from ..reporting.results import Cell, Point, Results
from ..reporting.study import Study

REMOVED = {"L300": (0.0, 90.0, 99.0), "L5": (90.0,)}
QUICK = {"L300": (0.0, 90.0), "L5": ()}
WITH, WITHOUT = "ReLU on the logits", "none"


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.choose("L300", "L5"):
        for removed in scale.some(REMOVED[net.name], QUICK[net.name]):
            for series in (WITH, WITHOUT):
                relu = True if series == WITH else None
                found.append(Point(net.title, series, removed, _run(net, removed, relu)))
    return found


def _run(net: Net, removed: float, relu: bool | None) -> Run:
    """Dense, or on one structure that pruning left, whose values are drawn anew for every seed."""
    recipe = by_slides(net)
    if not removed:
        return net.dense(relu_logits=relu, **recipe)
    return net.retrained(net.one_time(removed).seeded(0), "fresh", relu_logits=relu, **recipe)


def figures(results: Results) -> list[Drawing]:
    figure, all_axes = panels(len(results.tables))
    for axes, table in zip(all_axes, results.tables, strict=True):
        for level in range(10, 100, 10):
            axes.axhline(level, color="#b00020", linewidth=0.7, alpha=0.35, linestyle=(0, (2, 3)))
        columns = list(dict.fromkeys(cell.point.x for cell in results.cells if cell.point.table == table))
        for shift, colour, series in zip((-0.14, 0.14), COLOURS, (WITH, WITHOUT), strict=False):
            for cell in results.row(table, series):
                _dots(axes, cell, columns.index(cell.point.x) + shift, colour)
            axes.plot([], [], "o", color=colour, label=series if series == WITH else "no ReLU on the logits")
        axes.plot([], [], "x", color="#b00020", markersize=9, markeredgewidth=2, label="lost classes")
        axes.set_xticks(range(len(columns)), [f"{x:g}" for x in columns])
        axes.set(xlabel="connections removed, %", ylabel="test accuracy, %", title=table, ylim=(0, 101),
                 xlim=(-0.6, len(columns) - 0.4))  # fmt: skip
    legend(figure)
    caption = "Every run by the slides' plain SGD, with and without a ReLU on the logits. Dotted: what is left when " \
              "one, two, … classes are lost."  # fmt: skip
    return [Drawing("logits-relu", caption, figure)]


def _dots(axes: object, cell: Cell, x: float, colour: str) -> None:
    count = len(cell.outcomes)
    for k, outcome in enumerate(cell.outcomes):
        at = x + 0.16 * ((k + 0.5) / count - 0.5)
        style = {"marker": "x", "color": "#b00020", "markersize": 8, "markeredgewidth": 2} if outcome.dead else \
                {"marker": "o", "color": colour, "markersize": 4.5, "alpha": 0.8}  # fmt: skip
        axes.plot([at], [100 * outcome.accuracy], **style)  # type: ignore[attr-defined]


def readings(results: Results) -> list[str]:
    rows = {series: [c for c in results.cells if c.point.series == series] for series in (WITH, WITHOUT)}
    dead = {series: sum(cell.dead for cell in row) for series, row in rows.items()}
    runs = {series: sum(len(cell.outcomes) for cell in row) for series, row in rows.items()}
    found = []
    if all(runs.values()):
        found.append(_verdict(dead, runs))
    found.append(dead_runs(results))
    for table in results.tables:
        found += versus(results, table, WITH, WITHOUT)
    return found


def _verdict(dead: dict[str, int], runs: dict[str, int]) -> str:
    """Whether runs lose classes with the ReLU, and whether they do without."""
    counts = f"{dead[WITH]} of {runs[WITH]} runs with a ReLU on the logits lost classes, and {dead[WITHOUT]} of " \
             f"{runs[WITHOUT]} without"  # fmt: skip
    if dead[WITH] and not dead[WITHOUT]:
        return f"{counts}: the ReLU on the logits explains plateaus ten, twenty, … points below the other runs."
    if dead[WITH] > dead[WITHOUT]:
        return f"{counts}: the ReLU on the logits makes lost classes more frequent, but is not their only cause."
    if dead[WITH]:
        return f"{counts}: the ReLU on the logits does not explain them."
    return f"{counts}: these runs show no plateau to explain."


STUDY = Study(
    "logits-relu", "A ReLU on the logits",
    "Retraining looked unreliable in the slides, with plateaus at 90, 80 and 70%. Is that retraining, or a class that "
    "a ReLU on its logit has killed?",
    "connections removed, %",
    "Here everything is as the slides had it: plain SGD, batches of 100, rates 0.2, 0.1 and 0.05. The sparse networks "
    "train on one structure that one-time pruning left, from fresh values for every seed; twice as many seeds.",
    points, figures, readings, seeds=2,
)  # fmt: skip
