"""COO: where segments are cut, and spmm and sddmm over them against the oracle, scipy, and every number of threads."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference
from sparsecore.kernels.cpu import launch
from sparsecore.kernels.cpu.launch import Launcher, Tape
from sparsecore.kernels.layout import CooLayout, Grid
from sparsecore.kernels.tuning import COO_SEGMENT as SEGMENT

from sparsecore.layers.linear import SparseLinear
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan, coo_layout_of, linear_grid
from sparsecore.topology import uniform_random

from .kernel_checks import LANES, POOLS, Fenced, Guarded, assert_close, assert_same_bits, machines

ALONE = POOLS[0]
SEGMENTS = [1, 2, 3, 8, SEGMENT]


@st.composite
def patterns(draw: Any) -> SparsityPattern:
    """Rows of any length in any order: none, one, a few connections, and one so long that it spans many segments."""
    columns = draw(st.integers(1, 90))
    lengths = st.sampled_from([0, 0, 1, 2, 8, columns]) | st.integers(0, columns)
    fan_in = np.minimum(draw(st.lists(lengths, max_size=12)), columns).astype(int)
    return with_fan_in(fan_in, columns, draw(st.integers(0, 2**32)))


def with_fan_in(fan_in: Any, columns: int, seed: int = 0) -> SparsityPattern:
    rng = np.random.default_rng(seed)
    indices = [np.sort(rng.permutation(columns)[:length]) for length in fan_in]
    indptr = np.concatenate([[0], np.cumsum(fan_in)]).astype(np.int64)
    return SparsityPattern((len(fan_in), columns), indptr, np.concatenate([[], *indices]).astype(np.int64))


# ---------------------------------------------------------------------------------------------- segments


@given(pattern=patterns(), segment=st.sampled_from(SEGMENTS))
def test_segments_hold_every_connection_once_and_cut_only_longer_rows(pattern, segment):
    layout = coo_layout_of(pattern, pattern.indices, segment)
    assert np.array_equal(layout.rows, pattern.rows) and np.array_equal(layout.offsets, pattern.indices)
    assert np.array_equal(layout.empty, np.flatnonzero(pattern.fan_in == 0)) and layout.count == pattern.shape[0]
    assert [array.dtype for array in layout[:4]] == [np.int32, np.int32, np.int64, np.int32]
    edges = layout.edges
    assert edges.shape[1] == 3 and edges[0, 0] == 0 and np.all(edges[-1] == pattern.nnz)
    assert np.all(np.diff(edges.ravel()) >= 0)
    carries = 0
    for (begin, whole, tail), end in zip(edges[:-1], edges[1:, 0], strict=True):
        assert 0 < end - begin < 2 * segment
        before, goes_on = (set(pattern.rows[begin - 1 : begin]), set(pattern.rows[end : end + 1]))
        for p, row in enumerate(pattern.rows[begin:end], start=begin):
            stretch = "before" if row in before else "goes on" if row in goes_on else "whole"
            assert stretch == ("before" if p < whole else "whole" if p < tail else "goes on")
            assert stretch == "whole" or pattern.fan_in[row] > segment
        carries += begin < whole
    assert layout.carries == carries


@pytest.mark.parametrize(
    "fan_in, edges",
    [
        ([4, 4, 4], [(0, 0, 4), (4, 4, 8), (8, 8, 12)]),  # a row ends where a segment does
        ([3, 3, 3], [(0, 0, 6), (6, 6, 9)]),  # the second row is spared
        ([11], [(0, 0, 0), (4, 11, 11)]),  # the last cut waits for the row's end
        ([1, 11], [(0, 0, 1), (4, 8, 8), (8, 12, 12)]),
        ([2, 9, 1], [(0, 0, 2), (4, 11, 11), (11, 11, 12)]),
        ([0, 0], []),
        ([], []),
    ],
)
def test_where_segments_of_four_end(fan_in, edges):
    pattern = with_fan_in(fan_in, 11)
    assert coo_layout_of(pattern, pattern.indices, 4).edges[:-1].tolist() == [*map(list, edges)]


def test_a_plan_of_this_format():
    plan = Plan(uniform_random(300, 784, 0.9, np.random.default_rng(0)), "coo")
    assert isinstance(plan.forward, CooLayout) and isinstance(plan.transposed, CooLayout)
    assert plan.forward.carries == 0 and len(plan.forward.edges) - 1 <= 23520 // SEGMENT + 1
    turned = plan.pattern.transpose()[0]
    assert np.array_equal(plan.transposed.rows, turned.rows) and plan.transposed.count == 784


# ---------------------------------------------------------------------------------------------- kernels


class Case(NamedTuple):
    """One operator and what it is applied to."""

    pattern: SparsityPattern
    layout: CooLayout
    grid: Grid
    data: Any
    x: Any
    dy: Any
    bias: Any
    mask: Any
    relu: bool

    def placed(self, dtype: Any, memory: Any) -> Case:
        """The same in a dtype, its arrays in guarded memory."""
        names = ("data", "x", "dy", "bias", "mask")
        given = {name: None if getattr(self, name) is None else getattr(self, name).astype(dtype) for name in names}
        layout = CooLayout(*map(memory.put, self.layout[:4]), *self.layout[4:])
        return self._replace(layout=layout, **{name: memory.put(array) for name, array in given.items()})

    def spmm(self, kernels: Any, out: Any) -> None:
        """Run on a launcher or on the oracle."""
        kernels.spmm(self.layout, self.grid, self.data, self.x, self.bias, out, relu=self.relu, mask=self.mask)

    def sddmm(self, kernels: Any, grad: Any, db: Any) -> None:
        kernels.sddmm(self.layout, self.grid, self.dy, self.x, grad, db)

    def magnitude(self) -> Case:
        """What bounds the rounding errors: the same sums of absolute values."""
        sizes = {name: abs(getattr(self, name)) for name in ("data", "x", "dy")}
        return self._replace(**sizes, bias=None if self.bias is None else abs(self.bias), relu=False, mask=None)


def drawn(draw: Any, pattern: SparsityPattern, grid: Grid, x: tuple[int, ...], y: tuple[int, ...]) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layout = coo_layout_of(pattern, pattern.indices, draw(st.sampled_from(SEGMENTS)))
    return Case(
        pattern, layout, grid, rng.standard_normal(pattern.nnz), rng.standard_normal(x), rng.standard_normal(y),
        rng.standard_normal(pattern.shape[0]) if draw(st.booleans()) else None,
        rng.standard_normal(y) if draw(st.booleans()) else None, draw(st.booleans()),
    )  # fmt: skip


@st.composite
def cases(draw: Any) -> Case:
    """A fully connected operator on 1 to 9 tiles."""
    pattern, tiles = draw(patterns()), draw(st.integers(1, 9))
    rows, columns = pattern.shape
    grid = linear_grid(tiles, columns, rows)
    return drawn(draw, pattern, grid, (tiles, columns, LANES), (tiles, rows, LANES))


@st.composite
def images(draw: Any) -> Case:
    """An operator whose origin moves over an image, as a convolution's does, in any steps."""
    pattern = draw(patterns())
    outer, ys, lines, x_y, x_line = (draw(st.integers(1, most)) for most in (3, 3, 6, 9, 3))
    rows, reach = pattern.shape[0], pattern.shape[1] + (ys - 1) * x_y + (lines - 1) * x_line
    grid = Grid(
        outer, reach * LANES, rows * ys * lines * LANES, ys, x_y * LANES, lines * LANES,
        lines, x_line * LANES, LANES, ys * lines * LANES,
    )  # fmt: skip
    return drawn(draw, pattern, grid, (outer, reach, LANES), (outer, rows, ys, lines, LANES))


