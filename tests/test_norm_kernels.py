"""Batch normalisation's kernels: against the oracle over random shapes, and at the limits of numbers."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference
from sparsecore.kernels.cpu.launch import Launcher

from .kernel_checks import LANES, POOLS, Array, Fenced, Guarded, assert_close, assert_same_bits, machines

ALONE = POOLS[0]
EPS = 1e-5
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Case(NamedTuple):
    """A batch of images, in segments of `per` tiles; `border` pixels lie above, below, left and right of some."""

    batch: int
    channels: int
    height: int
    width: int
    per: int
    border: tuple[int, int, int, int]
    seed: int

    @property
    def tiles(self) -> int:
        return -(-self.batch // LANES)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tiles, self.channels, self.height, self.width, LANES

    @property
    def values(self) -> int:
        """Of a channel."""
        return self.batch * self.height * self.width

    @property
    def partial(self) -> tuple[int, ...]:
        return self.channels, -(-self.tiles // self.per), 2

    def images(self, seed: int, dtype: Any) -> Array:
        """Random images, each channel around a mean of its own; NaN in the lanes past the batch."""
        rng = np.random.default_rng([self.seed, seed])
        middle, width = rng.standard_normal((2, self.channels, 1, 1, 1))
        x = (3 * middle + np.exp(width) * rng.standard_normal(self.shape)).astype(dtype)
        x[-1, ..., self.batch - LANES * (self.tiles - 1) :] = np.nan
        return x

    def row(self, seed: int, dtype: Any) -> Array:
        """One number a channel."""
        return np.random.default_rng([self.seed, seed]).standard_normal(self.channels).astype(dtype)

    def bordered(self, memory: Any, images: Array | None, dtype: Any) -> tuple[Array, Array]:
        """An output, or an input that holds images, within a border of what nobody must touch; and the view inside."""
        top, bottom, left, right = self.border
        whole = (*self.shape[:2], self.height + top + bottom, self.width + left + right, LANES)
        inside = np.s_[:, :, top : top + self.height, left : left + self.width]
        if images is None:
            padded = memory.empty(whole, dtype)
            padded[...] = -7
        else:
            values = np.full(whole, -7, dtype)
            values[inside] = images
            padded = memory.put(values)
        return padded, padded[inside]

    def assert_border(self, padded: Array) -> None:
        """What lies around the images is as it was."""
        around, (top, _, left, _) = np.ones(padded.shape, bool), self.border
        around[:, :, top : top + self.height, left : left + self.width] = False
        assert (padded[around] == -7).all()

    def unused(self, images: Array) -> Array:
        return images[-1, ..., self.batch - LANES * (self.tiles - 1) :]


@st.composite
def cases(draw: Any) -> Case:
    batch = draw(st.integers(1, 40))
    sizes = (draw(st.integers(1, most)) for most in (5, 7, 7))
    border = draw(st.just((0, 0, 0, 0)) | st.tuples(*[st.integers(0, 2)] * 4))
    return Case(batch, *sizes, draw(st.integers(1, -(-batch // LANES))), border, draw(st.integers(0, 2**32)))


MANY = [
    Case(300, 3, 1, 1, 1, (0, 0, 0, 0), 0),  # 19 segments of a tile
    Case(300, 2, 3, 5, 4, (1, 0, 2, 1), 1),  # 5, the last of 3 tiles
    Case(33, 2, 13, 11, 1, (0, 1, 0, 0), 2),  # more lines than a block of threads takes at once
    Case(1030, 1, 1, 1, 64, (0, 0, 0, 0), 3),
]


def check_statistics(kernels: Any, case: Case, dtype: Any, memory: Any) -> None:
    """What is found of a batch, and what the running rows become."""
    x, exact_partial, partial = case.images(0, dtype), np.empty(case.partial), memory.empty(case.partial, np.float64)
    kernels.moments(memory.put(x), case.batch, partial)
    reference.moments(x, case.batch, exact_partial)
    terms = case.per * LANES * case.height * case.width
    largest = float(np.nanmax(abs(x)))
    assert_close(partial[..., 0], exact_partial[..., 0], largest, terms)
    assert_close(partial[..., 1], exact_partial[..., 1], exact_partial[..., 1], 4 * terms)
    found, exact = memory.empty((case.channels, 2), np.float64), np.empty((case.channels, 2))
    start = case.row(1, dtype), abs(case.row(2, dtype))
    rows = [memory.empty((case.channels,), dtype) for _ in range(2)]
    for row, values in zip(rows, start, strict=True):
        row[:] = values
    if case.values > 1:
        exact_rows = [values.astype(np.float64) for values in start]
        given = memory.put(exact_partial)
        kernels.settle(given, case.height * case.width, case.batch, EPS, 0.3, *rows, found)
        reference.settle(exact_partial, case.height * case.width, case.batch, EPS, 0.3, *exact_rows, exact)
        np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)
        for row, wanted, values in zip(rows, exact_rows, start, strict=True):
            assert_close(row, wanted, abs(values) + abs(wanted), 4)
        used = [x[:, channel].astype(np.float64) for channel in range(case.channels)]
        plain = np.array([np.moveaxis(each, -1, 1).reshape(case.tiles * LANES, -1)[: case.batch] for each in used])
        np.testing.assert_allclose(found[:, 0], plain.mean((1, 2)), rtol=1e-12, atol=1e-12 * largest)
        np.testing.assert_allclose(1 / found[:, 1] ** 2 - EPS, plain.var((1, 2)), rtol=1e-9, atol=1e-9 * EPS)
    kernels.recall(memory.put(start[0]), memory.put(start[1]), EPS, found)
    reference.recall(*start, EPS, exact)
    memory.assert_intact()
    np.testing.assert_allclose(found, exact, rtol=1e-14, atol=0)


def found_of(case: Case, x: Array) -> Array:
    """(mean, rate) of a batch by the oracle; of a single value, some."""
    partial, found = np.empty(case.partial), np.empty((case.channels, 2))
    reference.moments(x, case.batch, partial)
    rows = np.zeros((2, case.channels))
    if case.values > 1:
        reference.settle(partial, case.height * case.width, case.batch, EPS, 0.1, *rows, found)
    else:
        found[:, 0], found[:, 1] = case.row(8, np.float64), 1.5
    return found


def check_normalising(kernels: Any, case: Case, dtype: Any, memory: Any) -> None:
    """Of what is found, images, perhaps added to others; all of them may be views."""
    x, others = case.images(0, dtype), case.images(3, dtype)
    found = found_of(case, x)
    scale, shift = case.row(4, dtype), case.row(5, dtype)
    put = memory.put(found), memory.put(scale), memory.put(shift)
    beside = case.bordered(memory, others, dtype)[1]
    for around, relu in itertools.product((None, beside, memory.put(others)), (False, True)):
        padded, out = case.bordered(memory, None, dtype)
        seen = case.bordered(memory, x, dtype)[1] if relu else memory.put(x)
        kernels.normalise(seen, *put, out, case.batch, around=around, relu=relu)
        memory.assert_intact()
        case.assert_border(padded)
        exact, size = np.empty(case.shape), np.empty(case.shape)
        added = None if around is None else others
        reference.normalise(x, found, scale, shift, exact, case.batch, around=added, relu=relu)
        apart = abs(x - found[:, 0, None, None, None]) + found[:, :1, None, None] * 0
        size = apart * (found[:, 1] * abs(scale))[:, None, None, None] + abs(shift)[:, None, None, None]
        size = np.nan_to_num(size + (0 if added is None else abs(added)))
        assert_close(out, exact, size, 3)
        assert not case.unused(out).any()


def check_gradients(kernels: Any, case: Case, dtype: Any, memory: Any) -> None:
    """Two sums a channel, what is made of them, and the way back, in training and outside it."""
    x, dy = case.images(0, dtype), case.images(6, dtype)
    found, scale, shift = found_of(case, x), case.row(4, dtype), case.row(5, dtype)
    given, rows = memory.put(found), (memory.put(scale), memory.put(shift))
    partial, exact_partial = memory.empty(case.partial, np.float64), np.empty(case.partial)
    slope, seen = case.bordered(memory, dy, dtype)[1], memory.put(x)
    kernels.slopes(slope, seen, given, *rows, case.batch, partial, relu=False)
    reference.slopes(dy, x, found, scale, shift, case.batch, exact_partial, relu=False)
    size = np.empty(case.partial)
    spread = np.abs(x - found[:, 0, None, None, None])
    reference.slopes(abs(dy), spread, np.zeros_like(found), scale, shift, case.batch, size, relu=False)
    assert_close(partial, exact_partial, size, case.per * LANES * case.height * case.width + 2)
    totals, exact_totals = memory.empty(found.shape, np.float64), np.empty(found.shape)
    grads, exact_grads = [memory.empty((case.channels,), dtype) for _ in range(2)], np.empty((2, case.channels))
    kernels.settle_slopes(memory.put(exact_partial), given, totals, *grads)
    reference.settle_slopes(exact_partial, found, exact_totals, *exact_grads)
    memory.assert_intact()
    np.testing.assert_allclose(totals, exact_totals, rtol=1e-13, atol=1e-13 * abs(exact_partial).max())
    for grad, wanted, of in zip(grads, exact_grads, (1, 0), strict=True):
        factor = found[:, 1] if of else 1
        assert_close(grad, wanted, np.abs(exact_partial[..., of]).sum(1) * factor, 3)

    def bordered(images: Array) -> Array:
        return case.bordered(memory, images, dtype)[1]

    plain, views = ([put(images) for images in (dy, x)] for put in (memory.put, bordered))
    for training, (slope, seen) in itertools.product((True, False), ((plain[0], views[1]), (views[0], plain[1]))):
        padded, out = case.bordered(memory, None, dtype)
        totals = memory.put(exact_totals)
        kernels.normalise_back(slope, seen, given, *rows, totals, out, case.batch, training=training, relu=False)
        memory.assert_intact()
        case.assert_border(padded)
        exact = np.empty(case.shape)
        given_back = dy, x, found, scale, shift, exact_totals, exact, case.batch
        reference.normalise_back(*given_back, training=training, relu=False)
        first, second = abs(exact_totals.T[:, :, None, None, None]) / case.values
        rate, factor = found[:, 1, None, None, None], (found[:, 1] * abs(scale))[:, None, None, None]
        size = np.nan_to_num(abs(dy) + (first + spread * rate**2 * second if training else 0)) * factor
        assert_close(out, exact, size, 5)
        assert not case.unused(out).any()


def check_behind_relu(kernels: Any, case: Case, dtype: Any, memory: Any) -> None:
    """What ReLU stopped is found again from x, to the bit: as if dy had been masked where its output is zero."""
    x, dy = case.images(0, dtype), case.images(6, dtype)
    rows = found_of(case, x), case.row(4, dtype), case.row(5, dtype)
    totals = case.row(7, np.float64)[:, None] * (1, 2)

    def assert_found_again(kernels: Any, put: Any, empty: Any, kind: Any) -> None:
        given, y = [put(each) for each in (x, *rows)], empty(case.shape, kind)
        kernels.normalise(*given, y, case.batch, relu=True)
        found = []
        for relu, slope in ((True, put(dy)), (False, put(np.where(y > 0, dy, np.zeros_like(dy))))):
            arrays = [empty(case.partial, np.float64), empty(case.shape, kind), empty(case.shape, kind)]
            kernels.slopes(slope, *given, case.batch, arrays[0], relu=relu)
            for training, out in zip((True, False), arrays[1:], strict=True):
                kernels.normalise_back(slope, *given, put(totals), out, case.batch, training=training, relu=relu)
            found.append(arrays)
        memory.assert_intact()
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)

    assert_found_again(kernels, memory.put, memory.empty, dtype)
    assert_found_again(reference, np.array, np.empty, np.float64)


CHECKS = check_statistics, check_normalising, check_gradients, check_behind_relu


@machines
@settings(max_examples=12)
@given(case=cases(), shift=st.sampled_from([0, 1, 5]))
def test_they_do_what_the_oracle_does_and_stay_within_their_arrays(dtype, register_bytes, case, shift):
    for check in CHECKS:
        check(Launcher(ALONE, register_bytes=register_bytes), case, dtype, Guarded(shift))


@dtypes
@pytest.mark.parametrize("at_end", [False, True])
@settings(max_examples=6)
@given(case=cases())
def test_nothing_is_read_where_nobody_may_read(dtype, at_end, case):
    for check in CHECKS:
        check(Launcher(ALONE), case, dtype, Fenced(at_end))


@dtypes
@pytest.mark.parametrize("case", MANY, ids=str)
def test_many_segments(dtype, case):
    for check in CHECKS:
        check(Launcher(ALONE), case, dtype, Guarded(1))


@dtypes
@pytest.mark.parametrize("case", MANY, ids=str)
def test_the_same_bits_on_any_number_of_threads(dtype, case):
    x, dy, beside = (case.images(seed, dtype) for seed in (0, 6, 3))
    scale, shift = case.row(4, dtype), case.row(5, dtype)

    def call(kernels: Launcher) -> list[Array]:
        return trained(kernels, case, x, dy, beside, scale, shift)

    assert_same_bits(call)


def trained(kernels: Any, case: Case, x: Array, dy: Array, beside: Array, scale: Array, shift: Array) -> list[Array]:
    """All that one pass there and back writes."""
    dtype, pixels = x.dtype, case.height * case.width
    partial, found, totals = np.empty(case.partial), np.empty((case.channels, 2)), np.empty((case.channels, 2))
    rows, grads = np.ones((2, 2, case.channels), dtype)
    mean, var = rows.copy()
    dscale, dshift = grads.copy()
    sloped, y, dx = np.empty_like(partial), np.empty_like(x), np.empty_like(x)
    behind, back = np.empty_like(partial), np.empty_like(x)
    kernels.moments(x, case.batch, partial)
    kernels.settle(partial, pixels, case.batch, EPS, 0.1, mean, var, found)
    kernels.normalise(x, found, scale, shift, y, case.batch, around=beside, relu=True)
    kernels.slopes(dy, x, found, scale, shift, case.batch, sloped, relu=False)
    kernels.settle_slopes(sloped, found, totals, dscale, dshift)
    kernels.normalise_back(dy, x, found, scale, shift, totals, dx, case.batch, training=True, relu=False)
    kernels.slopes(dy, x, found, scale, shift, case.batch, behind, relu=True)
    kernels.normalise_back(dy, x, found, scale, shift, totals, back, case.batch, training=True, relu=True)
    return [partial, found, mean, var, y, sloped, totals, dscale, dshift, dx, behind, back]


def check_what_is_not_a_number(kernels: Any, dtype: Any) -> None:
    """NaN or Inf in a channel is that channel's alone, forward and backward, and passes a ReLU."""
    case = Case(37, 4, 3, 3, 1, (0, 0, 0, 0), 0)
    x, dy, beside = (case.images(seed, dtype) for seed in (0, 6, 3))
    spoilt = x.copy()
    spoilt[0, 1, 1, 1, 3], spoilt[2, 3, 0, 0, 0] = np.nan, np.inf
    found = []
    for images in (x, spoilt):
        arrays = trained(kernels, case, images, dy, beside, np.ones(4, dtype), np.zeros(4, dtype))
        # Channels first, in all of them.
        found.append([np.moveaxis(array, 1, 0) if array.ndim == 5 else array for array in arrays])
    names = "partial", "found", "mean", "var", "y", "sloped", "totals", "dscale", "dshift", "dx", "behind", "back"
    for name, clean, dirty in zip(names, *found, strict=True):
        assert clean[[0, 2]].tobytes() == dirty[[0, 2]].tobytes(), name
    for name in ("found", "mean", "var", "dscale"):
        assert not np.isfinite(found[1][names.index(name)][[1, 3]]).all(-1).any(), name
    for name in ("y", "dx", "back"):
        images = found[1][names.index(name)][[1, 3]]
        assert np.isnan(images[:, :2]).all() and np.isnan(images[:, 2, ..., :5]).all(), name
        assert not images[:, 2, ..., 5:].any(), name


