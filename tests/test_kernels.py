"""spmm and sddmm against the oracle's plain loops, against scipy and NumPy, and against every way to stray or to
race."""

from __future__ import annotations

import gc
import inspect
import itertools
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from sparsecore.kernels import cpu as embedded
from sparsecore.kernels import reference
from sparsecore.kernels.cpu.few import FewLauncher
from sparsecore.kernels.cpu.launch import Launcher, Tape
from sparsecore.kernels.layout import Grid, Layout

from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan, layout_of, linear_grid
from sparsecore.topology import uniform_random

from .kernel_checks import (
    HERE,
    LANES,
    POOLS,
    Fenced,
    Guarded,
    assert_close,
    assert_same_bits,
    assert_survives,
    grouped,
    machines,
    patterns,
)

ALONE = POOLS[0]
SHIFTS = st.sampled_from([0, 1, 5])


class Case(NamedTuple):
    """One operator and what it is applied to. Images have a grid of their own; all else is one line a tile."""

    pattern: SparsityPattern
    layout: Layout
    grid: Grid
    data: Any
    x: Any
    dy: Any
    bias: Any
    mask: Any
    relu: bool


@st.composite
def cases(draw: Any) -> Case:
    """A fully connected operator on a batch of 1 to 70, with or without bias, ReLU, mask and column blocks."""
    pattern = draw(patterns())
    layout = layout_of(pattern, pattern.indices, draw(st.sampled_from([0, 0, 1, 3, 16, 64])))
    batch = draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = pattern.shape
    x, dy, mask = (tiled(rng.standard_normal((batch, features))) for features in (columns, rows, rows))
    bias = rng.standard_normal(rows) if draw(st.booleans()) else None
    return Case(
        pattern, layout, linear_grid(len(x), columns, rows), rng.standard_normal(pattern.nnz), x, dy, bias,
        mask if draw(st.booleans()) else None, draw(st.booleans()),
    )  # fmt: skip