def check(launcher: Launcher, case: Case, dtype: Any, memory: Any) -> list[Any]:
    """Both kernels against the oracle; returns what they wrote."""
    case = case.placed(dtype, memory)
    written = [memory.empty(shape, dtype) for shape in (case.dy.shape, case.data.shape, (case.layout.count,))]
    results = {}
    for name, kernels, operator in (
        ("got", launcher, case), ("exact", reference, case), ("most", reference, case.magnitude()),
    ):  # fmt: skip
        results[name] = written if name == "got" else [np.full(array.shape, np.nan) for array in written]
        operator.spmm(kernels, results[name][0])
        operator.sddmm(kernels, *results[name][1:])
    memory.assert_intact()
    terms = case.pattern.fan_in.max(initial=0) + 1, case.grid.outer * case.grid.ys * case.grid.lines * LANES
    for got, exact, most, count in zip(*results.values(), (*terms, terms[1]), strict=True):
        assert_close(got, exact, most, count)
    check_adding(launcher, case, dtype, memory, results, terms[1])
    return written


def check_adding(launcher: Launcher, case: Case, dtype: Any, memory: Any, results: Any, terms: int) -> None:
    """Gradients that are added to what is there: to themselves."""
    found = [memory.empty(array.shape, dtype) for array in results["got"][1:]]
    for array, values in zip(found, results["got"][1:], strict=True):
        array[...] = values
    before = [array.astype(np.float64) for array in found]
    launcher.sddmm(case.layout, case.grid, case.dy, case.x, *found, more=True)
    memory.assert_intact()
    for got, first, exact, most in zip(found, before, results["exact"][1:], results["most"][1:], strict=True):
        assert_close(got, first + exact, 2 * most, terms + 1)