@dtypes
def test_what_is_not_a_number_stays_in_its_channel(dtype):
    check_what_is_not_a_number(Launcher(ALONE), dtype)


def check_outside_training_x_gives_nothing_back(kernels: Any, dtype: Any) -> None:
    x, dy, out = np.full((1, 1, 1, 1, LANES), np.inf, dtype), np.ones((1, 1, 1, 1, LANES), dtype), np.empty(0)
    out, found = np.empty_like(x), np.array([[0.0, 2.0]])
    scale, shift, totals = np.full(1, 3, dtype), np.zeros(1, dtype), np.full((1, 2), np.nan)
    kernels.normalise_back(dy, x, found, scale, shift, totals, out, LANES, training=False, relu=False)
    assert (out == 6).all()


@dtypes
def test_outside_training_x_gives_nothing_back(dtype):
    check_outside_training_x_gives_nothing_back(Launcher(ALONE), dtype)


def check_constant_channels(kernels: Any, dtype: Any) -> None:
    """A variance of exactly 0, whatever the constant, however many segments: y is the shift, and the row goes to 0."""
    case = Case(200, 5, 3, 1, 2, (0, 0, 0, 0), 0)
    constants = np.array([0.1, 1e-30, -12345.678, 3e38, 0], dtype)
    x = np.broadcast_to(constants[:, None, None, None], case.shape).copy()
    x[-1, ..., 200 % LANES :] = np.nan
    shift = case.row(5, dtype)
    partial, found, *_ = written = trained(kernels, case, x, x * 0 + 1, x * 0, np.ones(5, dtype), shift)
    assert not partial[..., 1].any() and (partial[..., 0] == constants[:, None]).all()
    assert (found[:, 0] == constants).all() and (found[:, 1] == 1 / np.sqrt(EPS)).all()
    mean, var, y = written[2:5]
    np.testing.assert_allclose(var, 0.9, rtol=1e-6)
    np.testing.assert_allclose(mean, 0.9 + 0.1 * constants, rtol=1e-6)
    samples = np.moveaxis(y, 1, 0)
    assert (samples[:, :-1] == np.maximum(shift, 0)[:, None, None, None, None]).all()


