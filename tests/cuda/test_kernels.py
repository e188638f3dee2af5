"""Every CUDA kernel against the oracle, in three orders of threads, over awkward shapes; then every access, checked."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference
from sparsecore.kernels.cpu.launch import Launcher as CPULauncher
from sparsecore.kernels.layout import Grid, Window
from sparsecore.kernels.rates import SCALE
from sparsecore.kernels.tuning import LARGEST_GROUP

from sparsecore.runtime.devices import CUDA
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan, coo_layout_of, layout_of, linear_grid
from sparsecore.topology import uniform_random

from .. import test_coo as coo
from .. import test_norm_kernels as norm
from .. import test_strips as strips
from ..kernel_checks import LANES, Guarded, assert_close
from ..small import numbers
from ..test_conv import layers
from ..test_kernels import awkward_cases, cases, check_sddmm, check_spmm, images
from .machines import OnDevice, machine

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
FEW, MORE = settings(max_examples=15), settings(max_examples=40)


def rounding(dtype: Any) -> float:
    return 16 * float(np.finfo(dtype).eps)


# ------------------------------------------------------------------------------------------ sparse operators


@dtypes
@given(cases())
@MORE
def test_fully_connected(cuda, dtype, case):
    check_spmm(OnDevice(cuda), case, dtype, Guarded())
    check_sddmm(OnDevice(cuda), case, dtype, Guarded())


@dtypes
@given(images())
@MORE
def test_images(cuda, dtype, image):
    check_spmm(OnDevice(cuda), image[0], dtype, Guarded())
    check_sddmm(OnDevice(cuda), image[0], dtype, Guarded())


@dtypes
def test_awkward_shapes(cuda, dtype):
    for case in awkward_cases():
        check_spmm(OnDevice(cuda), case, dtype, Guarded())
        check_sddmm(OnDevice(cuda), case, dtype, Guarded())


@dtypes
@given(case=coo.cases() | coo.images())
@MORE
def test_connections_in_their_order(cuda, dtype, case):
    coo.check(OnDevice(cuda), case, dtype, Guarded())


@dtypes
def test_rows_that_span_many_segments_and_rows_of_nothing(cuda, dtype):
    fan_in = np.random.default_rng(0).integers(0, 8, 200)
    fan_in[[0, 7, 8, 150, 199]] = 64, 1000, 65, 128, 300
    pattern = coo.with_fan_in(fan_in, 1000)
    rng = np.random.default_rng(1)
    for tiles in (1, 9):
        shapes = (pattern.nnz,), (tiles, 1000, LANES), (tiles, 200, LANES)
        data, x, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        layout, bias = coo_layout_of(pattern, pattern.indices), rng.standard_normal(200).astype(dtype)
        coo.check(
            OnDevice(cuda), coo.Case(pattern, layout, linear_grid(tiles, 1000, 200), data, x, dy, bias, dy, True),
            dtype, Guarded(),
        )  # fmt: skip


@pytest.mark.parametrize("format", ["csr", "coo"])
def test_the_sums_of_no_samples_are_zero(cuda, format):
    plan, nothing = Plan(SparsityPattern((3, 9), [0, 0, 2, 5], [0, 1, 2, 3, 4]), format), np.empty(0)
    grad, db = np.ones(5), np.ones(3)
    OnDevice(cuda).sddmm(plan.forward, plan.grid(0), nothing, nothing, grad, db)
    assert not grad.any() and not db.any()
    OnDevice(cuda).spmm(plan.forward, plan.grid(0), np.ones(5), nothing, None, nothing)


@dtypes
@pytest.mark.parametrize("batch", [1, 16, 17, 40, 128, 300])
@pytest.mark.parametrize("fan_in", [1, 31, 32, 33, 64, 100])
def test_fan_ins_around_a_warp_and_batches_around_its_width(cuda, dtype, batch, fan_in):
    rng = np.random.default_rng(fan_in)
    pattern = uniform_random(3, 100, 1 - fan_in / 100, rng)
    tiles = -(-batch // LANES)
    data, bias = rng.standard_normal(pattern.nnz).astype(dtype), rng.standard_normal(3).astype(dtype)
    x, dy = (rng.standard_normal((tiles, n, LANES)).astype(dtype) for n in (100, 3))
    out, grad, db = np.full_like(dy, np.nan), np.full_like(data, np.nan), np.full_like(bias, np.nan)
    plan, launcher = Plan(pattern), OnDevice(cuda)
    launcher.spmm(plan.forward, plan.grid(tiles), data, x, bias, out)
    launcher.sddmm(plan.forward, plan.grid(tiles), dy, x, grad, db)
    matrix = pattern.to_scipy(data.astype(np.float64))
    for tile in range(tiles):
        magnitude = abs(matrix) @ abs(x[tile]) + abs(bias)[:, None]
        assert_close(out[tile], matrix @ x[tile].astype(np.float64) + bias[:, None], magnitude, 101)
    wide_x, wide_dy = (a.astype(np.float64).swapaxes(0, 1).reshape(a.shape[1], -1) for a in (x, dy))
    stored, terms = (pattern.rows, pattern.indices), tiles * LANES
    assert_close(grad, (wide_dy @ wide_x.T)[stored], (abs(wide_dy) @ abs(wide_x).T)[stored], terms)
    assert_close(db, wide_dy.sum(1), abs(wide_dy).sum(1), terms)


@dtypes
def test_the_gradient_of_few_connections_over_many_positions_is_cut_into_slices(cuda, dtype):
    """A first convolution has few weights and many pixels: slices of the positions are summed apart and joined."""
    rng = np.random.default_rng(0)
    pattern = SparsityPattern.full((3, 9))
    places = pattern.indices // 3 * 12 + pattern.indices % 3
    shapes = (5, 1, 12, 12, LANES), (5, 3, 10, 10, LANES)
    x, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    grid = Grid(5, 144 * LANES, 300 * LANES, 10, 12 * LANES, 10 * LANES, 10, LANES, LANES, 100 * LANES)
    layout = layout_of(pattern, places)
    for db in (np.full(3, np.nan, dtype), None):
        grad = np.full(27, np.nan, dtype)
        OnDevice(cuda).sddmm(layout, grid, dy, x, grad, db)
        windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(2, 3))
        expected = np.einsum("toyxl,tcyxlkj->okj", dy.astype(np.float64), windows)
        assert_close(grad, expected.ravel(), abs(dy).sum() * abs(x).max(), 1)
        if db is not None:
            assert_close(db, dy.astype(np.float64).sum((0, 2, 3, 4)), abs(dy).sum((0, 2, 3, 4)), dy.size // 3)


@given(layer=layers(), seed=st.integers(0, 2**32))
@FEW
def test_convolutions_forward_and_backward(cuda, layer, seed):
    """Borders, strides, phases and bands: what a layer computes with the oracle, it computes on the device."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((18, *layer.in_shape))
    dy = rng.standard_normal((18, *layer.out_shape))
    expected, cache = layer.forward(x)
    expected_dx, expected_grads = layer.backward(dy, cache)
    expected_grads = {name: grad.copy() for name, grad in expected_grads.items()}
    layer.to(cuda)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-10, atol=1e-10)
    for name, grad in grads.items():
        np.testing.assert_allclose(cuda.get(grad), expected_grads[name], rtol=1e-10, atol=1e-10)