@machines
@settings(max_examples=30)
@given(case=cases() | images(), shift=st.sampled_from([0, 1, 5]))
def test_against_the_oracle(dtype, register_bytes, case, shift):
    check(Launcher(ALONE, register_bytes=register_bytes), case, dtype, Guarded(shift))


@settings(max_examples=20)
@given(case=cases() | images(), at_end=st.booleans())
def test_nothing_is_read_or_written_beyond_an_array(case, at_end):
    for register_bytes in (16, 32, 64):
        check(Launcher(ALONE, register_bytes=register_bytes), case, np.float32, Fenced(at_end))


@settings(max_examples=30)
@given(case=cases() | images())
def test_threads_change_no_bit(case):
    assert_same_bits(lambda launcher: check(launcher, case, np.float32, Guarded()))


@settings(max_examples=20)
@given(case=cases(), at_end=st.booleans())
def test_fetching_early_changes_no_bit(case, at_end):
    """Lines far ahead are asked for by connections that exist, up to the last."""
    wanted = check(Launcher(ALONE), case, np.float32, Fenced(at_end))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "FAR_CACHE", 0)
        assert launch._ahead(case.grid, case.x) > 0
        got = check(Launcher(ALONE), case, np.float32, Fenced(at_end))
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_lines_are_fetched_early_only_where_a_cache_cannot_hold_them():
    x = np.empty(0, np.float32)
    assert launch._ahead(linear_grid(8, 784, 300), x) == 0
    assert launch._ahead(linear_grid(2, 1_000_000, 10), x) > 0
    assert launch._ahead(linear_grid(2, 1_000_000, 10)._replace(outer=2), x) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tiles", [1, 2, 8])