@st.composite
def images(draw: Any) -> tuple[Case, dict[str, int]]:
    """A convolution without padding, written by hand as a gather with a moving origin."""
    size = {name: draw(st.integers(1, 3)) for name in ("inputs", "outputs", "kernel", "stride", "tiles")}
    height, width = (draw(st.integers(size["kernel"], size["kernel"] + 6)) for _ in range(2))
    c, o, k, s, tiles = size.values()
    every = [(channel, ky, kx) for channel in range(c) for ky in range(k) for kx in range(k)]
    classes = draw(st.lists(st.sets(st.integers(0, len(every) - 1)), min_size=1, max_size=3))
    pattern = grouped(len(every), classes, draw(st.lists(st.integers(0, 2), min_size=o, max_size=o)))
    places = np.array([(channel * height + ky) * width + kx for channel, ky, kx in every])
    layout = layout_of(pattern, places[pattern.indices], draw(st.sampled_from([0, 1, 4])))
    high, wide = (height - k) // s + 1, (width - k) // s + 1
    grid = Grid(
        tiles, c * height * width * LANES, o * high * wide * LANES, high, s * width * LANES, wide * LANES,
        wide, s * LANES, LANES, high * wide * LANES,
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((tiles, c, height, width, LANES))
    dy, mask = rng.standard_normal((2, tiles, o, high, wide, LANES))
    case = Case(
        pattern, layout, grid, rng.standard_normal(pattern.nnz), x, dy, rng.standard_normal(o),
        mask if draw(st.booleans()) else None, draw(st.booleans()),
    )  # fmt: skip
    return case, size


def tiled(x: Any) -> Any:
    out = np.empty((-(-len(x) // LANES), x.shape[1], LANES))
    reference.pack(x, out)
    return out


def placed(case: Case, dtype: Any, memory: Any) -> Case:
    """The case's arrays in a dtype and in guarded memory."""
    layout = Layout(*map(memory.put, case.layout[:-1]), case.layout.most_group)
    if dtype == np.float64 and layout.most_group > 1:
        layout = layout._replace(most_group=4)  # half as many kernels to compile: one for groups of 4 does smaller ones
    floats = {
        name: None if (values := getattr(case, name)) is None else memory.put(values.astype(dtype))
        for name in ("data", "x", "dy", "bias", "mask")
    }
    return case._replace(layout=layout, grid=case.grid._replace(bands=memory.put(case.grid.bands)), **floats)


def check_spmm(launcher: Launcher, case: Case, dtype: Any, memory: Any) -> Any:
    """Run spmm, hold it against the oracle, and return what it wrote."""
    case = placed(case, dtype, memory)
    out = memory.empty(case.dy.shape, dtype)
    operator = (case.layout, case.grid)
    launcher.spmm(*operator, case.data, case.x, case.bias, out, relu=case.relu, mask=case.mask)
    memory.assert_intact()
    exact, magnitude = np.full((2, *out.shape), np.nan)
    reference.spmm(*operator, case.data, case.x, case.bias, exact, relu=case.relu, mask=case.mask)
    bias = None if case.bias is None else abs(case.bias)
    reference.spmm(*operator, abs(case.data), abs(case.x), bias, magnitude)
    assert_close(out, exact, magnitude, max(case.pattern.fan_in) + 1)
    if isinstance(case.layout, Layout):
        check_going_on(launcher, case, dtype, memory)
    return out


def check_going_on(launcher: Launcher, case: Case, dtype: Any, memory: Any) -> None:
    """Sums that go on from what is in `out`."""
    before = np.random.default_rng(0).standard_normal(case.dy.shape).astype(dtype)
    out, options = memory.empty(case.dy.shape, dtype), {"relu": case.relu, "mask": case.mask, "more": True}
    out[...] = before
    launcher.spmm(case.layout, case.grid, case.data, case.x, None, out, **options)
    memory.assert_intact()
    exact, magnitude = before.astype(np.float64), abs(before).astype(np.float64)
    reference.spmm(case.layout, case.grid, case.data, case.x, None, exact, **options)
    reference.spmm(case.layout, case.grid, abs(case.data), abs(case.x), None, magnitude, more=True)
    assert_close(out, exact, magnitude, max(case.pattern.fan_in) + 1)


def check_sddmm(launcher: Launcher, case: Case, dtype: Any, memory: Any) -> tuple[Any, Any]:
    """Run sddmm, hold it against the oracle, and return what it wrote."""
    case = placed(case, dtype, memory)
    grad, db = memory.empty(case.data.shape, dtype), memory.empty((case.pattern.shape[0],), dtype)
    operator = (case.layout, case.grid)
    launcher.sddmm(*operator, case.dy, case.x, grad, db)
    memory.assert_intact()
    exact_grad, most_grad = np.full((2, grad.size), np.nan)
    exact_db, most_db = np.full((2, db.size), np.nan)
    reference.sddmm(*operator, case.dy, case.x, exact_grad, exact_db)
    reference.sddmm(*operator, abs(case.dy), abs(case.x), most_grad, most_db)
    terms = case.grid.outer * case.grid.ys * case.grid.lines * LANES
    assert_close(grad, exact_grad, most_grad, terms)
    assert_close(db, exact_db, most_db, terms)
    check_adding(launcher, case, dtype, memory)
    return grad, db


def check_adding(launcher: Launcher, case: Case, dtype: Any, memory: Any) -> None:
    """Gradients that are added to what is there."""
    rng, shapes = np.random.default_rng(0), (case.data.shape, (case.pattern.shape[0],))
    before = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    found = [memory.empty(shape, dtype) for shape in shapes]
    for array, values in zip(found, before, strict=True):
        array[...] = values
    launcher.sddmm(case.layout, case.grid, case.dy, case.x, *found, more=True)
    memory.assert_intact()
    exact = [values.astype(np.float64) for values in before]
    most = [abs(values) for values in exact]
    reference.sddmm(case.layout, case.grid, case.dy, case.x, *exact, more=True)
    reference.sddmm(case.layout, case.grid, abs(case.dy), abs(case.x), *most, more=True)
    terms = 1 + case.grid.outer * case.grid.ys * case.grid.lines * LANES
    for got, wanted, magnitude in zip(found, exact, most, strict=True):
        assert_close(got, wanted, magnitude, terms)


# ------------------------------------------------------------------------------------------ fully connected


@machines
@given(cases(), SHIFTS)
@settings(max_examples=60)
def test_spmm_is_a_sparse_matrix_times_a_batch(dtype, register_bytes, case, shift):
    out = check_spmm(Launcher(ALONE, register_bytes=register_bytes), case, dtype, Guarded(shift))
    matrix, x = case.pattern.to_scipy(case.data), case.x.swapaxes(0, 1).reshape(case.pattern.shape[1], -1)
    expected = matrix @ x + (0 if case.bias is None else case.bias[:, None])
    if case.relu:
        expected = np.maximum(expected, 0)
    expected = expected.reshape(len(expected), -1, LANES).swapaxes(0, 1)
    if case.mask is not None:
        expected = np.where(case.mask > 0, expected, 0)
    tolerance = np.finfo(dtype).eps * (case.pattern.shape[1] + 3)
    largest = 1 + abs(case.data).max(initial=0) * abs(case.x).max(initial=0) * case.pattern.shape[1] + 10
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * largest)


@machines
@given(cases(), SHIFTS)
@settings(max_examples=60)
def test_sddmm_is_the_stored_part_of_an_outer_product(dtype, register_bytes, case, shift):
    grad, db = check_sddmm(Launcher(ALONE, register_bytes=register_bytes), case, dtype, Guarded(shift))
    dense = np.einsum("trl,tcl->rc", case.dy, case.x)
    magnitude = np.einsum("trl,tcl->rc", abs(case.dy), abs(case.x))
    stored = case.pattern.rows, case.pattern.indices
    terms = case.dy.shape[0] * LANES
    assert_close(grad, dense[stored], magnitude[stored] + abs(case.dy).max() * abs(case.x).max(), terms)
    assert_close(db, case.dy.sum((0, 2)), abs(case.dy).sum((0, 2)), terms)


@given(cases())
def test_sddmm_without_bias_gradient_leaves_it_alone(case):
    grad, alone = np.empty(case.pattern.nnz), np.empty(case.pattern.nnz)
    Launcher(ALONE).sddmm(case.layout, case.grid, case.dy, case.x, grad, np.empty(case.pattern.shape[0]))
    Launcher(ALONE).sddmm(case.layout, case.grid, case.dy, case.x, alone)
    assert np.array_equal(grad, alone)


@given(patterns(), st.integers(1, 70), st.integers(0, 2**32))
def test_forward_and_transposed_are_adjoint(pattern, batch, seed):
    """⟨Wx, y⟩ = ⟨x, Wᵀy⟩, the transpose's values brought into order by `perm`."""
    plan, rng, launcher = Plan(pattern), np.random.default_rng(seed), Launcher(ALONE)
    data = rng.standard_normal(pattern.nnz)
    x, y = (tiled(rng.standard_normal((batch, features))) for features in pattern.shape[::-1])
    wx, wty, data_t = np.full_like(y, np.nan), np.full_like(x, np.nan), np.full_like(data, np.nan)
    launcher.reorder(data, plan.perm, data_t)
    launcher.spmm(plan.forward, plan.grid(len(x)), data, x, None, wx)
    launcher.spmm(plan.transposed, plan.grid_t(len(x)), data_t, y, None, wty)
    magnitude = np.abs(data).sum() * np.abs(x).max() * np.abs(y).max() * x.size
    assert abs((wx * y).sum() - (x * wty).sum()) <= np.finfo(np.float64).eps * magnitude


@machines
def test_relu_lets_nan_through_and_a_mask_that_is_not_a_number_closes(dtype, register_bytes):
    pattern = SparsityPattern.full((4, 1))
    x = np.full((1, 1, LANES), 2, dtype)
    x[0, 0, 3] = np.nan
    out, mask = np.empty((1, 4, LANES), dtype), np.ones((1, 4, LANES), dtype)
    data, launcher = np.array([1, -1, 0, np.nan], dtype), Launcher(ALONE, register_bytes=register_bytes)
    operator = (layout_of(pattern, pattern.indices), linear_grid(1, 1, 4))
    launcher.spmm(*operator, data, x, None, out, relu=True)
    assert np.isnan(out[0, :, 3]).all()
    assert np.array_equal(out[0, :3, 0], [2, 0, 0])
    assert np.isnan(out[0, 3]).all()
    mask[0, 0, 1], mask[0, 0, 2], mask[0, 0, 4] = np.nan, 0, -0.0
    launcher.spmm(*operator, data, x, None, out, mask=mask)
    assert np.array_equal(out[0, 0, :5], [2, 0, 0, np.nan, 0], equal_nan=True)


@machines
@pytest.mark.parametrize("fan_in", [1, 7, 8, 9, 300])
def test_column_blocks_change_nothing_but_the_order(dtype, register_bytes, fan_in):
    """Blocks continue the sums of the blocks before, so even the bits of spmm stay."""
    rng = np.random.default_rng(fan_in)
    pattern = uniform_random(9, 300, 1 - fan_in / 300, rng)
    x = rng.standard_normal((3, 300, LANES)).astype(dtype)
    data, bias = rng.standard_normal(pattern.nnz).astype(dtype), rng.standard_normal(9).astype(dtype)
    results = []
    for columns in (0, 1, 50, 299, 300, 1000):
        out = np.full((3, 9, LANES), np.nan, dtype)
        layout = layout_of(pattern, pattern.indices, columns)
        launcher = Launcher(ALONE, register_bytes=register_bytes)
        launcher.spmm(layout, linear_grid(3, 300, 9), data, x, bias, out, relu=True)
        results.append(out.tobytes())
    assert len(set(results)) == 1


# ------------------------------------------------------------------------------------------ images


@machines
@given(images(), SHIFTS)
@settings(max_examples=40)
def test_a_convolution_is_a_gather_with_a_moving_origin(dtype, register_bytes, image, shift):
    case, size = image
    launcher = Launcher(ALONE, register_bytes=register_bytes)
    out = check_spmm(launcher, case._replace(relu=False, mask=None), dtype, Guarded(shift))
    kernel = case.pattern.to_scipy(case.data).toarray()
    kernel = kernel.reshape(size["outputs"], size["inputs"], size["kernel"], size["kernel"])
    for tile, lane in ((0, 0), (size["tiles"] - 1, LANES - 1)):
        for o, of_output in enumerate(kernel):
            whole = scipy.signal.correlate(case.x[tile, ..., lane], of_output, mode="valid", method="direct")[0]
            expected = whole[:: size["stride"], :: size["stride"]] + case.bias[o]
            magnitude = abs(case.bias).max() + abs(of_output).sum() * abs(case.x).max()
            assert_close(out[tile, o, ..., lane], expected, magnitude, of_output.size)


@machines
@given(images(), SHIFTS)
@settings(max_examples=40)
def test_images_take_every_epilogue(dtype, register_bytes, image, shift):
    check_spmm(Launcher(ALONE, register_bytes=register_bytes), image[0], dtype, Guarded(shift))


@machines
@given(images(), SHIFTS)
@settings(max_examples=40)
def test_the_gradient_of_a_convolution_is_a_sample_with_a_moving_origin(dtype, register_bytes, image, shift):
    case, size = image
    grad, _ = check_sddmm(Launcher(ALONE, register_bytes=register_bytes), case, dtype, Guarded(shift))
    step, k = size["stride"], size["kernel"]
    wide = np.zeros((*case.dy.shape[:2], *((n - 1) * step + 1 for n in case.dy.shape[2:4]), LANES))
    wide[:, :, ::step, ::step] = case.dy
    expected = np.zeros((size["outputs"], size["inputs"], k, k))
    for tile, o, c, lane in np.ndindex(size["tiles"], size["outputs"], size["inputs"], LANES):
        whole = scipy.signal.correlate(case.x[tile, c, ..., lane], wide[tile, o, ..., lane], "valid", "direct")
        expected[o, c] += whole[:k, :k]  # a stride may leave rows and columns of pixels unread
    stored = case.pattern.rows, case.pattern.indices
    terms = size["tiles"] * case.dy[0, 0].size
    assert_close(
        grad, expected.reshape(size["outputs"], -1)[stored], terms * abs(case.x).max() * abs(case.dy).max(), terms
    )


def test_output_may_have_a_border_that_stays_as_it_is():
    """The producer of a padded layer's input writes into the middle of a larger image."""
    height, width, border = 4, 5, 2
    pattern = SparsityPattern.full((3, 2))
    layout = layout_of(pattern, pattern.indices * (height * width))
    bordered = np.full((2, 3, height + 2 * border, width + 2 * border, LANES), -7.0)
    inner = bordered[:, :, border:-border, border:-border]
    steps = [stride // 8 for stride in bordered.strides]
    grid = Grid(
        2, 2 * height * width * LANES, steps[0], height, width * LANES, steps[2], width, LANES, steps[3], steps[1]
    )
    rng = np.random.default_rng(0)
    data, x = rng.standard_normal(6), rng.standard_normal((2, 2, height, width, LANES))
    Launcher(ALONE).spmm(layout, grid, data, x, None, inner)
    np.testing.assert_allclose(inner, np.einsum("oc,tcyxl->toyxl", data.reshape(3, 2), x), rtol=1e-13, atol=1e-13)
    assert (bordered == -7).sum() == bordered.size - inner.size
    same = np.full_like(bordered, -7)
    reference.spmm(layout, grid, data, x, None, same[:, :, border:-border, border:-border])
    np.testing.assert_allclose(bordered, same, rtol=1e-13, atol=1e-13)
    grad, expected = np.empty((2, 6))
    steps_of_dy = grid._replace()  # dy lies where out did
    Launcher(ALONE).sddmm(layout, steps_of_dy, inner, x, grad)
    reference.sddmm(layout, steps_of_dy, inner, x, expected)
    np.testing.assert_allclose(grad, expected, rtol=1e-12)


@machines
@pytest.mark.parametrize("height", [1, 2, 3, 6])
def test_bands_pass_over_rows_beyond_an_images_edge(dtype, register_bytes, height):
    """A filter of 3 rows that stands out above and below: each of its rows is a block, read only where it is inside."""
    width, channels = 5, 4
    pattern = SparsityPattern.full((channels, 3))  # groups of 4, then in another order groups of 1
    for kept in (pattern, pattern.select(np.arange(pattern.nnz) % 5 != 1)):
        layout = layout_of(kept, (kept.indices - 1) * width, columns_per_block=1)
        rows = np.arange(height)
        bands = np.stack([np.maximum(1 - rows, 0), np.minimum(height + 1 - rows, 3)], axis=1).astype(np.int32)
        grid = Grid(
            2, height * width * LANES, channels * height * width * LANES, height, width * LANES, width * LANES,
            width, LANES, LANES, height * width * LANES, bands,
        )  # fmt: skip
        rng = np.random.default_rng(height)
        x = rng.standard_normal((2, 1, height, width, LANES))
        case = Case(
            kept, layout, grid, rng.standard_normal(kept.nnz), x, np.zeros((2, channels, height, width, LANES)),
            rng.standard_normal(channels), None, False,
        )  # fmt: skip
        out = check_spmm(Launcher(ALONE, register_bytes=register_bytes), case, dtype, Guarded(shift=1))
        filters = kept.to_scipy(case.data).toarray()
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])[:, 0]
        expected = sum(np.einsum("o,tyxl->toyxl", filters[:, k], padded[:, k : k + height]) for k in range(3))
        assert_close(out, expected + case.bias[:, None, None, None], 3 * abs(case.data).max() * abs(x).max() + 9, 4)


# ------------------------------------------------------------------------------------------ bounds


def awkward_cases() -> list[Case]:
    """Every size of group, fan-ins around every block size, and numbers of tiles around every number of lines."""
    rng, drawn = np.random.default_rng(0), []
    for group, fan_in, tiles in itertools.product((1, 2, 3, 4), (0, 1, 5, 8, 11), (1, 3, 4)):
        columns = max(fan_in, 1) + 3
        chosen = set(rng.choice(columns, fan_in, replace=False).tolist())
        pattern = grouped(columns, [chosen, {columns - 1}, set()], [0] * group + [1, 2])
        arrays = [rng.standard_normal((tiles, features, LANES)) for features in (columns, group + 2, group + 2)]
        x, dy, mask = arrays
        drawn.append(
            Case(
                pattern, layout_of(pattern, pattern.indices, 4), linear_grid(tiles, columns, group + 2),
                rng.standard_normal(pattern.nnz), x, dy, rng.standard_normal(group + 2), mask, False,
            )
        )
    return drawn


def run_between_fences(at_end: bool, machines: Any = HERE) -> None:
    for case in awkward_cases():
        for dtype, register_bytes in machines:
            launcher = Launcher(ALONE, register_bytes=register_bytes)
            check_spmm(launcher, case, dtype, Fenced(at_end))
            check_sddmm(launcher, case, dtype, Fenced(at_end))


@pytest.mark.skipif(sys.platform == "win32", reason="fences are POSIX's mprotect")
def test_nothing_is_read_or_written_beyond_an_array():
    assert_survives(
        "from tests.test_kernels import run_between_fences; [run_between_fences(at_end) for at_end in (True, False)]"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="fences are POSIX's mprotect")
def test_nothing_is_read_or_written_beyond_an_array_by_other_registers():
    assert_survives(
        "from tests.kernel_checks import ELSEWHERE; from tests.test_kernels import run_between_fences; "
        "[run_between_fences(at_end, ELSEWHERE) for at_end in (True, False)]"
    )


# ------------------------------------------------------------------------------------------ threads and tapes


def assert_same_bits_of(case: Case) -> None:
    def call(launcher: Launcher) -> list[Any]:
        out, grad, db = np.empty_like(case.dy), np.empty_like(case.data), np.empty(case.pattern.shape[0])
        launcher.spmm(case.layout, case.grid, case.data, case.x, case.bias, out, relu=case.relu, mask=case.mask)
        launcher.sddmm(case.layout, case.grid, case.dy, case.x, grad, db)
        return [out, grad, db]

    assert_same_bits(call)


@given(cases())
@settings(max_examples=60)
def test_layers_give_the_same_bits_on_any_number_of_threads(case):
    assert_same_bits_of(case)


@given(images())
@settings(max_examples=60)
def test_images_give_the_same_bits_on_any_number_of_threads(image):
    assert_same_bits_of(image[0])


@pytest.mark.parametrize("batch", [128, 1024])
@pytest.mark.parametrize("fan_in", [8, 78, 784])
def test_a_layer_large_enough_to_be_cut_is_right_and_the_same_on_any_number_of_threads(batch, fan_in):
    rng = np.random.default_rng(fan_in)
    pattern = uniform_random(300, 784, 1 - fan_in / 784, rng)
    data = rng.standard_normal(pattern.nnz, np.float32)
    x, dy = (tiled(rng.standard_normal((batch, n))).astype(np.float32) for n in (784, 300))
    plan, results = Plan(pattern), []
    for pool in POOLS:
        out, grad, db = np.empty_like(dy), np.empty_like(data), np.empty(300, np.float32)
        Launcher(pool).spmm(plan.forward, plan.grid(len(x)), data, x, None, out)
        Launcher(pool).sddmm(plan.forward, plan.grid(len(x)), dy, x, grad, db)
        results.append([out, grad, db])
    for others in zip(*results, strict=True):
        assert len({array.tobytes() for array in others}) == 1
    wide_x, wide_dy = (a.astype(np.float64).swapaxes(0, 1).reshape(a.shape[1], -1) for a in (x, dy))
    out, grad, db = results[0]
    matrix = pattern.to_scipy(data.astype(np.float64))
    flat = out.swapaxes(0, 1).reshape(300, -1)
    assert_close(flat, matrix @ wide_x, abs(matrix) @ abs(wide_x), pattern.fan_in.max())
    stored = pattern.rows, pattern.indices
    assert_close(grad, (wide_dy @ wide_x.T)[stored], (abs(wide_dy) @ abs(wide_x).T)[stored], batch)
    assert_close(db, wide_dy.sum(1), abs(wide_dy).sum(1), batch)


def test_a_tape_replays_in_order_and_keeps_its_arrays_alive():
    tape, rng = Tape(), np.random.default_rng(0)
    recorder, x = Launcher(ALONE, tape), rng.standard_normal(1000)
    chain = [x]
    for _ in range(20):  # more calls than a tape begins with
        perm, out = rng.permutation(1000).astype(np.int32), np.full(1000, np.nan)
        recorder.reorder(chain[-1], perm, out)
        chain.append(out)
    last = chain[-1]
    assert np.isnan(last).all()  # recording runs nothing
    del chain, out, perm
    gc.collect()
    for _ in range(2):
        last.fill(np.nan)
        Launcher(ALONE).replay(tape)
        assert np.array_equal(np.sort(last), np.sort(x))


# ------------------------------------------------------------------------------------------ in compiled code


@njit
def _step(layout, grid, data, x, bias, y, mask, grad, db):
    embedded.spmm(layout, grid, data, x, bias, y, True, mask)
    embedded.sddmm(layout, grid, y, x, grad, db)


@pytest.mark.parametrize(
    "dtype, optional", [(np.float32, True), pytest.param(np.float64, False, marks=pytest.mark.slow)]
)
def test_a_users_compiled_function_gets_the_launchers_bits(dtype, optional):
    for case in awkward_cases()[::3]:
        case = placed(case, dtype, Guarded(shift=1))
        bias, mask = (case.bias, case.mask) if optional else (None, None)
        results = []
        for _ in range(2):
            y, grad = np.full_like(case.dy, np.nan), np.full_like(case.data, np.nan)
            results.append((y, grad, np.full(case.pattern.shape[0], np.nan, dtype) if optional else None))
        (y, grad, db), (expected_y, expected_grad, expected_db) = results
        _step(case.layout, case.grid, case.data, case.x, bias, y, mask, grad, db)
        Launcher(ALONE).spmm(case.layout, case.grid, case.data, case.x, bias, expected_y, relu=True, mask=mask)
        Launcher(ALONE).sddmm(case.layout, case.grid, expected_y, case.x, expected_grad, expected_db)
        assert np.array_equal(y, expected_y)
        assert np.array_equal(grad, expected_grad)
        assert db is None or np.array_equal(db, expected_db)


# ------------------------------------------------------------------------------------------ one set of names


def test_the_oracle_has_the_launchers_functions_with_its_parameters():
    own = {"replay"}
    methods = {
        name: list(inspect.signature(method).parameters.values())[1:]
        for name, method in (vars(Launcher) | vars(FewLauncher)).items()
        if not name.startswith("_") and name not in own
    }
    functions = {
        name: list(inspect.signature(function).parameters.values())
        for name, function in vars(reference).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }
    assert methods == functions
