"""How figures are drawn: ours as lines with the spread of the seeds, the slides' dashed in the same colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import log10
from typing import Any, NamedTuple

from ...runs import pictures
from ..making.run import Run
from .results import Cell, Results

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Colours that nearly everybody can distinguish: M. Okabe, K. Ito, Color Universal Design, 2008."""

Position = Callable[[Any], float]
"""From a column of a table to where it stands on the x axis."""


class Drawing(NamedTuple):
    """A figure: its file's name without an ending, a caption, and a matplotlib Figure."""

    name: str
    caption: str
    figure: Any


def panels(count: int, width: float = 4.6, height: float = 3.7) -> tuple[Any, list[Any]]:
    """A figure with `count` axes beside each other."""
    figure = pictures.figure(max(width * count, 5.6), height)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def by_sparsity(results: Results, names: Iterable[str] = ()) -> Any:
    """A panel for each table: accuracy over the percentage of connections removed.

    `names` are series, in the order of their colours: the same in several figures.
    """
    return _by_table(results, lambda x: -log10(1 - x / 100), "connections removed, %", names)


def by_factor(results: Results, label: str, names: Iterable[str] = ()) -> Any:
    """A panel for each table: accuracy over a factor, on a logarithmic axis; `names` as for `by_sparsity`."""
    return _by_table(results, log10, label, names)