def test_against_scipy(threads, tiles):
    """A layer large enough to be cut among threads: short rows, empty ones, and two that span many segments."""
    fan_in = np.random.default_rng(0).integers(0, 8, 4000)
    fan_in[[7, 3000]] = 20_000, 5 * SEGMENT
    pattern = with_fan_in(fan_in, 20_000)
    rng = np.random.default_rng(1)
    data, bias = rng.standard_normal(pattern.nnz), rng.standard_normal(4000)
    x, dy = rng.standard_normal((tiles, 20_000, LANES)), rng.standard_normal((tiles, 4000, LANES))
    plan, w = Plan(pattern, "coo"), scipy.sparse.csr_array((data, pattern.indices, pattern.indptr), pattern.shape)
    assert plan.forward.carries == 42 and plan.transposed.carries == 0
    launcher = Launcher(POOLS[threads - 1])
    y, dx, grad, db = (np.full_like(like, np.nan) for like in (dy, x, data, bias))
    launcher.spmm(plan.forward, plan.grid(tiles), data, x, bias, y, relu=True)
    launcher.spmm(plan.transposed, plan.grid_t(tiles), data[plan.perm], dy, None, dx, mask=x)
    launcher.sddmm(plan.forward, plan.grid(tiles), dy, x, grad, db)
    for k in range(tiles):
        np.testing.assert_allclose(y[k], np.maximum(w @ x[k] + bias[:, None], 0), rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(dx[k], np.where(x[k] > 0, w.T @ dy[k], 0), rtol=1e-12, atol=1e-10)
    wanted = sum(np.sum(dy[k, pattern.rows] * x[k, pattern.indices], axis=1) for k in range(tiles))
    np.testing.assert_allclose(grad, wanted, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(db, dy.sum((0, 2)), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("segment", SEGMENTS)
def test_nan_goes_where_it_is_read_and_relu_lets_it_through(segment):
    pattern = with_fan_in([0, 5, 40, 3, 0], 40)
    layout, grid = coo_layout_of(pattern, pattern.indices, segment), linear_grid(1, 40, 5)
    x, out = np.ones((1, 40, LANES), np.float32), np.zeros((1, 5, LANES), np.float32)
    x[0, 17, 3] = np.nan
    Launcher(ALONE).spmm(layout, grid, np.ones(48, np.float32), x, np.full(5, -9, np.float32), out, relu=True)
    reads = np.zeros((5, LANES), bool)
    reads[pattern.rows[pattern.indices == 17], 3] = True
    assert np.array_equal(np.isnan(out[0]), reads) and reads[2, 3]
    assert np.array_equal(out[0, 2, 4:], np.full(12, 31)) and not out[0, [0, 4]].any()
    mask = np.ones_like(out)
    mask[0, :, 0], mask[0, :, 1], mask[0, :, 2] = np.nan, 0, -1
    Launcher(ALONE).spmm(layout, grid, np.ones(48, np.float32), x, np.full(5, 9, np.float32), out, mask=mask)
    assert not out[0, :, :3].any() and np.all(out[0, [0, 4], 3:] == 9) and np.isnan(out[0, 2, 3])


def test_the_sums_of_no_samples_are_zero():
    pattern = with_fan_in([0, 5, 9], 9)
    layout, nothing, grad, db = coo_layout_of(pattern, pattern.indices, 4), np.empty(0), np.ones(14), np.ones(3)
    Launcher(ALONE).sddmm(layout, linear_grid(0, 9, 3), nothing, nothing, grad, db)
    assert not grad.any() and not db.any()


def test_calls_of_one_tape_share_the_room_for_carries():
    """A later, larger call takes more room; the earlier one keeps what it was recorded with."""
    tape, checks = Tape(), []
    recorder, launcher = Launcher(POOLS[1], tape), Launcher(POOLS[1])
    rng = np.random.default_rng(0)
    for columns, tiles in ((40, 1), (300, 5), (90, 2)):
        pattern = with_fan_in([columns, 0, columns, 1], columns)
        layout, grid = coo_layout_of(pattern, pattern.indices, 8), linear_grid(tiles, columns, 4)
        data, x = rng.standard_normal(pattern.nnz), rng.standard_normal((tiles, columns, LANES))
        out = np.full((tiles, 4, LANES), np.nan)
        recorder.spmm(layout, grid, data, x, None, out)
        checks.append((out, pattern.to_scipy(data).toarray() @ x))
    for _ in range(2):
        launcher.replay(tape)
        for out, wanted in checks:
            np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-12)
            out[:] = np.nan


# ---------------------------------------------------------------------------------------------- layers


SHAPES = [
    with_fan_in([0, 3, 0, 12, 1, 1, 0], 12),
    with_fan_in([600, 1, 0, 1030], 1030),
    with_fan_in([0, 0], 4),
    SparsityPattern.full((9, 7)),
    uniform_random(50, 70, 0.98, np.random.default_rng(0)),
]


@pytest.mark.parametrize("pattern", SHAPES, ids=repr)
@pytest.mark.parametrize("batch", [1, 16, 33])
def test_both_formats_agree(pattern, batch):
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal(pattern.nnz), rng.standard_normal(pattern.shape[0])
    x, dy = rng.standard_normal((batch, pattern.shape[1])), rng.standard_normal((batch, pattern.shape[0]))
    results = []
    for format, relu in itertools.product(("csr", "coo"), (False, True)):
        layer = SparseLinear(pattern, weight, bias, relu=relu, format=format, dtype=np.float64)
        y, cache = layer.forward(x)
        dx, grads = layer.backward(dy, cache)
        results.append([y, dx, grads["weight"], grads["bias"]])
    for csr, coo in zip(results[:2], results[2:], strict=True):
        for a, b in zip(csr, coo, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("pattern", SHAPES, ids=repr)
def test_gradients_are_central_differences(pattern):
    rng = np.random.default_rng(0)
    layer = SparseLinear(
        pattern, rng.standard_normal(pattern.nnz), rng.standard_normal(pattern.shape[0]), format="coo", dtype=np.float64
    )
    x, dy = rng.standard_normal((5, pattern.shape[1])), rng.standard_normal((5, pattern.shape[0]))
    workspace = Workspace()
    dx, grads = layer.backward(dy, layer.forward(x)[1], workspace)
    for array, gradient in ((x, dx), (layer.weight, grads["weight"]), (layer.bias, grads["bias"])):
        for place in rng.permutation(array.size)[:40]:
            at, h = np.unravel_index(place, array.shape), 1e-5
            value, sides = array[at], []
            for array[at] in (value + h, value - h):
                sides.append(float(np.sum(layer.forward(x)[0] * dy)))
            array[at] = value
            assert gradient[at] == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-6, abs=1e-6)