@dtypes
def test_constant_channels_have_no_variance(dtype):
    check_constant_channels(Launcher(ALONE), dtype)


def check_a_mean_far_from_zero(kernels: Any) -> None:
    """A mean of 10,000 and a deviation of a hundredth, in float32, whose numbers are a thousandth apart there: what is
    made of them is as near as of any others."""
    case = Case(256, 3, 4, 4, 2, (0, 0, 0, 0), 0)
    rng = np.random.default_rng(0)
    x = (1e4 + 0.01 * rng.standard_normal(case.shape)).astype(np.float32)
    dy = rng.standard_normal(case.shape).astype(np.float32)
    nothing, scale, shift = np.zeros_like(x), case.row(4, np.float32), case.row(5, np.float32)
    written = trained(kernels, case, x, dy, nothing, scale, shift)
    exact = trained(reference, case, x.astype(np.float64), dy.astype(np.float64), nothing, scale, shift)
    np.testing.assert_allclose(written[1], exact[1], rtol=1e-9)
    np.testing.assert_allclose(written[4], exact[4], rtol=1e-6, atol=1e-6)  # y
    np.testing.assert_allclose(written[7], exact[7], rtol=1e-6, atol=1e-5)  # dscale
    np.testing.assert_allclose(written[9], exact[9], rtol=1e-6, atol=1e-6 * abs(exact[9]).max())  # dx
    true = x.astype(np.float64)
    np.testing.assert_allclose(written[1][:, 0], true.mean((0, 2, 3, 4)), rtol=1e-14)
    np.testing.assert_allclose(1 / written[1][:, 1] ** 2 - EPS, true.var((0, 2, 3, 4)), rtol=1e-6)


