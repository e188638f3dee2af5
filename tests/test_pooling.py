"""MaxPool2d, AvgPool2d and Flatten: beside NumPy's windows, their gradients, and what reaches a ReLU's mask."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference

from sparsecore.gradcheck import gradcheck
from sparsecore.layers import KINDS, AvgPool2d, Flatten, MaxPool2d, ReLU, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random

from .kernel_checks import POOLS, Guarded, Launcher, assert_same_bits, machines
from .small import Array, Counting, numbers, tiled

both = pytest.mark.parametrize("kind", [MaxPool2d, AvgPool2d])


@st.composite
def geometries(draw: Any) -> tuple[tuple[int, int, int], tuple[int, int], tuple[int, int]]:
    """An image, windows that fit, and steps that leave gaps, none, or overlaps."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    height, width = (k + draw(st.integers(0, 7)) for k in kernel)
    return (draw(st.integers(1, 5)), height, width), kernel, draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))


def windows(layer: Any, x: Array) -> Array:
    """(batch, channels, rows, columns, high, wide)."""
    every = np.lib.stride_tricks.sliding_window_view(x, layer.kernel_size, (2, 3))
    return every[:, :, :: layer.stride[0], :: layer.stride[1]]


@both
@settings(max_examples=60)
@given(geometry=geometries(), batch=st.integers(1, 35), seed=st.integers(0, 2**32))
def test_pooling_is_numpys(kind, geometry, batch, seed):
    layer = kind(*geometry)
    x = numbers((batch, *layer.in_shape), seed)
    y, _ = layer.forward(x)
    assert y.shape == (batch, *layer.out_shape)
    wanted = windows(layer, x)
    assert np.allclose(y, wanted.max((4, 5)) if kind is MaxPool2d else wanted.mean((4, 5)), rtol=1e-15, atol=1e-15)


@both
@settings(max_examples=25)
@given(geometry=geometries(), batch=st.integers(1, 18), seed=st.integers(0, 2**32))
def test_gradients_are_derivatives(kind, geometry, batch, seed):
    gradcheck(kind(*geometry), numbers((batch, *geometry[0]), seed), samples=40)


@machines
@settings(max_examples=20)
@given(geometry=geometries(), shift=st.sampled_from([0, 1, 5]), seed=st.integers(0, 2**32))
def test_the_kernels_do_what_the_oracle_does_and_stay_within_their_arrays(dtype, register_bytes, geometry, shift, seed):
    """Bit by bit for the largest, of which many are equal here; within rounding for the mean."""
    layer, rng = MaxPool2d(*geometry), np.random.default_rng(seed)
    window, memory, launcher = layer._window, Guarded(shift), Launcher(POOLS[0], register_bytes=register_bytes)
    inside, outside = (2, *layer.in_shape, LANES), (2, *layer.out_shape, LANES)
    x = memory.put(rng.integers(-2, 3, inside).astype(dtype))
    dy = memory.put(rng.standard_normal(outside).astype(dtype))
    y, mean, index = memory.empty(outside, dtype), memory.empty(outside, dtype), memory.empty(outside, np.uint8)
    dx, dx_mean = memory.empty(inside, dtype), memory.empty(inside, dtype)
    launcher.max_pool(x, window, y, index)
    launcher.max_unpool(dy, index, window, dx)
    launcher.mean_pool(x, window, mean)
    launcher.mean_unpool(dy, window, dx_mean)
    memory.assert_intact()
    exact, exact_index, exact_dx = np.empty_like(y), np.empty_like(index), np.empty_like(dx)
    reference.max_pool(x, window, exact, exact_index)
    reference.max_unpool(dy, exact_index, window, exact_dx)
    assert np.array_equal(y, exact) and np.array_equal(index, exact_index) and np.array_equal(dx, exact_dx)
    reference.mean_pool(x, window, exact)
    reference.mean_unpool(dy, window, exact_dx)
    rounding = 40 * np.finfo(dtype).eps
    assert np.allclose(mean, exact, rounding, rounding) and np.allclose(dx_mean, exact_dx, rounding, 10 * rounding)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_is_larger_than_any_number_and_of_equals_the_first_counts(dtype):
    layer = MaxPool2d((1, 2, 4), 2)
    x = np.zeros((17, 1, 2, 4), dtype)
    x[0, 0, 1, 0], x[0, 0, 1, 1] = np.nan, np.nan
    x[1, 0, 0, 1], x[1, 0, 1, 0] = np.inf, np.nan
    x[2, 0, :, :2] = -np.inf
    y, cache = layer.forward(x)
    assert np.isnan(y[:2, 0, 0, 0]).all() and y[2, 0, 0, 0] == -np.inf and not y[3:].any()
    dx, _ = layer.backward(np.ones_like(y), cache)
    assert dx[0, 0, 1, 0] == 1 and dx[1, 0, 1, 0] == 1 and np.all(dx[2:, 0, 0, [0, 2]] == 1) and dx.sum() == 2 * 17


