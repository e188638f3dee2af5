"""The neurons and channels between a network's layers: who is reached, who is used, and who is constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layers.conv import SparseConv2d
from ..layers.layer import Layer
from ..layers.relu import ReLU
from ..network import Network
from ..storage.pattern import SparsityPattern

Mask = NDArray[np.bool_]


class Units(NamedTuple):
    """What stands before or after a layer with connections: features of a vector, or channels of an image.

    Attributes
    ----------
    reached : boolean array, shape (units,)
        There is a path from an input.
    used : boolean array, shape (units,)
        There is a path to an output.
    constant : float64 array, shape (units,)
        The value of those that have the same for every input; NaN where it depends on the input. Inputs do.
    """

    reached: Mask
    used: Mask
    constant: NDArray[np.float64]

    @property
    def alive(self) -> Mask:
        """On a path from an input to an output."""
        return self.reached & self.used


class Stage(NamedTuple):
    """A layer with connections, and what it takes its inputs from.

    Attributes
    ----------
    place : int
        In the network.
    layer : Layer
    pattern : SparsityPattern
    units : int
        Before the layer.
    each : int
        Columns of the pattern that belong to one of them: 1, the pixels of a channel, or the places of a filter.
    """

    place: int
    layer: Any
    pattern: SparsityPattern
    units: int
    each: int

    @property
    def columns(self) -> NDArray[np.integer]:
        """The unit that each connection reads."""
        return self.pattern.indices // self.each


def stages_of(network: Network) -> list[Stage]:
    """The layers with connections. Those between keep their units: ReLU, pooling, flattening and dropout do."""
    stages: list[Stage] = []
    patterns = network.patterns
    for place, pattern in patterns.items():
        layer = network.layers[place]
        units = stages[-1].pattern.shape[0] if stages else layer.in_shape[0]
        stages.append(Stage(place, layer, pattern, units, pattern.shape[1] // max(units, 1)))
    return stages


def units_of(network: Network) -> list[Units]:
    """The units before the first layer with connections, then those after each."""
    stages = stages_of(network)
    reached, constants = [np.ones(stages[0].units, np.bool_)], [np.full(stages[0].units, np.nan)]
    for stage in stages:
        reached.append(_any(stage.pattern.rows, reached[-1][stage.columns], stage.pattern.shape[0]))
        constants.append(_constant(network, stage, constants[-1]))
    used = [np.ones(stages[-1].pattern.shape[0], np.bool_)]
    for stage in reversed(stages):
        used.insert(0, _any(stage.columns, used[0][stage.pattern.rows], stage.units))
    return [Units(*each) for each in zip(reached, used, constants, strict=True)]


def folds(layer: Layer, value: Any) -> Any:
    """Whether an input that is always `value` can become part of the layer's bias: not beside a border of zeros."""
    padded = isinstance(layer, SparseConv2d) and any(layer.padding)
    return (value == 0) | (np.isfinite(value) & (not padded))


def _constant(network: Network, stage: Stage, before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values after a layer, and after what follows it up to the next, of those rows whose inputs are all constant."""
    rows, read = stage.pattern.rows, before[stage.columns]
    given = folds(stage.layer, read)
    varies = _any(rows, ~given, stage.pattern.shape[0])
    weight = stage.layer.params["weight"].astype(np.float64)
    sums = np.bincount(rows, np.where(given, weight * np.where(given, read, 0), 0), stage.pattern.shape[0])
    value = stage.layer.params["bias"] + sums
    later = network.layers[stage.place + 1 :]
    ends = next((k for k, layer in enumerate(later) if hasattr(layer, "pattern")), len(later))
    if stage.layer.relu or any(isinstance(layer, ReLU) for layer in later[:ends]):
        value = np.maximum(value, 0)
    return np.where(varies, np.nan, value)


def _any(which: NDArray[np.integer], true: Mask, count: int) -> Mask:
    """For each of `count` units, whether any of the entries that belong to it is true."""
    found = np.zeros(count, np.bool_)
    found[which[true]] = True
    return found
