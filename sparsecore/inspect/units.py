"""The neurons and channels between a network's layers: who is reached, who is used, and who is constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layers.conv import SparseConv2d
from ..layers.layer import Layer
from ..layers.relu import ReLU
from ..layers.residual import Residual
from ..network import Network
from ..storage.pattern import SparsityPattern

Mask = NDArray[np.bool_]


class Units(NamedTuple):
    """The units before or after a layer with connections: features of a vector, or channels of an image.

    Attributes
    ----------
    reached : boolean array, shape (units,)
        There is a path from an input.
    used : boolean array, shape (units,)
        There is a path to an output.
    constant : float64 array, shape (units,)
        The value of a unit that has the same for every input; NaN for all others, and for the inputs.
    """

    reached: Mask
    used: Mask
    constant: NDArray[np.float64]

    @property
    def alive(self) -> Mask:
        """On a path from an input to an output."""
        return self.reached & self.used


class Stage(NamedTuple):
    """A layer with connections, and the units that it reads.

    Attributes
    ----------
    path : str
    layer : Layer
    pattern : SparsityPattern
    units : int
        Before the layer.
    each : int
        Columns of the pattern for each of them: 1, the pixels of a channel, or the weights of a filter on it.
    """

    path: str
    layer: Any
    pattern: SparsityPattern
    units: int
    each: int

    @property
    def columns(self) -> NDArray[np.integer]:
        """The unit that each connection reads."""
        return self.pattern.indices // self.each


class _Flow(NamedTuple):
    """What is known of the units between two layers, and the stage that they come out of, if it is one alone."""

    reached: Mask
    constant: NDArray[np.float64]
    stage: int | None


class _Survey:
    """A walk along the tree, in the order of computation and back."""

    def __init__(self, network: Network) -> None:
        self.stages: list[Stage] = []
        self.after: list[_Flow] = []
        self.used: dict[int, Mask] = {}
        root, paths = network.root, {id(layer): path for path, layer in network.walk()}
        self._paths = paths
        first = network.layers[0].in_shape[0]
        self.before = _Flow(np.ones(first, np.bool_), np.full(first, np.nan), None)
        out = self._forward(root, self.before)
        self.used_before = self._back(root, np.ones(len(out.reached), np.bool_), len(self.stages))[0]

    def _forward(self, layer: Layer, flow: _Flow) -> _Flow:
        if isinstance(layer, Residual):
            through = self._forward(layer.main, flow)
            around = flow if layer.shortcut is None else self._forward(layer.shortcut, flow)
            count = max(len(through.reached), len(around.reached))
            reached = as_units(through.reached, count) | as_units(around.reached, count)
            constant = as_values(through.constant, count) + as_values(around.constant, count)
            return _Flow(reached, np.maximum(constant, 0) if layer.relu else constant, None)
        for child in layer.children.values():
            flow = self._forward(child, flow)
        if isinstance(layer, ReLU):
            flow = flow._replace(constant=np.maximum(flow.constant, 0))
            if flow.stage is not None:
                self.after[flow.stage] = flow
        elif (pattern := getattr(layer, "pattern", None)) is not None:
            units = len(flow.reached)
            if pattern.shape[1] % units:  # an image made of features: its channels are the units
                units = layer.in_shape[0]
                flow = _Flow(as_units(flow.reached, units), as_values(flow.constant, units), None)
            stage = Stage(self._paths[id(layer)], layer, pattern, units, pattern.shape[1] // max(units, 1))
            reached = _any(pattern.rows, flow.reached[stage.columns], pattern.shape[0])
            flow = _Flow(reached, _constant(stage, flow.constant), len(self.stages))
            self.stages.append(stage)
            self.after.append(flow)
        return flow

    def _back(self, layer: Layer, used: Mask, end: int) -> tuple[Mask, int]:
        """Units used before a layer, given those after it; `end` is how many stages lie before what follows it."""
        if isinstance(layer, Residual):
            around = used
            if layer.shortcut is not None:
                around, end = self._back(layer.shortcut, used, end)
            through, end = self._back(layer.main, used, end)
            count = max(len(through), len(around))
            return as_units(through, count) | as_units(around, count), end
        for child in reversed(list(layer.children.values())):
            used, end = self._back(child, used, end)
        if not layer.children and getattr(layer, "pattern", None) is not None:
            end -= 1
            stage = self.stages[end]
            self.used[end] = used = as_units(used, stage.pattern.shape[0])
            used = _any(stage.columns, used[stage.pattern.rows], stage.units)
        return used, end


def as_units(mask: Mask, count: int) -> Mask:
    """A mask of channels for each of their features, or of features for the channels that have any of them."""
    if count >= len(mask):
        return np.repeat(mask, count // max(len(mask), 1))
    return np.asarray(mask.reshape(count, -1).any(axis=1))


def as_values(constant: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The same for constants: a channel whose features have several values is not constant."""
    if count >= len(constant):
        return np.repeat(constant, count // max(len(constant), 1))
    groups = constant.reshape(count, -1)
    return np.where((groups == groups[:, :1]).all(axis=1), groups[:, 0], np.nan)


def stages_of(network: Network) -> list[Stage]:
    """The layers with connections. Those between keep their units: ReLU, pooling, flattening and dropout do."""
    return _Survey(network).stages


def units_of(network: Network) -> list[Units]:
    """The units before the first layer with connections, then those after each."""
    survey = _Survey(network)
    found = [Units(survey.before.reached, survey.used_before, survey.before.constant)]
    for k, flow in enumerate(survey.after):
        found.append(Units(flow.reached, survey.used[k], flow.constant))
    return found


def folds(layer: Layer, value: Any) -> Any:
    """Whether an input that is always `value` can become part of the layer's bias: not beside a border of zeros."""
    padded = isinstance(layer, SparseConv2d) and any(layer.padding)
    return (value == 0) | (np.isfinite(value) & (not padded))


def _constant(stage: Stage, before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values after a layer of those rows whose inputs are all constant."""
    rows, read = stage.pattern.rows, before[stage.columns]
    given = folds(stage.layer, read)
    varies = _any(rows, ~given, stage.pattern.shape[0])
    weight = stage.layer.params["weight"].astype(np.float64)
    sums = np.bincount(rows, np.where(given, weight * np.where(given, read, 0), 0), stage.pattern.shape[0])
    value = sums if stage.layer.bias is None else stage.layer.bias + sums
    if stage.layer.relu:
        value = np.maximum(value, 0)
    return np.where(varies, np.nan, value)


def _any(which: NDArray[np.integer], true: Mask, count: int) -> Mask:
    """For each of `count` units, whether any of the entries that belong to it is true."""
    found = np.zeros(count, np.bool_)
    found[which[true]] = True
    return found