def test_a_mean_far_from_zero_costs_no_digits():
    check_a_mean_far_from_zero(Launcher(ALONE))


def check_large_numbers(kernels: Any) -> None:
    """Means whose square is beyond float64 are joined all the same."""
    case = Case(64, 2, 1, 1, 1, (0, 0, 0, 0), 0)
    x, partial, found = np.full(case.shape, 1e200), np.empty(case.partial), np.empty((2, 2))
    mean, var = np.ones((2, 2))
    kernels.moments(x, case.batch, partial)
    kernels.settle(partial, 1, case.batch, EPS, 1.0, mean, var, found)
    assert (mean == 1e200).all() and not var.any() and (found[:, 1] == 1 / np.sqrt(EPS)).all()


def test_large_numbers():
    check_large_numbers(Launcher(ALONE))


# ---------------------------------------------------------------------------------------------- place


class Placing(NamedTuple):
    """Pictures of a size, each array of them a view: steps along the pixels, pixels around, channels beside."""

    size: tuple[int, int, int, int]
    views: list[tuple[int, int, int, int, int]]
    seed: int

    def view(self, k: int) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """The whole of array k, and where the view is."""
        tiles, channels, height, width = self.size
        down, across, top, left, before = self.views[k]
        whole = tiles, channels + before + 1, height * down + top, width * across + left, LANES
        return whole, np.s_[:, before : before + channels, top::down, left::across]