@both
def test_the_same_bits_on_any_number_of_threads(kind):
    layer, x = kind((5, 9, 8), 3, 2), numbers((50, 5, 9, 8))

    def step(launcher: Launcher) -> list[Array]:
        workspace = Workspace(cpu(), launcher)
        y, cache = layer.forward(x, workspace)
        return [y, layer.backward(y, cache, workspace)[0]]

    assert_same_bits(step)


@both
@pytest.mark.parametrize("overlap", [False, True])
def test_gradients_pass_a_pooling_that_follows_a_relu(kind, overlap):
    """The mask of the ReLU is applied once, in the pass that feeds the pooling where that is enough."""
    rng = np.random.default_rng(0)
    pool = kind((4, 6, 6), 3, 2) if overlap else kind((4, 6, 6), 2)
    for layers in (
        [
            SparseConv2d(uniform_random(4, 2 * 9, 0.3, rng), (2, 8, 8), 3, relu=True, rng=rng, dtype=np.float64),
            pool,
            Flatten(pool.out_shape),
            SparseLinear(dense(3, int(np.prod(pool.out_shape))), rng=rng, dtype=np.float64),
        ],
        [
            SparseConv2d(dense(4, 2 * 9), (2, 8, 8), 3, rng=rng, dtype=np.float64),
            ReLU((4, 6, 6)),
            pool,
            SparseLinear(dense(3, int(np.prod(pool.out_shape))), rng=rng, dtype=np.float64),
        ],
        [SparseConv2d(dense(4, 2 * 9), (2, 8, 8), 3, relu=True, rng=rng, dtype=np.float64), pool, Flatten(pool.out_shape)],  # nobody masks for it  # noqa: E501
    ):
        gradcheck(Network(layers), numbers((17, 2, 8, 8), 3), labels=rng.integers(0, 3, 17), samples=60)


def test_a_relu_before_a_pooling_costs_no_pass_of_its_own():
    kernels = Counting()
    workspace = Workspace(cpu(), kernels)
    network = Network(
        [
            SparseConv2d(dense(4, 9), (1, 8, 8), 3, relu=True), MaxPool2d((4, 6, 6), 2), Flatten((4, 3, 3)),
            SparseLinear(dense(3, 36)),
        ]
    )  # fmt: skip
    y, caches = network.forward(tiled(numbers((16, 1, 8, 8), dtype=np.float32)), workspace)
    network.backward(y, caches, workspace)
    names = [name.removesuffix(" with mask") for name in kernels.calls]
    assert names == ["spmm", "max_pool", "spmm", "sddmm", "reorder", "spmm", "max_unpool", "sddmm"]
    assert kernels.calls[5] == "spmm with mask"


