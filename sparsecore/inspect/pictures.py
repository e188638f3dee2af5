"""Pictures of a network's structure, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def draw(network: Network, folder: Path, tried: Mapping[str, SparsityPattern] | None = None) -> list[Path]:
    """`layers.png`, each layer's fan-in, fan-out and pattern, and `inputs.png`, what the first layer still reads.

    Parameters
    ----------
    network : Network
    folder : Path
    tried : mapping of path to SparsityPattern, optional
        The places where a run that moved connections has ever had one, for `moves.png`.

    Returns
    -------
    list of Path
        Empty where matplotlib is not installed. The second is drawn only for inputs that are images.
    """
    if not can_draw():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    stages, shape = stages_of(network), _image_shape(network)
    drawn = [_saved(folder / "layers.png", lambda figure: _layers(figure, stages))]
    if shape is not None:
        drawn.append(_saved(folder / "inputs.png", lambda figure: _inputs(figure, stages[0], shape)))
    if tried:
        drawn.append(_saved(folder / "moves.png", lambda figure: _moves(figure, stages, tried, shape)))
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
        _blocks(row[2], pattern)


def _histogram(axes: Any, counts: Any) -> None:
    most = int(counts.max(initial=0))
    wide = -(-(most + 1) // 60)  # a whole number, or some bars would stand for more counts than their neighbours
    axes.hist(counts, bins=np.arange(-0.5, most + wide + 0.5, wide), color="0.4")


def _blocks(axes: Any, pattern: SparsityPattern) -> None:
    """A pattern, as grey as it is dense."""
    shares = _shares(pattern)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=max(shares.max(initial=0), 1e-9), aspect="auto",
                interpolation="nearest", extent=(0, pattern.shape[1], pattern.shape[0], 0))  # fmt: skip
    axes.set(xlabel="inputs", ylabel="outputs")


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
    shape = _read_by(stage, shape)
    columns = 8
    chosen = np.argsort(-pattern.fan_in, kind="stable")[:NEURONS]
    figure.set_size_inches(13, 4 + 1.7 * -(-len(chosen) // columns))
    above, below = figure.subfigures(2, 1, height_ratios=[4, 1.7 * -(-len(chosen) // columns)])
    counts = pattern.fan_out.reshape(shape).sum(axis=0)
    sums = np.bincount(pattern.indices, np.abs(weight), pattern.shape[1]).reshape(shape).sum(axis=0)
    _images(above, {"connections of each pixel": counts, "Σ|w| of each pixel": sums})
    below.suptitle(f"the {len(chosen)} outputs with the most connections: positive weights red, negative blue")
    largest = np.abs(weight).max(initial=1e-9)
    for k, axes in enumerate(below.subplots(-(-len(chosen) // columns), columns, squeeze=False).ravel()):
        axes.set_axis_off()
        if k < len(chosen):
            start, end = pattern.indptr[chosen[k]], pattern.indptr[chosen[k] + 1]
            image = np.zeros(pattern.shape[1])
            image[pattern.indices[start:end]] = weight[start:end]
            image = image.reshape(shape).sum(axis=0)
            axes.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
            axes.set_title(f"{chosen[k]}: {end - start}", fontsize=8)


def _moves(
    figure: Any, stages: list[Stage], tried: Mapping[str, SparsityPattern], shape: tuple[int, int, int] | None
) -> None:
    """Where connections were tried and where they stayed: over the images, and by input and output of each layer."""
    moved = [stage for stage in stages if stage.path in tried]
    images = shape is not None and moved[0] is stages[0]
    heights = [4.0] * images + [3.2] * len(moved)
    figure.set_size_inches(13, sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if images:
        assert shape is not None
        form = _read_by(moved[0], shape)
        now, ever = (each.fan_out.reshape(form).sum(axis=0) for each in (moved[0].pattern, tried[moved[0].path]))
        stayed = np.where(ever > 0, now / np.maximum(ever, 1), np.nan)
        _images(parts[0], {"connections of each pixel": now, "ever tried": ever, "stayed, of those tried": stayed})
    for part, stage in zip(parts[images:], moved, strict=True):
        _of_layer(part, stage, tried[stage.path])


def _of_layer(part: Any, stage: Stage, ever: SparsityPattern) -> None:
    """A layer's connections and those ever tried: of each input, of each output, and block by block."""
    by_input, by_output, places = part.subplots(1, 3)
    for axes, now, before, name in (
        (by_input, stage.pattern.fan_out, ever.fan_out, "inputs"),
        (by_output, stage.pattern.fan_in, ever.fan_in, "outputs"),
    ):  # fmt: skip
        order = np.argsort(-now, kind="stable")
        axes.plot(before[order], ".", color="0.6", markersize=3, label="ever tried")
        axes.plot(now[order], color="0.1", linewidth=1.5, label="now")
        axes.set(xlabel=f"{name}, those with the most connections first", ylabel="connections")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    by_output.set_title(f"{stage.layer!r}: {stage.pattern.nnz:,} connections, {ever.nnz:,} places ever tried, of "
                        f"{prod(ever.shape):,}")  # fmt: skip
    _blocks(places, ever)
    places.set(xlabel="inputs; black where a connection was ever tried")


def _images(part: Any, images: Mapping[str, Any]) -> None:
    """Images beside each other, each with its scale."""
    for axes, (title, image) in zip(part.subplots(1, len(images)), images.items(), strict=True):
        axes.set_facecolor("0.8")  # shows where there is nothing
        shown = axes.imshow(image, cmap="viridis", interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
        part.colorbar(shown, ax=axes)


def _read_by(stage: Stage, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(channels, height, width) of what a row of the first layer reads: of a convolution, its filter."""
    return shape if stage.pattern.shape[1] == prod(shape) else (shape[0], *stage.layer.kernel_size)
