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

    epochs = [record for record in history if record["event"] == "epoch"]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in ("train", "validation", "test"):
            points = [(record["epoch"], record[f"{split}_{kind}"]) for record in epochs if f"{split}_{kind}" in record]
            if points:
                axes.plot(*zip(*points, strict=True), label=split)
        axes.set(xlabel="epoch", ylabel=kind)
        axes.legend()
    path = folder / CURVES
    figure.savefig(path, dpi=120)
    return path
