"""Pictures of a network's structure, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..network import Network
from ..runs.pictures import can_draw, canvas, write
from ..storage.pattern import SparsityPattern
from .units import Stage, stages_of

NEURONS = 24
"""How many neurons of the first layer have their weights shown: those with the most connections."""
PIXELS = 600
"""Longest side of a pattern's picture; larger patterns are shown by the share of connections stored in each block."""


def draw(network: Network, folder: Path) -> list[Path]:
    """`layers.png`, each layer's fan-in, fan-out and pattern, and `inputs.png`, what the first layer still reads.

    Returns
    -------
    list of Path
        Empty where matplotlib is not installed. The second is drawn only for inputs that are images.
    """
    if not can_draw():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_saved(folder / "layers.png", lambda figure: _layers(figure, stages_of(network)))]
    shape = _image_shape(network)
    if shape is not None:
        stage = stages_of(network)[0]
        drawn.append(_saved(folder / "inputs.png", lambda figure: _inputs(figure, stage, shape)))
    return drawn


def _saved(path: Path, paint: Callable[[Any], None]) -> Path:
    with canvas() as figure:
        paint(figure)
        return write(figure, path, dpi=110)


def _layers(figure: Any, stages: list[Stage]) -> None:
    figure.set_size_inches(13, 3.2 * len(stages))
    for row, stage in zip(figure.subplots(len(stages), 3, squeeze=False), stages, strict=True):
        pattern = stage.pattern
        for axes, counts, name in ((row[0], pattern.fan_in, "fan-in"), (row[1], pattern.fan_out, "fan-out")):
            _histogram(axes, counts)
            dead = int(np.count_nonzero(counts == 0))
            axes.set(xlabel=f"{name} ({dead} of {len(counts)} have none)", ylabel="neurons")
        row[1].set_title(f"{stage.layer!r}: {pattern.nnz:,} connections, {pattern.sparsity:.1%} sparse")
        shares = _shares(pattern)
        row[2].imshow(shares, cmap="Greys", vmin=0, vmax=max(shares.max(initial=0), 1e-9), aspect="auto",
                      interpolation="nearest", extent=(0, pattern.shape[1], pattern.shape[0], 0))  # fmt: skip
        row[2].set(xlabel="inputs", ylabel="outputs")


def _histogram(axes: Any, counts: Any) -> None:
    most = int(counts.max(initial=0))
    wide = -(-(most + 1) // 60)  # a whole number, or some bars would stand for more counts than their neighbours
    axes.hist(counts, bins=np.arange(-0.5, most + wide + 0.5, wide), color="0.4")


def _shares(pattern: SparsityPattern) -> Any:
    """The share of possible connections that is stored, block by block of the matrix."""
    blocks = [min(size, PIXELS) for size in pattern.shape]
    at = [
        index.astype(np.int64) * count // max(size, 1)
        for index, count, size in zip((pattern.rows, pattern.indices), blocks, pattern.shape, strict=True)
    ]
    stored = np.bincount(at[0] * blocks[1] + at[1], minlength=prod(blocks)).reshape(blocks)
    possible = [
        np.bincount(np.arange(size) * count // max(size, 1), minlength=count)
        for count, size in zip(blocks, pattern.shape, strict=True)
    ]
    return stored / np.outer(*possible)


def _image_shape(network: Network) -> tuple[int, int, int] | None:
    """(channels, height, width) of the inputs, if they are images."""
    shape = network.normalisation.shape if network.normalisation is not None else network.layers[0].in_shape
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def _inputs(figure: Any, stage: Stage, shape: tuple[int, int, int]) -> None:
    """Connections and weights by pixel, then single neurons; of a convolution, its filters."""
    pattern, weight = stage.pattern, stage.layer.params["weight"].astype(np.float64)
    channels, height, width = shape
    if pattern.shape[1] != prod(shape):  # filters, which are small images of as many channels
        height, width = stage.layer.kernel_size
    columns = 8
    chosen = np.argsort(-pattern.fan_in, kind="stable")[:NEURONS]
    figure.set_size_inches(13, 4 + 1.7 * -(-len(chosen) // columns))
    above, below = figure.subfigures(2, 1, height_ratios=[4, 1.7 * -(-len(chosen) // columns)])
    counts = pattern.fan_out.reshape(channels, height, width).sum(axis=0)
    sums = np.bincount(pattern.indices, np.abs(weight), pattern.shape[1]).reshape(channels, height, width).sum(axis=0)
    for axes, image, title in zip(
        above.subplots(1, 2), (counts, sums), ("connections of each pixel", "Σ|w| of each pixel"), strict=True
    ):
        shown = axes.imshow(image, cmap="viridis", interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
        above.colorbar(shown, ax=axes)
    below.suptitle(f"the {len(chosen)} outputs with the most connections: positive weights red, negative blue")
    largest = np.abs(weight).max(initial=1e-9)
    for k, axes in enumerate(below.subplots(-(-len(chosen) // columns), columns, squeeze=False).ravel()):
        axes.set_axis_off()
        if k < len(chosen):
            start, end = pattern.indptr[chosen[k]], pattern.indptr[chosen[k] + 1]
            image = np.zeros(pattern.shape[1])
            image[pattern.indices[start:end]] = weight[start:end]
            image = image.reshape(channels, height, width).sum(axis=0)
            axes.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
            axes.set_title(f"{chosen[k]}: {end - start}", fontsize=8)
