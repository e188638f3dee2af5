"""The gradient check passes what is right, wherever zeros stand, and finds what is wrong, however it hides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sparsecore.models.lenet300 import lenet300

from sparsecore.gradcheck import GradientError, gradcheck
from sparsecore.layers import AvgPool2d, Dropout, Flatten, MaxPool2d, ReLU, Residual, Sequential, SparseConv2d
from sparsecore.layers.linear import SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.tiles import Tiles
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import uniform_random

full = SparsityPattern.full


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def linear(out: int, into: int, kind: Any = SparseLinear, **options: Any) -> Any:
    return kind(full((out, into)), rng=np.random.default_rng(out), **options)


# ---------------------------------------------------------------------------------------------- right


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sparsity", [0.9, 0.99, 0.995])
def test_neurons_that_get_nothing_pass(sparsity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = lenet300([uniform_random(300, 784, sparsity, rng), uniform_random(100, 300, sparsity, rng)], seed=seed)
    gradcheck(network, numbers(3, 784, seed=seed), labels=[1, 2, 3], samples=60, seed=seed)


def test_empty_rows_pass() -> None:
    pattern = SparsityPattern((4, 5), [0, 0, 2, 2, 3], [0, 3, 1])
    gradcheck(SparseLinear(pattern, relu=True), numbers(5, 5))
    layers = [SparseLinear(pattern, relu=True), SparseLinear(SparsityPattern((3, 4), [0, 1, 1, 2], [0, 2]), relu=True)]
    gradcheck(Network([*layers, linear(3, 3)]), numbers(5, 5), labels=[0, 1, 2, 0, 1])


@pytest.mark.parametrize("batch", [1, 5, 16, 20])
@pytest.mark.parametrize(
    "make",
    [
        lambda: linear(4, 18, relu=True), lambda: linear(4, 18, format="coo"), lambda: ReLU((18,)),
        lambda: SparseConv2d(full((3, 8)), (2, 3, 3), 2, relu=True), lambda: MaxPool2d((2, 3, 3), 2, 1),
        lambda: AvgPool2d((2, 3, 3), 2, 1), lambda: Flatten((2, 3, 3)), lambda: Dropout((18,), 0.5),
        lambda: Residual(Sequential([linear(18, 18, relu=True), linear(18, 18)])),
        lambda: Sequential([linear(6, 18, relu=True), ReLU((6,)), linear(3, 6)]),
    ],
)  # fmt: skip
def test_our_layers_keep_the_contract(make: Any, batch: int) -> None:
    gradcheck(make(), numbers(batch, 18), samples=40)


@pytest.mark.parametrize(
    "scales", [np.geomspace(1, 1e6, 8), np.geomspace(1e-6, 1, 8), np.full(8, 1e-6), np.full(8, 1e6)]
)
def test_columns_of_any_scale_pass(scales: Any) -> None:
    gradcheck(linear(4, 8, relu=True), numbers(9, 8) * scales)
    gradcheck(Network([linear(6, 8, relu=True), linear(3, 6)]), numbers(9, 8) * scales, labels=np.arange(9) % 3)


# ---------------------------------------------------------------------------------------------- wrong


class Spoilt(SparseLinear):
    """Right but for what a test makes of its passes."""

    def forward_tiles(self, x: Tiles, workspace: Any) -> Any:
        y, cache = super().forward_tiles(x, workspace)
        return self.gives(y, x), cache

    def backward_tiles(self, dy: Tiles, cache: Any, workspace: Any, *, need_dx: bool = True) -> Any:
        dx, grads = super().backward_tiles(dy, cache, workspace, need_dx=need_dx)
        return self.returns(dy, dx, grads, need_dx)

    def gives(self, y: Tiles, x: Tiles) -> Tiles:
        return y

    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        return dx, grads


class SaysRectified(Spoilt):
    def gives(self, y: Tiles, x: Tiles) -> Tiles:
        return Tiles(y.data, y.batch, rectified=True)


class SaysRectifiedAsX(Spoilt):
    def gives(self, y: Tiles, x: Tiles) -> Tiles:
        return Tiles(y.data, y.batch, rectified=x.rectified)


class SaysMasked(Spoilt):
    """Does not know whether x came out of a ReLU, and says that its mask is applied."""

    def forward_tiles(self, x: Tiles, workspace: Any) -> Any:
        return super().forward_tiles(Tiles(x.data, x.batch), workspace)

    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        return dx and Tiles(dx.data, dx.batch, masked=True), grads


class IgnoresMasked(Spoilt):
    """Doubles what has been masked already."""

    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        return dx, {name: array * (1 + dy.masked) for name, array in grads.items()}


class Accumulates(Spoilt):
    total = 0.0

    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        self.total = self.total + grads["weight"]
        return dx, grads | {"weight": self.total}


class AccumulatesDx(Spoilt):
    total: Any = None

    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        if dx is not None:
            self.total = dx.data.copy() if self.total is None else self.total + dx.data
            dx = Tiles(self.total.copy(), dx.batch, masked=dx.masked)
        return dx, grads


class NeedsDx(Spoilt):
    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        return dx, grads if need_dx else {name: 0 * array for name, array in grads.items()}


@pytest.mark.parametrize(
    "kind, relu, problem",
    [
        (SaysRectified, False, "masked, since y is said to be rectified"),
        (SaysRectifiedAsX, False, "masked, since y is said to be rectified, of a rectified x"),
        (SaysMasked, False, "of x .* of a rectified x"), (SaysMasked, True, "of x .* of a rectified x"),
        (IgnoresMasked, True, "masked, since y is said to be rectified"),
        (Accumulates, False, "of weight a second time"), (AccumulatesDx, False, "of x a second time"),
        (NeedsDx, True, "without dx"), (SaysRectified, True, ""), (Spoilt, True, ""), (Spoilt, False, ""),
    ],
)  # fmt: skip
def test_layers_that_break_the_contract_are_found(kind: Any, relu: bool, problem: str) -> None:
    layer, x = linear(7, 9, kind, relu=relu), numbers(20, 9)
    if not problem:
        gradcheck(layer, x)
        return
    with pytest.raises(GradientError, match=rf"^SparseLinear\(9→7\): backward gives another gradient .*{problem}"):
        gradcheck(layer, x)


class AccumulatesBeside(Spoilt):
    """Adds up what it has given before, and writes it where the optimizer reads."""

    total: Any = None

    def backward_tiles(self, dy: Tiles, cache: Any, workspace: Any, *, need_dx: bool = True) -> Any:
        dx, grads = super().backward_tiles(dy, cache, workspace, need_dx=need_dx)
        self.total = grads["weight"].copy() if self.total is None else self.total + grads["weight"]
        grads["weight"][...] = self.total
        return dx, grads


def test_a_network_whose_layer_accumulates_is_found() -> None:
    network = Network([linear(7, 9, relu=True), linear(4, 7, AccumulatesBeside)])
    with pytest.raises(
        GradientError, match=r"^layer 1 SparseLinear\(7→4\): .* another gradient of weight a second time"
    ):
        gradcheck(network, numbers(20, 9), labels=np.arange(20) % 4)


class Column(Spoilt):
    """Wrong by a factor for the connections and inputs of one column."""

    which, factor, what = 0, 2.0, "weight"

    def returns(self, dy: Tiles, dx: Any, grads: Any, need_dx: bool) -> Any:
        if self.what == "weight":
            grads["weight"][self.pattern.indices == self.which] *= self.factor
        elif dx is not None:
            dx.data[:, self.which] *= self.factor
        return dx, grads


@pytest.mark.parametrize("what", ["weight", "x"])
@pytest.mark.parametrize("factor", [0.0, -1.0, 2.0, 0.5])
@pytest.mark.parametrize("which", [0, 4, 7])
@pytest.mark.parametrize("scales", [np.geomspace(1, 1e6, 8), np.geomspace(1e-6, 1, 8)])
def test_a_mistake_in_a_column_of_another_scale_is_found(scales: Any, which: int, factor: float, what: str) -> None:
    layer = linear(5, 8, Column)
    layer.which, layer.factor, layer.what = which, factor, what
    with pytest.raises(GradientError, match="backward gives"):
        gradcheck(layer, numbers(9, 8) * scales)
