"""The neurons and channels between a network's layers: who is reached, who is used, and who is constant."""

from __future__ import annotations

from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layers.conv import SparseConv2d
from ..layers.dropout import Dropout
from ..layers.flatten import Flatten
from ..layers.layer import Layer
from ..layers.norm import BatchNorm
from ..layers.pooling import GlobalAvgPool, Pool2d
from ..layers.relu import ReLU
from ..layers.residual import Residual
from ..layers.sequential import Sequential
from ..layers.shortcut import PadChannels
from ..layers.sparse import SparseLayer
from ..network import Network
from ..storage.pattern import SparsityPattern

Mask = NDArray[np.bool_]
KEEPING = (ReLU, BatchNorm, Pool2d, GlobalAvgPool, Flatten, Dropout)
"""Layers behind which the units are those before, in the same order."""


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


class Flow(NamedTuple):
    """The units between two layers: who they are, what is known of them, and the stage they come out of, if it is one.

    Units of one number, as `Survey.root` gives it, are joined: features of one channel, or channels that are summed.
    """

    numbers: NDArray[np.int64]
    reached: Mask
    constant: NDArray[np.float64]
    stage: int | None


class Survey:
    """A walk along the tree, in the order of computation and back.

    Attributes
    ----------
    stages : list of Stage
    read, after : list of Flow
        What each stage reads, and what it gives, behind the batch norms and ReLUs that follow it.
    read_used, used : list of boolean array
        Of these units, those from which a path leads to an output of the network.
    around : list of (Layer, array, array)
        Every layer that holds no others, and the numbers of the units before and after it.
    fixed : list of int
        Numbers of units that cannot go: inputs and outputs of the network, and those at layers of unknown kinds.
    """

    def __init__(self, network: Network) -> None:
        self.stages: list[Stage] = []
        self.read: list[Flow] = []
        self.after: list[Flow] = []
        self.around: list[tuple[Layer, NDArray[np.int64], NDArray[np.int64]]] = []
        self._parents: list[int] = []
        self._paths = {id(layer): path for path, layer in network.walk()}
        self._stage: dict[int, int] = {}
        first = network.layers[0].in_shape[0]
        self.before = Flow(self._new(first), np.ones(first, np.bool_), np.full(first, np.nan), None)
        self.fixed = list(self.before.numbers)
        out = self._forward(network.root, self.before)
        self.fixed += list(out.numbers)
        self.read_used, self.used = ([np.zeros(0, np.bool_)] * len(self.stages) for _ in range(2))
        used = self._back(network.root, np.ones(len(out.reached), np.bool_))
        self.used_before = as_units(used, len(self.before.reached))  # as features, if the first layer knows no channels

    def root(self, given: Any) -> int:
        """One number for all units that are joined."""
        number = int(given)
        while self._parents[number] != number:
            self._parents[number] = number = self._parents[self._parents[number]]
        return number

    def _new(self, count: int) -> NDArray[np.int64]:
        start = len(self._parents)
        self._parents += range(start, start + count)
        return np.arange(start, start + count)

    def _join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        for a, b in zip(one.ravel(), other.ravel(), strict=True):
            self._parents[self.root(b)] = self.root(a)

    def _forward(self, layer: Layer, flow: Flow) -> Flow:
        if isinstance(layer, Residual):
            through = self._forward(layer.main, flow)
            around = flow if layer.shortcut is None else self._forward(layer.shortcut, flow)
            return self._sum(through, around, layer.relu)
        if isinstance(layer, Sequential):
            for child in layer.layers:
                flow = self._forward(child, flow)
            return flow
        if len(layer.in_shape) == 3:  # its channels are the units, even of an image that is made of features
            flow = self._grouped(flow, layer.in_shape[0])
        given, flow = flow, self._through(layer, flow)
        self.around.append((layer, given.numbers, flow.numbers))
        return flow

    def _sum(self, through: Flow, around: Flow, relu: bool) -> Flow:
        count = lcm(len(through.numbers), len(around.numbers))
        one, other = (as_values(flow.numbers, count) for flow in (through, around))
        self._join(one, other)
        reached = as_units(through.reached, count) | as_units(around.reached, count)
        constant = as_values(through.constant, count) + as_values(around.constant, count)
        return Flow(one, reached, np.maximum(constant, 0) if relu else constant, None)

    def _grouped(self, flow: Flow, count: int) -> Flow:
        if count == len(flow.numbers):
            return flow
        groups = _blocks(flow.numbers, count)
        self._join(np.repeat(groups[:, :1], groups.shape[1], axis=1), groups)
        return Flow(groups[:, 0], as_units(flow.reached, count), as_values(flow.constant, count), None)

    def _through(self, layer: Layer, flow: Flow) -> Flow:
        """What comes out of a layer that holds no others."""
        if isinstance(layer, SparseLayer):
            return self._of_stage(layer, flow)
        if isinstance(layer, ReLU | BatchNorm):
            constant = np.maximum(flow.constant, 0) if isinstance(layer, ReLU) else _normed(layer, flow.constant)
            flow = flow._replace(constant=constant)
            if flow.stage is not None:
                self.after[flow.stage] = flow
        elif isinstance(layer, PadChannels):
            more = layer.out_shape[0] - layer.in_shape[0]
            numbers, reached = np.append(flow.numbers, self._new(more)), np.append(flow.reached, [False] * more)
            flow = Flow(numbers, reached.astype(np.bool_), np.append(flow.constant, np.zeros(more)), None)
        elif not isinstance(layer, KEEPING):
            flow = self._unknown(layer, flow)
        return flow

    def _of_stage(self, layer: SparseLayer, flow: Flow) -> Flow:
        pattern, units = layer.pattern, len(flow.numbers)
        stage = Stage(self._paths[id(layer)], layer, pattern, units, pattern.shape[1] // max(units, 1))
        reached = _any(pattern.rows, flow.reached[stage.columns], pattern.shape[0])
        out = Flow(self._new(pattern.shape[0]), reached, _constant(stage, flow.constant), len(self.stages))
        self._stage[id(layer)] = len(self.stages)
        self.stages.append(stage)
        self.read.append(flow)
        self.after.append(out)
        return out

    def _unknown(self, layer: Layer, flow: Flow) -> Flow:
        """A layer of another kind: nothing before or after it may go, and it may make anything of a constant."""
        if tuple(layer.in_shape) == tuple(layer.out_shape):
            out = flow._replace(constant=np.full(len(flow.numbers), np.nan), stage=None)
        else:
            count = layer.out_shape[0]
            out = Flow(self._new(count), np.ones(count, np.bool_), np.full(count, np.nan), None)
        self.fixed += [*flow.numbers, *out.numbers]
        return out

    def _back(self, layer: Layer, used: Mask) -> Mask:
        """Units used before a layer, given those after it."""
        if isinstance(layer, Residual):
            around = used if layer.shortcut is None else self._back(layer.shortcut, used)
            through = self._back(layer.main, used)
            count = lcm(len(through), len(around))
            return as_units(through, count) | as_units(around, count)
        if isinstance(layer, Sequential):
            for child in reversed(layer.layers):
                used = self._back(child, used)
        elif (k := self._stage.get(id(layer))) is not None:
            stage = self.stages[k]
            self.used[k] = used = as_units(used, stage.pattern.shape[0])
            self.read_used[k] = used = _any(stage.columns, used[stage.pattern.rows], stage.units)
        elif isinstance(layer, PadChannels):
            used = as_units(used, layer.out_shape[0])[: layer.in_shape[0]]
        elif not isinstance(layer, KEEPING) and tuple(layer.in_shape) != tuple(layer.out_shape):
            used = np.ones(layer.in_shape[0], np.bool_)
        return used


def _blocks(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Values of units as those of `count` units, each of which has a row: of all that it takes a part of."""
    return np.repeat(values, lcm(len(values), count) // max(len(values), 1)).reshape(count, -1)


def as_units(mask: Mask, count: int) -> Mask:
    """A mask of channels for each of their features, or of features for the channels that have any of them."""
    return np.asarray(_blocks(mask, count).any(axis=1))


def as_values(values: NDArray[Any], count: int) -> NDArray[Any]:
    """The same for constants: a channel whose features have several values is not constant."""
    groups = _blocks(values, count)
    if groups.shape[1] == 1:
        return groups[:, 0]
    return np.where((groups == groups[:, :1]).all(axis=1), groups[:, 0], np.nan)


def stages_of(network: Network) -> list[Stage]:
    """The layers with connections, in the order of computation."""
    return Survey(network).stages


def units_of(network: Network) -> list[Units]:
    """The units before the first layer with connections, then those after each."""
    survey = Survey(network)
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
    rows, read, layer = stage.pattern.rows, before[stage.columns], stage.layer
    given = folds(layer, read)
    varies = _any(rows, ~given, stage.pattern.shape[0])
    weight = layer.device.get(layer.weight).astype(np.float64)
    sums = np.bincount(rows, np.where(given, weight * np.where(given, read, 0), 0), stage.pattern.shape[0])
    value = sums if layer.bias is None else layer.device.get(layer.bias) + sums
    return np.where(varies, np.nan, np.maximum(value, 0) if layer.relu else value)


def _normed(norm: BatchNorm, before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Constants as a batch norm gives them outside training."""
    factor, offset = norm.folded()
    after = as_values(before, lcm(len(factor), len(before))) * factor + offset
    return as_values(np.maximum(after, 0) if norm.relu else after, len(before))


def _any(which: NDArray[np.integer], true: Mask, count: int) -> Mask:
    """For each of `count` units, whether any of the entries that belong to it is true."""
    found = np.zeros(count, np.bool_)
    found[which[true]] = True
    return found