@dtypes
def test_what_is_not_a_number_stays_where_it_is(cuda, dtype):
    """ReLU lets NaN through, a mask that is NaN closes, and a connection that is not there multiplies nothing."""
    pattern = SparsityPattern((2, 40), [0, 1, 33], [0, *range(1, 33)])
    x = np.ones((1, 40, LANES), dtype)
    x[0, 0, 3], x[0, 39], x[0, 5, 7] = np.nan, np.nan, np.inf
    out, mask = np.empty((1, 2, LANES), dtype), np.ones((1, 2, LANES), dtype)
    plan, data = Plan(pattern), np.ones(33, dtype)
    OnDevice(cuda).spmm(plan.forward, plan.grid(1), data, x, None, out, relu=True)
    assert np.isnan(out[0, 0, 3]) and np.isnan(out).sum() == 1 and np.isinf(out[0, 1, 7])
    mask[0, 0, 1], mask[0, 0, 2], mask[0, 0, 4] = np.nan, 0, -0.0
    OnDevice(cuda).spmm(plan.forward, plan.grid(1), data, x, None, out, mask=mask)
    assert np.array_equal(out[0, 0, :5], [1, 0, 0, np.nan, 0], equal_nan=True)


# ------------------------------------------------------------------------------------------ the others


def against_the_oracle(cuda: Any, name: str, *arguments: Any, **named: Any) -> None:
    """Call a kernel and the oracle's function; every array must come out the same."""
    ours = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    oracles = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    getattr(OnDevice(cuda), name)(*ours, **named)
    getattr(reference, name)(*oracles, **named)
    for k, (got, expected) in enumerate(zip(ours, oracles, strict=True)):
        if isinstance(got, np.ndarray):
            tolerance = rounding(got.dtype) if got.dtype.kind == "f" else 0
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=f"{name}, argument {k}")


