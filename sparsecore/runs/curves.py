"""A run's curves as a picture, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from . import pictures
from .folder import CURVES
from .metrics import Record

SPLITS = ("train", "validation", "test")


def draw(history: Sequence[Record], folder: Path) -> Path | None:
    """Loss and accuracy over epochs, into the run's folder.

    Returns
    -------
    Path or None
        The picture's; None where matplotlib is not installed.
    """
    if not pictures.can_draw():
        return None
    prunings = [record for record in history if record["event"] == "prune"]
    kinds = ("threshold", "sparsity", "accuracy") if prunings else ("loss", "accuracy")
    with pictures.canvas(4.5 * len(kinds), 3.5) as figure:
        for axes, kind in zip(figure.subplots(1, len(kinds), sharex=True), kinds, strict=True):
            for name, points in _curves(history, prunings, kind).items():
                steps, dots = kind == "sparsity", kind == "threshold"
                axes.plot(
                    *zip(*points, strict=True), label=name, drawstyle="steps-post" if steps else "default",
                    marker="." if dots else "", markersize=4,
                )  # fmt: skip
            axes.set(xlabel="epoch", ylabel=kind)
            axes.grid(alpha=0.25)
            if axes.lines:
                axes.legend()
        return pictures.write(figure, folder / CURVES, dpi=120)


def _curves(history: Sequence[Record], prunings: Sequence[Record], kind: str) -> dict[str, list[tuple[float, float]]]:
    """Points (epoch, value) by curve: a layer's from the prunings, a split's from the epochs and the prunings."""
    if kind == "threshold":
        return _by_layer(prunings, lambda layer: layer["threshold"] if layer["removed"] else None)
    if kind == "sparsity":
        found, first = _by_layer(prunings, lambda layer: layer["sparsity"]), prunings[0]
        before = _by_layer([first | {"epoch": 0}], _sparsity_before)
        end = max(record["epoch"] for record in history if "epoch" in record)
        return {name: [*before.get(name, ()), *points, (end, points[-1][1])] for name, points in found.items()}
    found = {}
    for record in history:
        if record["event"] == "epoch":
            for split in SPLITS:
                if f"{split}_{kind}" in record:
                    found.setdefault(split, []).append((record["epoch"], record[f"{split}_{kind}"]))
        elif record["event"] == "prune" and kind == "accuracy":
            for when in ("before", "after"):
                found.setdefault(record["split"], []).append((record["epoch"], record[f"accuracy_{when}"]))
    return {split: found[split] for split in SPLITS if split in found}


def _by_layer(
    prunings: Sequence[Record], value: Callable[[Record], float | None]
) -> dict[str, list[tuple[float, float]]]:
    """Points (epoch, value) of each layer, where there is a value."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in prunings:
        for layer in record["layers"]:
            if (y := value(layer)) is not None:
                found.setdefault(layer["name"], []).append((record["epoch"], y))
    return found


def _sparsity_before(layer: Record) -> float | None:
    """A layer's sparsity before a pruning; None if nothing is left to compute it from."""
    left, removed = layer["connections"], layer["removed"]
    return 1 - (1 - layer["sparsity"]) * (left + removed) / left if left else None