@st.composite
def placings(draw: Any, arrays: int = 3, apart: int = 3) -> Placing:
    """Of so many arrays, whose pixels lie up to `apart` apart."""
    size = draw(st.tuples(*(st.integers(1, most) for most in (3, 3, 4, 4))))
    steps = st.tuples(st.integers(1, apart), st.integers(1, apart), *[st.integers(0, 2)] * 3)
    views = [draw(st.just((1, 1, 0, 0, 0)) | steps) for _ in range(arrays)]
    return Placing(size, views, draw(st.integers(0, 2**32)))


def placed(place: Placing, dtype: Any, arrays: int = 2) -> list[Array]:
    """The first arrays of some views, with NaN, zero and negative numbers in them."""
    rng = np.random.default_rng(place.seed)
    made = [rng.standard_normal(place.view(k)[0]).astype(dtype) for k in range(arrays)]
    for array in made:
        array[rng.random(array.shape) < 0.1], array[rng.random(array.shape) < 0.1] = np.nan, 0
    return made


@machines
@settings(max_examples=20)
@given(place=placings(), shift=st.sampled_from([0, 1, 5]))
def test_place_copies_between_views_and_touches_nothing_else(dtype, register_bytes, place, shift):
    memory, (x, mask) = Guarded(shift), placed(place, dtype)
    (_, of_x), (_, of_mask), (whole, of_out) = (place.view(k) for k in range(3))
    for masked in (False, True):
        out, wanted = memory.empty(whole, dtype), np.full(whole, -7, dtype)
        out[...] = -7
        gate = memory.put(mask)[of_mask] if masked else None
        Launcher(ALONE, register_bytes=register_bytes).place(memory.put(x)[of_x], out[of_out], gate)
        memory.assert_intact()
        reference.place(x[of_x], wanted[of_out], mask[of_mask] if masked else None)
        assert out.tobytes() == wanted.tobytes()


