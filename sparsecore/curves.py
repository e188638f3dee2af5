"""A run's curves as a picture, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .run_folder import CURVES, Record


def draw(history: Sequence[Record], folder: Path) -> Path | None:
    """Loss and accuracy over epochs, into the run's folder.

    Returns
    -------
    Path or None
        The picture's; None where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    prunings = [record for record in history if record["event"] == "prune"]
    kinds = ("threshold", "sparsity", "accuracy") if prunings else ("loss", "accuracy")
    figure = Figure(figsize=(4.5 * len(kinds), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        for name, points in _curves(history, prunings, kind).items():
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set(xlabel="epoch", ylabel=kind)
        axes.legend()
    path = folder / CURVES
    figure.savefig(path, dpi=120)
    return path


def _curves(history: Sequence[Record], prunings: Sequence[Record], kind: str) -> dict[str, list[tuple[float, float]]]:
    """Points (epoch, value) by curve: a layer's from the prunings, a split's from the epochs and the prunings."""
    found: dict[str, list[tuple[float, float]]] = {}
    if kind in ("threshold", "sparsity"):
        for record in prunings:
            for layer in record["layers"]:
                found.setdefault(layer["name"], []).append((record["epoch"], layer[kind]))
        return found
    for record in history:
        if record["event"] == "epoch":
            for split in ("train", "validation", "test"):
                if f"{split}_{kind}" in record:
                    found.setdefault(split, []).append((record["epoch"], record[f"{split}_{kind}"]))
        elif record["event"] == "prune" and kind == "accuracy":
            for when in ("before", "after"):
                found.setdefault(record["split"], []).append((record["epoch"], record[f"accuracy_{when}"]))
    return found