@dtypes
@pytest.mark.parametrize("batch, shape", [(1, (1,)), (15, (9,)), (16, (5,)), (33, (70,)), (47, (3, 4, 5))])
def test_lanes_past_the_batch_are_cleared(cuda, dtype, batch, shape):
    x = np.random.default_rng(batch).standard_normal((-(-batch // LANES), *shape, LANES)).astype(dtype)
    against_the_oracle(cuda, "clear_lanes", x, batch)


@dtypes
@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_elementwise(cuda, dtype, count):
    rng = np.random.default_rng(count)
    x, dy, y = rng.standard_normal((3, count)).astype(dtype)
    nothing = np.full(count, np.nan, dtype)
    y[: count // 3], x[count // 2] = 0, np.nan
    against_the_oracle(cuda, "relu", x, nothing)
    against_the_oracle(cuda, "mask", dy, y, nothing)
    lines = [np.repeat(array[:, None], LANES, 1) * np.linspace(-1, 2, LANES, dtype=dtype) for array in (x, dy, y)]
    for options in ({}, {"relu": True}, {"mask": lines[2]}):
        against_the_oracle(cuda, "add", *lines[:2], np.full_like(lines[0], np.nan), **options)
    for index in (np.int32, np.int64):
        against_the_oracle(cuda, "reorder", y, rng.permutation(count).astype(index), nothing)
    for nesterov, decays in itertools.product((False, True), (False, True)):
        rates = np.array([0.1, 0.01, np.inf, 0.5, 0.9])
        w, dw, velocity = rng.standard_normal((3, count)).astype(dtype)
        against_the_oracle(cuda, "sgd", w.copy(), dw.copy(), velocity.copy(), rates, nesterov=nesterov, decays=decays)


@dtypes
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_adam(cuda, dtype, decoupled, count):
    rng = np.random.default_rng(count)
    for decays in (False, True):
        rates = np.array([0.1, 0.3, np.inf, 0.5, 0.9, 0.99, 1e-8, 4, np.nan, np.nan])
        against_the_oracle(cuda, "tick", rates)
        reference.tick(rates)
        w, dw, m, v = rng.standard_normal((4, count)).astype(dtype)
        against_the_oracle(cuda, "adam", w, dw, m, v**2, rates, decoupled=decoupled, decays=decays)


@dtypes
@pytest.mark.parametrize("count", [1, 255, 40_000])
def test_norms(cuda, dtype, count):
    dw = np.random.default_rng(count).standard_normal(count).astype(dtype)
    for largest in (1e-3, 1e9, np.inf):
        against_the_oracle(cuda, "norm", dw, np.array([0.1, 0, largest, 7, 0]))
    for broken in (np.nan, np.inf):
        dw[count // 2] = broken
        rates = np.array([0.1, 0, 1.0, 7, 0])
        OnDevice(cuda).norm(dw, rates)
        assert not rates[SCALE] > 0


@dtypes
@pytest.mark.parametrize("features", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("batch", [1, 16, 17, 40])
def test_packing(cuda, dtype, batch, features):
    rng = np.random.default_rng(batch)
    tiles = -(-batch // LANES)
    x, packed = rng.standard_normal((batch, features)).astype(dtype), np.full((tiles, features, LANES), np.nan, dtype)
    against_the_oracle(cuda, "pack", x, packed)
    spare = rng.standard_normal((tiles, features, LANES)).astype(dtype)
    against_the_oracle(cuda, "unpack", spare, np.full((batch, features), np.nan, dtype))
    places = rng.permutation(features + 5)[:features].astype(np.int32)  # a feature's line of a tile that has more
    more = rng.standard_normal((tiles, features + 5, LANES)).astype(dtype)
    against_the_oracle(cuda, "pack", x, more, places)
    against_the_oracle(cuda, "unpack", more, np.full((batch, features), np.nan, dtype), places)
    rows = cuda.put(np.hstack([x, x]))
    out, expected = cuda.empty(packed.shape, dtype), packed.copy()
    cuda.launcher().pack(rows[:, :features], out)
    reference.pack(x, expected)
    assert np.array_equal(cuda.get(out), expected)


@dtypes
@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("batch, features", [(1, 1), (16, 64), (37, 70)])
def test_packing_samples(cuda, dtype, stored, batch, features):
    rng = np.random.default_rng(batch)
    tiles = -(-batch // LANES)
    store = (rng.random((50, features)) * 255).astype(stored)
    scale, shift = rng.standard_normal((2, features)).astype(dtype)
    labels, out_labels = rng.integers(0, 10, 50).astype(np.int32), np.full(tiles * LANES, 77, np.int32)
    out, addresses = np.full((tiles, features, LANES), np.nan, dtype), np.zeros(tiles * LANES, np.int64)
    against_the_oracle(
        cuda, "pack_samples", store, labels, rng.permutation(50), np.array([9]), scale / 255, shift, out, out_labels,
        batch, addresses,
    )  # fmt: skip


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("shape, most, flip", [((3, 5, 7), 4, True), ((1, 4, 4), 0, False), ((2, 9, 3), 2, True)])
def test_augmenting(cuda, stored, shape, most, flip):
    rng, features = np.random.default_rng(0), int(np.prod(shape))
    store, labels = (rng.random((50, features)) * 255).astype(stored), rng.integers(0, 10, 50).astype(np.int32)
    out, out_labels = np.full((37, features), 9, stored), np.full(37, 77, np.int32)
    against_the_oracle(
        cuda, "augment", store, labels, rng.permutation(50), np.array([9, 3, -5]), shape, most, flip, out, out_labels,
        37,
    )  # fmt: skip


@dtypes
@pytest.mark.parametrize("classes", [1, 2, 7, 8, 10, 200])
@pytest.mark.parametrize("batch", [1, 16, 40])
def test_cross_entropy(cuda, dtype, classes, batch):
    rng = np.random.default_rng(classes)
    tiles = -(-batch // LANES)
    z = (rng.standard_normal((tiles, classes, LANES)) * 30).round().astype(dtype)  # many are equal
    z[-1, :, (batch - 1) % LANES + 1 :] = np.nan
    labels = rng.integers(0, classes, tiles * LANES).astype(np.int32)
    labels[batch:] = 1 << 30
    losses, correct = np.full(tiles * LANES, np.nan), np.full(tiles * LANES, 77, np.int32)
    scratch = np.full((tiles, 2, LANES), np.nan, dtype)
    arrays = [z, labels, np.full_like(z, np.nan), losses, correct]
    if z.size:
        z[0, 0, 0] = np.nan if classes > 2 else z[0, 0, 0]
    ours, exact = ([a.copy() for a in arrays] for _ in range(2))
    OnDevice(cuda).cross_entropy(*ours[:2], batch, *ours[2:], scratch.copy())
    reference.cross_entropy(*exact[:2], batch, *exact[2:], scratch.copy())
    tolerance = 4 * classes * rounding(dtype)
    for got, expected in zip(ours, exact, strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@dtypes
@pytest.mark.parametrize("divisor", [None, 1000])
@pytest.mark.parametrize("features, batch", [(1, 1), (10, 17), (3, 200), (4, 0)])
def test_squared_error(cuda, dtype, features, batch, divisor):
    z, targets = (numbers((-(-batch // LANES), features, LANES), seed, dtype) for seed in (0, 1))
    if batch % LANES:
        z[-1, :, batch % LANES :] = targets[-1, :, batch % LANES :] = np.nan
    dz, losses = np.full_like(z, np.nan), np.full(len(z) * LANES, np.nan)
    ours, exact = ([array.copy() for array in (dz, losses)] for _ in range(2))
    OnDevice(cuda).squared_error(z, targets, batch, *ours, divisor)
    reference.squared_error(z, targets, batch, *exact, divisor)
    for got, expected in zip(ours, exact, strict=True):
        np.testing.assert_allclose(got, expected, rtol=4 * features * rounding(dtype), atol=rounding(dtype))


@pytest.mark.parametrize("batch", [1, 128, 129, 1000])
def test_tally(cuda, batch):
    rng = np.random.default_rng(batch)
    losses, correct = rng.random(batch + 9), rng.integers(0, 2, batch + 9).astype(np.int32)
    losses[batch:], correct[batch:] = np.nan, 5
    against_the_oracle(cuda, "tally", losses, correct, batch, np.array([1.5, 2, 3]))


@dtypes
@given(place=norm.placings())
@FEW
def test_placing(cuda, dtype, place):
    """From any view into any other, and around it nothing is touched."""
    (_, of_x), (_, of_mask), (whole, of_out) = (place.view(k) for k in range(3))
    x, mask = norm.placed(place, dtype)
    for gate in (None, mask):
        out, wanted = cuda.put(np.full(whole, -7, dtype)), np.full(whole, -7, dtype)
        put = None if gate is None else cuda.put(gate)[of_mask]
        cuda.launcher().place(cuda.put(x)[of_x], out[of_out], put)
        reference.place(x[of_x], wanted[of_out], None if gate is None else gate[of_mask])
        assert cuda.get(out).tobytes() == wanted.tobytes()


@dtypes
@given(case=strips.foldings)
@FEW
def test_folding(cuda, dtype, case):
    """Strips of images, and images of strips, within any borders."""
    images, cut, mask = case.arrays(dtype)
    for way, (given_, like) in {"fold": (images, cut), "unfold": (cut, images)}.items():
        (x, of_x), (seen, of_mask) = case.within(given_, np.nan), case.within(mask, np.nan)
        wanted, of_out = case.within(np.full_like(like, np.nan), 7)
        out, rest = cuda.put(wanted), (case.batch, case.step, case.top)
        put, gate = (cuda.put(seen)[of_mask], seen[of_mask]) if case.masked else (None, None)
        getattr(cuda.launcher(), way)(cuda.put(x)[of_x], out[of_out], *rest, put)
        getattr(reference, way)(x[of_x], wanted[of_out], *rest, gate)
        np.testing.assert_allclose(cuda.get(out), wanted, rtol=rounding(dtype), atol=rounding(dtype))


@dtypes
@given(place=norm.placings(4))
@FEW
def test_adding(cuda, dtype, place):
    """From any views into any other, and around it nothing is touched."""
    (a, b, mask), views = norm.placed(place, dtype, 3), [place.view(k)[1] for k in range(4)]
    for gate, relu in ((None, False), (None, True), (mask, False)):
        whole = place.view(3)[0]
        out, wanted = cuda.put(np.full(whole, -7, dtype)), np.full(whole, -7, dtype)
        given = [cuda.put(array)[view] for array, view in zip((a, b, mask), views, strict=False)]
        cuda.launcher().add(*given[:2], out[views[3]], relu=relu, mask=None if gate is None else given[2])
        gate = None if gate is None else gate[views[2]]
        reference.add(a[views[0]], b[views[1]], wanted[views[3]], relu=relu, mask=gate)
        assert cuda.get(out).tobytes() == wanted.tobytes()
        cuda.launcher().add(given[0], given[1], given[0], relu=relu, mask=None if gate is None else given[2])
        assert cuda.get(given[0]).tobytes() == wanted[views[3]].tobytes()


class Kept(Guarded):
    """Guarded arrays that are known by any view of them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []

    def _between_margins(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
        memory, view = super()._between_margins(shape, dtype)
        self.made.append(view)
        return memory, view

    def whole(self, view: Any) -> Any:
        return next(each for each in self.made if np.shares_memory(each, view))


class Views(OnDevice):
    """Gives the device views where NumPy's arrays are views."""

    def __init__(self, device: CUDA, memory: Kept) -> None:
        super().__init__(device)
        self._memory = memory

    def put(self, array: Any) -> tuple[Any, Any, Any]:
        if array.flags.c_contiguous:
            return super().put(array)
        whole = self._memory.whole(array)
        at, index = array.ctypes.data - whole.ctypes.data, []
        for size, step in zip(array.shape, whole.strides, strict=True):
            index.append(slice(at // step, at // step + size))
            at %= step
        copy = self._device.put(whole)
        return whole, copy, copy[tuple(index)]


def check_normalisation(device: CUDA, case: norm.Case, dtype: Any) -> None:
    for check in norm.CHECKS:
        memory = Kept()
        check(Views(device, memory), case, dtype, memory)


@dtypes
@given(case=norm.cases())
@FEW
def test_batch_normalisation(cuda, dtype, case):
    check_normalisation(cuda, case, dtype)


@dtypes
@pytest.mark.parametrize("case", norm.MANY, ids=str)
def test_batch_normalisation_in_many_segments(cuda, dtype, case):
    check_normalisation(cuda, case, dtype)


@dtypes
def test_batch_normalisation_of_what_is_hard_to_sum(cuda, dtype):
    norm.check_what_is_not_a_number(OnDevice(cuda), dtype)
    norm.check_outside_training_x_gives_nothing_back(OnDevice(cuda), dtype)
    norm.check_constant_channels(OnDevice(cuda), dtype)


def test_batch_normalisation_of_means_far_from_zero(cuda):
    norm.check_a_mean_far_from_zero(OnDevice(cuda))
    norm.check_large_numbers(OnDevice(cuda))


@dtypes
@pytest.mark.parametrize("window", [Window(2, 2, 2, 2), Window(3, 2, 1, 2), Window(2, 3, 3, 1), Window(1, 1, 2, 3)])
def test_pooling(cuda, dtype, window):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (2, 3, 7, 6, LANES)).astype(dtype)  # many are equal
    x[0, 1, 2:4, 3, 5] = np.nan
    high, wide = (7 - window.high) // window.row_step + 1, (6 - window.wide) // window.column_step + 1
    y, index = np.full((2, 3, high, wide, LANES), np.nan, dtype), np.full((2, 3, high, wide, LANES), 77, np.uint8)
    dy, dx = rng.standard_normal(y.shape).astype(dtype), np.full_like(x, np.nan)
    against_the_oracle(cuda, "max_pool", x, window, y, index)
    against_the_oracle(cuda, "mean_pool", x, window, y)
    reference.max_pool(x, window, y.copy(), index)
    against_the_oracle(cuda, "max_unpool", dy, index, window, dx)
    against_the_oracle(cuda, "mean_unpool", dy, window, dx)


@dtypes
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("position", [(0, 0, 0), (1000, 7, -1), (1 << 40, 3, 1 << 62)])
def test_dropout(cuda, dtype, rate, position):
    x = np.random.default_rng(0).standard_normal((3, 5, 2, LANES)).astype(dtype)
    out = np.full_like(x, np.nan)
    against_the_oracle(cuda, "dropout", x, np.array(position), 4, rate, out)


# ------------------------------------------------------------------------------------------ bits, checks and names


def a_layer(batch: int, fan_in: int, dtype: Any, format: str) -> tuple[Plan, int, list[Any]]:
    """A plan, tiles, and data, x, dy."""
    rng = np.random.default_rng(fan_in)
    pattern, tiles = uniform_random(30, 90, 1 - fan_in / 90, rng), -(-batch // LANES)
    shapes = (pattern.nnz,), (tiles, 90, LANES), (tiles, 30, LANES)
    return Plan(pattern, format), tiles, [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@dtypes
@pytest.mark.parametrize("format", ["csr", "coo"])
def test_the_same_bits_in_every_order_of_the_threads(dtype, format):
    results = []
    for order in ("forward", "reverse", "random", "random"):
        with machine(order) as device:
            plan, tiles, (data, x, dy) = a_layer(40, 50, dtype, format)
            out, grad, db = np.empty_like(dy), np.empty_like(data), np.empty(30, dtype)
            launcher = OnDevice(device)
            launcher.spmm(plan.forward, plan.grid(tiles), data, x, None, out)
            launcher.sddmm(plan.forward, plan.grid(tiles), dy, x, grad, db)
            rates = np.array([0.1, 0, 1e-3, 1, 0])
            launcher.norm(grad, rates)
            case = norm.MANY[2]
            images, rows = ([case.images(k, dtype) for k in (0, 6, 3)], [case.row(k, dtype) for k in (4, 5)])
            normalised = norm.trained(launcher, case, *images, *rows)
            results.append([array.tobytes() for array in (out, grad, db, rates, *normalised)])
    assert all(result == results[0] for result in results)


@dtypes
def test_no_race_and_no_access_out_of_bounds(checked_cuda, dtype):
    """All kernels with every access checked. That the checks can fail is for test_checker to show."""
    for case in itertools.islice(awkward_cases(), 0, None, 5):
        check_spmm(OnDevice(checked_cuda), case, dtype, Guarded())
        check_sddmm(OnDevice(checked_cuda), case, dtype, Guarded())
    test_rows_that_span_many_segments_and_rows_of_nothing(checked_cuda, dtype)
    test_the_gradient_of_few_connections_over_many_positions_is_cut_into_slices(checked_cuda, dtype)
    test_elementwise(checked_cuda, dtype, 129)
    test_adam(checked_cuda, dtype, True, 700)
    test_norms(checked_cuda, dtype, 255)
    test_packing(checked_cuda, dtype, 17, 65)
    test_packing_samples(checked_cuda, dtype, np.uint8, 37, 70)
    test_cross_entropy(checked_cuda, dtype, 10, 40)
    test_squared_error(checked_cuda, dtype, 10, 17, 1000)
    test_tally(checked_cuda, 129)
    for case in norm.MANY[1:]:
        check_normalisation(checked_cuda, case, dtype)
    test_pooling(checked_cuda, dtype, Window(3, 2, 1, 2))
    test_augmenting(checked_cuda, np.uint8, (2, 7, 5), 3, True)
    test_dropout(checked_cuda, dtype, 0.3, (1000, 7, -1))


def test_sums_with_a_ceiling_are_refused(a_cuda):
    pattern = SparsityPattern((1, 1), [0, 1], [0])
    with pytest.raises(ValueError, match=r"computed on a CPU only, got ceiling=32\.0 on a GPU"):
        a_cuda.launcher().spmm(
            layout_of(pattern, pattern.indices), linear_grid(1, 1, 1), None, None, None, None, ceiling=32.0
        )


def test_there_is_a_kernel_for_every_size_of_group(a_cuda):
    launch = importlib.import_module("sparsecore.kernels.cuda.launch")
    for family in ("spmm", "sddmm"):
        rows = [int(n) for n in re.findall(rf"^{family.upper()}\((\d)\)$", launch.source(family), re.M)]
        assert rows == list(range(1, LARGEST_GROUP + 1))


def test_launchers_have_the_same_methods_with_the_same_parameters(a_cuda):
    def parameters(launcher: Any) -> dict[str, list[tuple[str, Any, Any]]]:
        methods = inspect.getmembers(launcher, inspect.isfunction)
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in methods
            if not name.startswith("_")
        }

    assert parameters(type(a_cuda.launcher())) == parameters(CPULauncher)