@machines
@settings(max_examples=20)
@given(place=placings(4, apart=1) | placings(4), shift=st.sampled_from([0, 1, 5]))
def test_add_sums_views_and_touches_nothing_else(dtype, register_bytes, place, shift):
    """Within borders, among other channels, or every second pixel; also into one of the two."""
    memory, arrays = Guarded(shift), placed(place, dtype, 3)
    a, b, mask = (memory.put(array)[place.view(k)[1]] for k, array in enumerate(arrays))
    whole, inside = place.view(3)
    for gate, relu in ((None, False), (None, True), (mask, False)):
        out, wanted = memory.empty(whole, dtype), np.full(whole, -7, dtype)
        out[...] = -7
        Launcher(ALONE, register_bytes=register_bytes).add(a, b, out[inside], relu=relu, mask=gate)
        memory.assert_intact()
        reference.add(a, b, wanted[inside], relu=relu, mask=gate)
        assert out.tobytes() == wanted.tobytes()
        onto = memory.empty(place.view(0)[0], dtype)
        onto[...] = arrays[0]
        here = onto[place.view(0)[1]]
        Launcher(ALONE, register_bytes=register_bytes).add(here, b, here, relu=relu, mask=gate)
        memory.assert_intact()
        arrays[0][place.view(0)[1]] = wanted[inside]
        assert onto.tobytes() == arrays[0].tobytes()
        arrays[0][place.view(0)[1]] = a


@dtypes
def test_place_gives_the_same_bits_on_any_number_of_threads(dtype):
    place = Placing((3, 4, 5, 3), [(2, 1, 1, 0, 1), (1, 1, 0, 0, 0), (1, 3, 0, 2, 2)], 0)
    x, mask = placed(place, dtype)

    def call(kernels: Launcher) -> list[Array]:
        whole, inside = place.view(2)
        out = np.zeros(whole, dtype)
        kernels.place(x[place.view(0)[1]], out[inside], mask[place.view(1)[1]])
        return [out]

    assert_same_bits(call)
