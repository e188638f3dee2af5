"""How many ways lead from each input to each output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers.conv import SparseConv2d
from ..layers.pooling import Pool2d
from ..network import Network

Counts = NDArray[np.float64]


def count_paths(network: Network) -> Counts:
    """The number of paths along stored connections between every output and every input.

    A pooling joins all pixels of a window. Counts are exact up to 2⁵³.

    Parameters
    ----------
    network : Network

    Returns
    -------
    float64 array, shape (outputs, inputs)
    """
    outputs = int(np.prod(network.layers[-1].out_shape))
    paths = np.eye(outputs)
    for layer in reversed(network.layers):
        if isinstance(layer, SparseConv2d):
            paths = _through_conv(layer, paths)
        elif isinstance(layer, Pool2d):
            paths = _through_pool(layer, paths)
        elif hasattr(layer, "pattern"):
            paths = (layer.pattern.to_scipy().T.astype(np.float64) @ paths.T).T
    return paths.reshape(outputs, -1)


def _through_conv(layer: SparseConv2d, paths: Counts) -> Counts:
    """For each place of the filter, the channels that it joins: its part of the transposed convolution."""
    outputs, (channels, height, width) = len(paths), layer.in_shape
    (high, wide), (down, across) = layer.kernel_size, layer.stride
    after = paths.reshape(outputs, *layer.out_shape)
    border = [(0, 0), (0, 0), *((p, p) for p in layer.padding)]
    before = np.pad(np.zeros((outputs, channels, height, width)), border)
    stored = layer.pattern.to_scipy().toarray().reshape(-1, channels, high, wide)
    for ky in range(high):
        for kx in range(wide):
            joined = np.einsum("oc,noyx->ncyx", stored[:, :, ky, kx], after)
            _window(before, ky * layer.dilation[0], kx * layer.dilation[1], layer.out_shape, down, across)[...] += (
                joined
            )
    top, left = layer.padding
    return before[:, :, top : top + height, left : left + width].reshape(outputs, -1)


def _through_pool(layer: Pool2d, paths: Counts) -> Counts:
    after = paths.reshape(len(paths), *layer.out_shape)
    before = np.zeros((len(paths), *layer.in_shape))
    for ky in range(layer.kernel_size[0]):
        for kx in range(layer.kernel_size[1]):
            _window(before, ky, kx, layer.out_shape, *layer.stride)[...] += after
    return before.reshape(len(paths), -1)


def _window(images: Any, top: int, left: int, shape: tuple[int, ...], down: int, across: int) -> Any:
    """The pixels that a filter's place (top, left) reads, one for each output position."""
    high, wide = shape[1:]
    return images[:, :, top : top + (high - 1) * down + 1 : down, left : left + (wide - 1) * across + 1 : across]
