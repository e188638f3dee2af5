"""Removing what is dead: neurons and channels that no input reaches or no output uses, with their connections."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.layer import Layer
from ..layers.residual import Residual
from ..layers.sequential import Sequential
from ..network import Network
from ..storage.pattern import SparsityPattern
from .units import Mask, Stage, folds, stages_of, units_of


def remove_dead(network: Network) -> Network:
    """A smaller network that computes the same function, up to rounding.

    Units that reach no output are removed. A unit that no input reaches always has the same value, which is added to
    the biases that it fed; it stays only where a padded convolution reads it, whose border is zero while the unit may
    not be. Inputs and outputs of the network stay, and one neuron of a layer that is all dead.

    Parameters
    ----------
    network : Network
        Is not changed.

    Returns
    -------
    Network
        Of new layers; with the same normalisation and the same sparse layers.

    Raises
    ------
    ValueError
        If a layer has a way around it: a unit there could only be removed from both ways at once.
    """
    joined = [path for path, layer in network.walk() if isinstance(layer, Residual)]
    if joined:
        name = f"layer {joined[0]}, {network[joined[0]]!r}"
        raise ValueError(f"remove_dead: {name}, sums two ways, which are not narrowed")
    stages, units = stages_of(network), units_of(network)
    keep = [np.ones(len(units[0].used), np.bool_)]
    for after, stage in zip(units[1:-1], stages[1:], strict=True):
        keep.append(_at_least_one(after.used & ~_foldable(stage, after.constant)))
    keep.append(np.ones(len(units[-1].used), np.bool_))
    at = 0  # stages that have been passed

    def smaller(layer: Layer) -> Layer:
        nonlocal at
        if isinstance(layer, Sequential):
            return Sequential({name: smaller(child) for name, child in layer.children.items()})
        if at < len(stages) and layer is stages[at].layer:
            at += 1
            return _smaller(stages[at - 1], keep[at - 1], keep[at], units[at - 1].constant)
        return _narrowed(layer, len(keep[at]), int(keep[at].sum()))

    layers = {name: smaller(layer) for name, layer in network.root.children.items()}
    return Network(layers, sparse=network.sparse, normalisation=network.normalisation)


def _foldable(stage: Stage, constant: Any) -> Mask:
    return np.isfinite(constant) & folds(stage.layer, constant)


def _at_least_one(keep: Mask) -> Mask:
    if len(keep) and not keep.any():
        keep = keep.copy()
        keep[0] = True
    return keep


def _smaller(stage: Stage, keep_in: Mask, keep_out: Mask, constant: Any) -> Layer:
    """The layer with the rows and units that stay; what the removed units always gave goes into its biases."""
    layer, pattern = stage.layer, stage.pattern
    rows, read = pattern.rows, keep_in[stage.columns]
    weight, bias = layer.params["weight"], layer.params["bias"].astype(np.float64)
    gone = np.flatnonzero(~read)
    given = np.nan_to_num(constant[stage.columns[gone]]) * weight[gone]
    bias = bias + np.bincount(rows[gone], given, pattern.shape[0])
    stays = np.flatnonzero(read & keep_out[rows])
    new_row, new_unit = np.cumsum(keep_out) - 1, np.cumsum(keep_in) - 1
    columns = new_unit[stage.columns[stays]] * stage.each + pattern.indices[stays] % stage.each
    shape = int(keep_out.sum()), int(keep_in.sum()) * stage.each
    fan_in = np.bincount(new_row[rows[stays]], minlength=shape[0])
    smaller = SparsityPattern(shape, np.append(0, np.cumsum(fan_in)), columns)
    config = layer.config()
    if "in_shape" in config:
        config["in_shape"] = [int(keep_in.sum()), *config["in_shape"][1:]]
    params = {"weight": weight[stays], "bias": bias[keep_out].astype(weight.dtype)}
    return type(layer).from_config(config, smaller, params)


def _narrowed(layer: Layer, before: int, after: int) -> Layer:
    """A layer without connections, for `after` units where there were `before`."""
    config = layer.config()
    (name,) = {"shape", "in_shape"} & config.keys()
    first, *rest = config[name]
    return type(layer).from_config(config | {name: [first // before * after, *rest]}, None, {})