@both
def test_what_stands_in_spare_lanes_reaches_nothing(kind):
    layer, x, workspace = kind((2, 4, 6), 2), numbers((19, 2, 4, 6)), Workspace()
    wanted, cache = layer.forward(x)
    wanted_dx, _ = layer.backward(wanted, cache)
    y, cache = layer.forward(tiled(x, np.nan), workspace)
    dx, _ = layer.backward(tiled(wanted, np.nan), cache, workspace)
    for tiles, plain in ((y, wanted), (dx, wanted_dx)):
        assert np.array_equal(np.moveaxis(tiles.data, -1, 1).reshape(-1, *plain.shape[1:])[:19], plain)
        assert not tiles.data[1, ..., 3:].any()


@both
def test_a_second_step_allocates_nothing(kind):
    layer, workspace = kind((2, 4, 6), 2), Workspace()
    arrays = []
    for seed in range(2):
        x = tiled(numbers((19, 2, 4, 6), seed))
        y, cache = layer.forward(x, workspace)
        dx, grads = layer.backward(y, cache, workspace)
        arrays.append([y.data, dx.data, cache[-1]])
        assert grads == {} and layer.params == {}
    assert all(np.shares_memory(a, b) for a, b in zip(arrays[0][:2], arrays[1][:2], strict=True))
    assert layer.backward(y, cache, workspace, need_dx=False) == (None, {})
    if kind is MaxPool2d:
        assert arrays[0][2].dtype == np.uint8 and np.shares_memory(arrays[0][2], arrays[1][2])


def test_flatten_is_a_reshape():
    layer, workspace, x = Flatten((2, 3, 4)), Workspace(), numbers((5, 2, 3, 4))
    y, cache = layer.forward(x)
    assert np.array_equal(y, x.reshape(5, 24)) and np.array_equal(layer.backward(y, cache)[0], x)
    tiles = tiled(x, rectified=True)
    y, cache = layer.forward(tiles, workspace)
    assert y.rectified and np.shares_memory(y.data, tiles.data) and y.data.shape == (1, 24, LANES)
    back, _ = layer.backward(y, cache, workspace)
    assert np.shares_memory(back.data, tiles.data) and back.data.shape == tiles.data.shape
    assert workspace.nbytes == 0


@pytest.mark.parametrize("layer", [MaxPool2d((3, 6, 7), (2, 3), 2), AvgPool2d((3, 6, 7), 2), Flatten((3, 6, 7))], ids=repr)  # noqa: E501
def test_layers_survive_copies_pickles_and_configurations(layer):
    again = KINDS[type(layer).__name__].from_config(layer.config(), None, {})
    x = numbers((4, 3, 6, 7))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), again):
        assert type(twin) is type(layer) and twin.config() == layer.config() and twin.out_shape == layer.out_shape
        assert np.array_equal(twin.forward(x)[0], layer.forward(x)[0])


@both
def test_wrong_layers_and_inputs_are_named(kind):
    name = kind.__name__
    for call, error, message in (
        (lambda: kind((1, 4, 4), 5), ValueError, f"{name}: windows must fit images of 4×4 and have at most 256 pixels, got 5×5"),  # noqa: E501
        (lambda: kind((1, 40, 40), 17), ValueError, "have at most 256 pixels, got 17×17"),
        (lambda: kind((1, 4), 2), ValueError, "in_shape must hold 3 integers of at least 1, got (1, 4)"),
        (lambda: kind((1, 4, 4), 0), ValueError, "kernel_size must hold 2 integers of at least 1, got (0, 0)"),
        (lambda: kind((1, 4, 4), 2, 0.5), TypeError, "stride must hold 2 integers, got 0.5"),
        (lambda: kind((1, 4, 4), 2).forward(np.ones((3, 1, 4, 5))), ValueError, f"{name}(1×4×4→1×2×2): x must have shape"),  # noqa: E501
        (lambda: kind((1, 4, 4), 2).forward(tiled(np.ones((3, 1, 4, 5)))), ValueError, "x must have 16 features"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)
    assert kind((1, 16, 16), 16).out_shape == (1, 1, 1)
