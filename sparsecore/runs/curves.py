"""A run's curves as a picture, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from . import pictures
from .folder import CURVES
from .metrics import Record

SPLITS = ("train", "validation", "test")
WIDEST = 3
"""Panels beside each other."""

Curves = dict[str, list[tuple[float, float]]]
"""Points (epoch, value) by curve."""


class Panel(NamedTuple):
    """What is drawn over epochs.

    Attributes
    ----------
    title : str
    curves : Curves
    steps, dots : bool
        Whether a value holds until the next point; whether points are shown.
    counts, shares : bool
        Whether values are whole numbers from 0; whether they are parts of 1, and shown in per cent.
    """

    title: str
    curves: Curves
    steps: bool = False
    dots: bool = False
    counts: bool = False
    shares: bool = False


def draw(history: Sequence[Record], folder: Path) -> Path | None:
    """Loss and accuracy over epochs, and what changed of the structure, into the run's folder.

    Returns
    -------
    Path or None
        The picture's; None where matplotlib is not installed.
    """
    if not pictures.can_draw():
        return None
    panels = _panels(history)
    columns = min(len(panels), WIDEST)
    rows = -(-len(panels) // columns)
    with pictures.canvas(4.5 * columns, 3.5 * rows) as figure:
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            for name, points in panel.curves.items():
                axes.plot(
                    *zip(*points, strict=True), label=name, drawstyle="steps-post" if panel.steps else "default",
                    marker="." if panel.dots else "", markersize=4,
                )  # fmt: skip
            axes.set(title=panel.title)
            axes.grid(alpha=0.25)
            if panel.counts:
                most = max(1.0, axes.get_ylim()[1])
                axes.set_ylim(-most / 20, most)  # a line of zeros is seen
                axes.yaxis.get_major_locator().set_params(integer=True)
            if panel.shares:
                pictures.in_per_cent(axes.yaxis)
            if axes.lines:
                axes.legend()
        for axes in grid[-1]:
            axes.set(xlabel="epoch")
        return pictures.write(figure, folder / CURVES, dpi=120)


def _panels(history: Sequence[Record]) -> list[Panel]:
    prunings = [record for record in history if record["event"] == "prune"]
    moves = [record for record in history if record["event"] == "rewire"]
    numbers = any("train_r2" in record for record in history)
    loss = Panel("loss", _of_splits(history, prunings, "loss"))
    accuracy = (
        Panel("R²", _of_splits(history, prunings, "r2")) if numbers
        else Panel("accuracy", _of_splits(history, prunings, "accuracy"), shares=True)
    )  # fmt: skip
    if prunings:
        threshold = _by_layer(prunings, lambda layer: layer["threshold"] if layer["removed"] else None)
        return [Panel("threshold", threshold, dots=True), _sparsity(prunings, _end(history)), accuracy]
    if moves:
        sparser = any(layer["went"] > layer["came"] for record in moves for layer in record["layers"])
        return [accuracy, _sparsity(moves, _end(history)) if sparser else loss, *_of_moves(moves, _end(history))]
    return [loss, accuracy]


def _end(history: Sequence[Record]) -> float:
    return float(max(record["epoch"] for record in history if "epoch" in record))


def _of_splits(history: Sequence[Record], prunings: Sequence[Record], kind: str) -> Curves:
    """A split's points, from the epochs and from accuracies before and after prunings."""
    found: Curves = {}
    for record in history:
        if record["event"] == "epoch":
            for split in SPLITS:
                if f"{split}_{kind}" in record:
                    found.setdefault(split, []).append((record["epoch"], record[f"{split}_{kind}"]))
        elif record["event"] == "prune" and kind == "accuracy":
            for when in ("before", "after"):
                found.setdefault(record["split"], []).append((record["epoch"], record[f"accuracy_{when}"]))
    return {split: found[split] for split in SPLITS if split in found}


def _of_moves(moves: Sequence[Record], end: float) -> list[Panel]:
    """What moved, how many places were ever tried, and how evenly outputs share what there is."""
    tried = _by_layer(moves, lambda layer: layer["tried"] / layer["possible"])
    everywhere = [(each["epoch"], _share(each["layers"], "tried", "possible")) for each in moves]
    empty = _by_layer(moves, lambda layer: layer["empty_rows"])
    spread = _by_layer(moves, lambda layer: layer["fan_in"][2])
    new = _by_layer(moves, lambda layer: _share([layer], "came"))
    return [
        Panel("new at an update, of all connections", new, shares=True),
        Panel("ever tried, of all places", _until(end, tried | {"all": everywhere}), steps=True, shares=True),
        Panel("outputs without connections", _until(end, empty), steps=True, counts=True),
        Panel("fan-in, standard deviation", _until(end, spread), steps=True),
    ]


def _until(end: float, curves: Curves) -> Curves:
    """Curves that keep their last value until the end."""
    return {name: [*points, (end, points[-1][1])] for name, points in curves.items()}


def _share(layers: Sequence[Record], part: str, whole: str = "connections") -> float:
    return float(sum(layer[part] for layer in layers) / max(sum(layer[whole] for layer in layers), 1))


def _sparsity(changes: Sequence[Record], end: float) -> Panel:
    """The sparsity of each layer, from the start to the end."""
    before = _by_layer([changes[0] | {"epoch": 0}], _sparsity_before)
    after = _until(end, _by_layer(changes, _sparsity_after))
    curves = {name: [*before.get(name, ()), *points] for name, points in after.items()}
    return Panel("sparsity", curves, steps=True, shares=True)


def _by_layer(records: Sequence[Record], value: Callable[[Record], float | None]) -> Curves:
    """Points of each layer, where there is a value."""
    found: Curves = {}
    for record in records:
        for layer in record["layers"]:
            if (y := value(layer)) is not None:
                found.setdefault(layer["name"], []).append((record["epoch"], y))
    return found


def _sparsity_after(layer: Record) -> float:
    """A layer's sparsity after a pruning or an update."""
    return float(layer["sparsity"] if "sparsity" in layer else 1 - layer["connections"] / layer["possible"])


def _sparsity_before(layer: Record) -> float | None:
    """A layer's sparsity before a pruning or an update; None if nothing is left to compute it from."""
    left, gone = layer["connections"], layer["removed"] if "removed" in layer else layer["went"] - layer["came"]
    return 1 - (1 - _sparsity_after(layer)) * (left + gone) / left if left else None
