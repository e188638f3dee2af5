"""Time against connections on two logarithmic axes, dense as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsecore.runs import pictures

from .scaling import slope
from .tables import pick
from .timing import Row

COLOURS = {
    "sparsecore": "#0072b2", "torch-csr": "#d55e00", "scipy": "#009e73",
    "numpy-hand": "#555555", "torch-hand": "#cc79a7", "torch-eager": "#aa8800",
}  # fmt: skip


def plot(rows: list[Row], path: Path) -> None:
    """Draw steps of networks and of one layer, whichever were measured, into a PNG.

    Raises
    ------
    ValueError
        If no steps were measured.
    """
    panels = _panels(rows)
    if not panels:
        raise ValueError("nothing to plot: time against connections needs the benchmarks step or scaling")
    with pictures.canvas(6 * len(panels), 5.6) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)
        for axis, (title, some) in zip(axes[0], panels.items(), strict=True):
            _panel(axis, title, some)
        pictures.write(figure, path, dpi=150)


def _panels(rows: list[Row]) -> dict[str, list[Row]]:
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row["bench"] in ("step", "scaling"):
            what = "LeNet-300-100" if row["model"] == "lenet300" else f"one layer {row['model']}"
            threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
            panels.setdefault(f"Step of {what}, batch {row['batch']}{threads}", []).append(row)
    return panels


def _panel(axis: Any, title: str, rows: list[Row]) -> None:
    for engine, colour in COLOURS.items():
        for row in pick(rows, engine, topology="dense"):
            style = "-" if engine == "sparsecore" else "--"
            axis.axhline(row["ms"], color=colour, linestyle=style, linewidth=1.2, label=f"{engine}, dense")
        random = sorted(pick(rows, engine, topology="random"), key=lambda row: row["connections"])
        if random:
            label = f"{engine}, slope {slope(random):.2f}" if len(random) > 1 else engine
            axis.plot(*_xy(random), "o-", color=colour, markersize=4, label=label)
        if radix := pick(rows, engine, topology="radix"):
            axis.plot(*_xy(radix), "D", color=colour, markerfacecolor="none", label=f"{engine}, RadiX-Net")
    axis.set(xscale="log", yscale="log", xlabel="connections", ylabel="ms a step", title=title)
    axis.grid(which="major", alpha=0.3)
    axis.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _xy(rows: list[Row]) -> tuple[list[int], list[float]]:
    return [row["connections"] for row in rows], [row["ms"] for row in rows]