def accuracy_axis(axes: Any, cells: Sequence[Cell]) -> None:
    """Accuracy on an axis that is logarithmic in the error, so that 99 and 99.5 stand as far apart as 80 and 90."""
    lows = [min(cell.percents) for cell in cells] + [cell.point.slides for cell in cells if cell.point.slides]
    highs = [max(cell.percents) for cell in cells] + [cell.point.slides for cell in cells if cell.point.slides]
    worst, best = min(max(100 - min(lows), 0.1) * 1.25, 100), max(100 - max(highs), 0.02) / 1.25
    axes.set_yscale("log")
    axes.set_ylim(worst, best)
    ticks = _errors(best, worst)
    axes.set_yticks(ticks, [f"{100 - e:g}" for e in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("test accuracy, %")


def _errors(least: float, most: float) -> list[float]:
    """Round numbers between two errors, for the ticks of a logarithmic axis."""
    from matplotlib.ticker import MaxNLocator

    ticks = [e for e in (90, 70, 50, 30, 20, 10, 7, 5, 3, 2, 1.5, 1, 0.7, 0.5, 0.3, 0.2, 0.1) if least <= e <= most]
    if len(ticks) < 4:  # the two are so close that even steps will do
        ticks = [round(float(e), 4) for e in MaxNLocator(5).tick_values(least, most) if least <= e <= most and e > 0]
    return ticks


def draw_row(axes: Any, row: Sequence[Cell], position: Position, colour: str, label: str) -> None:
    """Draw a series: means as a line, seeds as dots, their spread as a bar, the slides' numbers dashed."""
    xs = [position(cell.point.x) for cell in row]
    errors = [100 - cell.mean for cell in row]
    axes.plot(xs, errors, color=colour, marker="o", markersize=4.5, linewidth=1.8, label=label, zorder=3)
    for x, cell in zip(xs, row, strict=True):
        ends = [100 - cell.mean - cell.spread, 100 - cell.mean + cell.spread]
        axes.plot([x, x], [max(end, 1e-3) for end in ends], color=colour, linewidth=5, alpha=0.25, zorder=2,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot([x] * len(cell.percents), [max(100 - each, 1e-3) for each in cell.percents], ".", color=colour,
                  markersize=3, alpha=0.5, zorder=2)  # fmt: skip
        if cell.dead:
            axes.plot([x], [100 - cell.mean], "x", color="#b00020", markersize=11, markeredgewidth=2, zorder=4)
    slides = [(x, 100 - cell.point.slides) for x, cell in zip(xs, row, strict=True) if cell.point.slides is not None]
    if slides:
        axes.plot(*zip(*slides, strict=True), color=colour, linestyle=(0, (4, 3)), marker="D", markersize=4.5,
                  markerfacecolor="white", linewidth=1.1, alpha=0.8, zorder=1)  # fmt: skip


def legend(figure: Any, cells: Sequence[Cell] = ()) -> None:
    """Put a legend below all panels, with each series once, and dashes and crosses where cells have any."""
    from matplotlib.lines import Line2D

    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    handles = list(found.values())
    if any(cell.point.slides is not None for cell in cells):
        handles.append(Line2D([], [], color="#777777", linestyle=(0, (4, 3)), marker="D", markersize=4.5,
                              markerfacecolor="white", label="slides, 2018"))  # fmt: skip
    if any(cell.dead for cell in cells):
        handles.append(Line2D([], [], color="#b00020", linestyle="", marker="x", markersize=9, markeredgewidth=2,
                              label="a run lost classes"))  # fmt: skip
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside lower center", ncols=min(len(handles), 4))


def over_time(results: Results, runs: Sequence[tuple[str, Run]]) -> Any:
    """The slides' three panels of a run that prunes: threshold and sparsity of each layer, and accuracy, over steps.

    Parameters
    ----------
    results : Results
    runs : sequence of (str, Run)
        Thresholds and sparsities are those of the last one, accuracies of all.
    """
    figure, (thresholds, sparsities, accuracies) = panels(3, width=3.8, height=3.7)
    _, last = runs[-1]
    layers: dict[str, list[dict[str, Any]]] = {}
    for record in results.course(last):
        if record["event"] == "prune":
            for layer in record["layers"]:
                name = layer["name"].replace("$", r"\$")  # between two of them matplotlib reads formulas
                layers.setdefault(name, []).append(layer | {"step": record["step"]})
    for colour, (layer, prunings) in zip(COLOURS, layers.items(), strict=False):
        steps = [each["step"] for each in prunings]
        sparsities.plot(steps, [100 * each["sparsity"] for each in prunings], color=colour, label=layer)
        removing = [(each["step"], each["threshold"]) for each in prunings if each["removed"]]
        if removing:  # where nothing was removed there is no threshold
            thresholds.plot(*zip(*removing, strict=True), color=colour, label=layer)
    for colour, (label, run) in zip(COLOURS, runs, strict=False):
        if course := _accuracies(results.course(run)):
            accuracies.plot(*zip(*course, strict=True), color=colour, label=label, linewidth=1.2)
    thresholds.set(xlabel="step", ylabel="threshold, |w|", title=f"threshold, {runs[-1][0]}")
    sparsities.set(xlabel="step", ylabel="connections removed, %", title=f"layer sparsity, {runs[-1][0]}")
    accuracies.set(xlabel="step", ylabel="test accuracy, %", title="accuracy over time")
    shown = sorted(y for line in accuracies.lines for y in line.get_ydata())
    if shown:  # the accuracies of the first steps would flatten the rest
        accuracies.set_ylim(shown[len(shown) // 10] - 0.5, shown[-1] + 0.2)
    for axes, columns in (thresholds, 1), (sparsities, 1), (accuracies, 3):
        if axes.lines:  # one below each panel: colours stand for layers in two of them and for runs in the third
            axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns)
    return figure


def _accuracies(lines: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """(step, percent) at the ends of epochs and around prunings."""
    steps = next((each["step"] / each["epoch"] for each in lines if each["event"] == "prune" and each["step"]), 1.0)
    found = []
    for each in lines:
        if "test_accuracy" in each:
            found.append((each["epoch"] * steps, 100 * each["test_accuracy"]))
        elif each["event"] == "prune":
            found += [(each["step"], 100 * each[name]) for name in ("accuracy_before", "accuracy_after")]
    return sorted(found, key=lambda point: point[0])


def _by_table(results: Results, position: Position, label: str, names: Iterable[str]) -> Any:
    figure, all_axes = panels(len(results.tables), height=4.1)
    coloured = dict.fromkeys([*names, *(cell.point.series for cell in results.cells)])
    colours = dict(zip(coloured, COLOURS * 3, strict=False))  # the same for a series in all tables
    for axes, table in zip(all_axes, results.tables, strict=True):
        cells = [cell for cell in results.cells if cell.point.table == table]
        for series in results.series(table):
            row = sorted(results.row(table, series), key=lambda cell: position(cell.point.x))
            draw_row(axes, row, position, colours[series], series)
        columns = sorted({cell.point.x for cell in cells}, key=position)
        axes.set_xticks([position(x) for x in columns], [f"{x:g}" for x in columns], fontsize=8)
        axes.set_xticks([], minor=True)
        accuracy_axis(axes, cells)
        axes.set(xlabel=label, title=table)
    legend(figure, results.cells)
    return figure
