"""Batch normalisation taken into the weights before it: what export and inference compute with."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from .layer import Layer
from .norm import BatchNorm
from .residual import Residual
from .sequential import Sequential
from .sparse import SparseLayer


def folded_layers(root: Sequential) -> dict[str, Layer]:
    """Layers made anew, without the batch norms that directly follow a sparse layer; `prune.folded` says how.

    Parameters
    ----------
    root : Sequential
        Is not changed.

    Returns
    -------
    dict of str to Layer
        By their names in `root`, on the CPU.
    """
    norms: dict[int, list[BatchNorm]] = {}
    _pair(root, None, norms)
    gone = {id(norm) for several in norms.values() for norm in several}
    return _without(root, norms, gone)


def _pair(layer: Layer, before: SparseLayer | None, norms: dict[int, list[BatchNorm]]) -> SparseLayer | None:
    """Find each sparse layer's norms; `before` is the sparse layer, and its norms, that alone give what `layer` takes.

    Returns the same for what follows.
    """
    if isinstance(layer, Sequential):
        for child in layer.layers:
            before = _pair(child, before, norms)
        return before
    if isinstance(layer, Residual):
        for child in layer.children.values():
            _pair(child, None, norms)  # what it takes goes the other way, too
    elif isinstance(layer, SparseLayer):
        return None if layer.relu else layer
    elif isinstance(layer, BatchNorm) and before is not None and tuple(layer.in_shape) == tuple(before.out_shape):
        norms.setdefault(id(before), []).append(layer)
        return None if layer.relu else before
    return None


def _without(layer: Layer, norms: Mapping[int, list[BatchNorm]], gone: set[int]) -> dict[str, Layer]:
    """The children of a layer made anew, but for those of which nothing is left."""
    made: dict[str, Layer] = {}
    for name, child in layer.children.items():
        if isinstance(child, Sequential | Residual):
            if held := _without(child, norms, gone):
                made[name] = type(child).from_children(child.config(), held)
        elif isinstance(child, SparseLayer) and id(child) in norms:
            made[name] = _folded(child, norms[id(child)])
        elif id(child) not in gone:
            made[name] = copy.deepcopy(child).to("cpu")
    return made


def _folded(layer: SparseLayer, norms: list[BatchNorm]) -> Layer:
    get, kind = layer.device.get, layer.dtype
    weight = np.asarray(get(layer.weight), np.float64)
    bias = np.zeros(layer.pattern.shape[0]) if layer.bias is None else np.asarray(get(layer.bias), np.float64)
    for norm in norms:
        factor, offset = norm.folded()
        weight, bias = weight * factor[layer.pattern.rows], factor * bias + offset
    config = {name: value for name, value in layer.config().items() if name != "bias"} | {"relu": norms[-1].relu}
    return type(layer).from_config(config, layer.pattern, {"weight": weight.astype(kind), "bias": bias.astype(kind)})
