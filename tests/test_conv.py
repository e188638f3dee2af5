"""SparseConv2d: its arithmetic and gradients for every stride, padding, dilation and size, and what it costs and refuses."""  # noqa: E501

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate
from sparsecore.kernels import reference

from sparsecore.gradcheck import gradcheck
from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.conv_transpose import SparseConvTranspose2d
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.norm import BatchNorm
from sparsecore.layers.sequential import Sequential
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.conv_plan import _panel
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random

from .kernel_checks import POOLS, Guarded, Launcher, assert_close, assert_same_bits, machines
from .small import FORMATS, Array, numbers, pattern_of, tiled

BATCHES = (1, 7, 16, 35)


def full(channels: int, in_channels: int, kernel: tuple[int, int]) -> SparsityPattern:
    return dense(channels, in_channels * kernel[0] * kernel[1])


def conv(pattern: SparsityPattern, *where: Any, seed: int = 0, dtype: Any = np.float64, **options: Any) -> SparseConv2d:
    """A layer with random values, and with biases that keep every neuron off a ReLU's kink."""
    weight, bias = numbers((pattern.nnz,), seed), numbers((pattern.shape[0],), seed + 1)
    return SparseConv2d(pattern, *where, weight=weight, bias=bias, dtype=dtype, **options)


def filters_of(layer: SparseConv2d) -> Array:
    """(out_channels, in_channels, kernel height, kernel width), zeros included."""
    return layer.to_scipy().toarray().reshape(layer.out_shape[0], layer.in_shape[0], *layer.kernel_size)


def padded(layer: SparseConv2d, x: Array) -> Array:
    (high, wide) = layer.padding
    return np.pad(x, ((0, 0), (0, 0), (high, high), (wide, wide)))


def obvious(layer: SparseConv2d, x: Array) -> Array:
    """The definition, one filter place at a time."""
    weights, x = filters_of(layer), padded(layer, x)
    (s, t), (d, e), (_, height, width) = layer.stride, layer.dilation, layer.out_shape
    y = np.zeros((len(x), *layer.out_shape)) + layer.bias[:, None, None]
    for ky, kx in np.ndindex(*layer.kernel_size):
        seen = x[:, :, ky * d :: s, kx * e :: t][:, :, :height, :width]
        y += np.einsum("oc,bchw->bohw", weights[:, :, ky, kx], seen)
    return np.maximum(y, 0) if layer.relu else y


@st.composite
def layers(draw: Any) -> SparseConv2d:
    """Any geometry that leaves an output, any pattern: none, all, whole filters, or single weights."""
    size = st.integers(1, 3)
    kernel, stride, dilation = (tuple(draw(st.tuples(size, size))) for _ in range(3))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    reach = [(k - 1) * d + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    height, width = (draw(st.integers(max(1, least), max(1, least) + 7)) for least in reach)
    out_channels, in_channels = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    channels = rng.random((out_channels, in_channels, 1)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    weights = rng.random((out_channels, in_channels, kernel[0] * kernel[1])) < draw(st.sampled_from([0.2, 1.0]))
    pattern = pattern_of((channels & weights).reshape(out_channels, -1))
    where = ((in_channels, height, width), kernel, stride, padding, dilation)
    return conv(pattern, *where, relu=draw(st.booleans()), format=draw(st.sampled_from(FORMATS)), seed=draw(st.integers(0, 99)))  # noqa: E501


@settings(max_examples=150)
@given(layer=layers(), batch=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_a_convolution_is_its_definition(layer, batch, seed):
    x = numbers((batch, *layer.in_shape), seed)
    y, _ = layer.forward(x)
    assert y.shape == (batch, *layer.out_shape)
    assert np.allclose(y, obvious(layer, x), rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(layer=layers(), batch=st.integers(1, 18), seed=st.integers(0, 2**32))
def test_gradients_are_derivatives(layer, batch, seed):
    gradcheck(layer, numbers((batch, *layer.in_shape), seed), samples=25)


@pytest.mark.parametrize("made", [
    lambda dtype: SparseConv2d(dense(3, 30), (5, 3, 6), (3, 2), dtype=dtype),
    lambda dtype: SparseConv2d(dense(3, 30), (5, 4, 6), (3, 2), dtype=dtype),
    lambda dtype: SparseConv2d(dense(8, 98), (2, 7, 7), 7, dtype=dtype, format="coo"),
    lambda dtype: SparseConv2d(dense(3, 192), (64, 1, 3000), (1, 3), dtype=dtype),
    lambda dtype: SparseConvTranspose2d(dense(3, 192), (64, 1, 3000), (1, 3), dtype=dtype),
    lambda dtype: SparseConvTranspose2d(dense(3, 8), (4, 1, 9), (2, 1), (2, 2), dtype=dtype),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_of_none_has_no_gradient(made, dtype):
    """Of images one row high too, which are computed as features are if there are any."""
    layer = made(dtype)
    shape, workspace = layer.in_shape, Workspace()
    for batch in (3, 0):  # the first leaves numbers behind
        y, cache = layer.forward(numbers((batch, *shape), dtype=dtype), workspace)
        dx, grads = layer.backward(np.ones((batch, *layer.out_shape), dtype), cache, workspace)
    assert y.shape == (0, *layer.out_shape) and dx.shape == (0, *shape)
    assert not grads["weight"].any() and not grads["bias"].any()


@settings(max_examples=60)
@given(layer=layers(), seed=st.integers(0, 2**32))
def test_dx_is_the_adjoint(layer, seed):
    """⟨W ∗ x, dy⟩ = ⟨x, Wᵀ ∗ dy⟩, without bias or ReLU."""
    layer.relu = False
    layer.bias[...] = 0
    x, dy = numbers((3, *layer.in_shape), seed), numbers((3, *layer.out_shape), seed + 1)
    y, cache = layer.forward(x)
    dx, _ = layer.backward(dy, cache)
    assert np.isclose(np.vdot(y, dy), np.vdot(x, dx), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel, padding", [((3, 3), 1), ((5, 3), 0), ((2, 4), (1, 3)), ((1, 1), 0)])
@pytest.mark.parametrize("batch", BATCHES)
def test_scipy_agrees(kernel, padding, batch):
    pattern = uniform_random(6, 4 * kernel[0] * kernel[1], 0.7, np.random.default_rng(0))
    layer = conv(pattern, (4, 9, 11), kernel, 1, padding, dtype=np.float32)
    x = numbers((batch, 4, 9, 11), 1, np.float32)
    weights = filters_of(layer)
    wanted = [[sum(correlate(c, w, "valid") for c, w in zip(image, row, strict=True)) for row in weights] for image in padded(layer, x)]  # noqa: E501
    y, cache = layer.forward(x)
    assert np.allclose(y, np.array(wanted) + layer.bias[:, None, None], atol=1e-4)
    dy = numbers(y.shape, 2, np.float32)
    _, grads = layer.backward(dy, cache)
    dw = np.zeros((6, 4, *kernel))
    for image, slopes in zip(padded(layer, x), dy, strict=True):
        dw += [[correlate(c, slope, "valid") for c in image] for slope in slopes]
    stored = dw.reshape(6, -1)[pattern.rows, pattern.indices]
    assert np.allclose(grads["weight"], stored, atol=2e-3)
    assert np.allclose(grads["bias"], dy.sum((0, 2, 3)), atol=1e-3)


@pytest.mark.parametrize("kernel, stride, sparsity", [(3, 2, 0.8), (1, 2, 0.5), ((2, 5), (3, 2), 0), (3, (1, 2), 0.9)])
@pytest.mark.parametrize("relu", [False, True])
def test_phases_together_give_the_bits_of_each_alone(kernel, stride, sparsity, relu):
    """Within a border or not, masked or not: one walk over dx writes what one for each offset did."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    pattern = uniform_random(7, 5 * high * wide, sparsity, np.random.default_rng(0))
    layer = conv(pattern, (5, 12, 6), kernel, stride, padding=1, dtype=np.float32)
    before = conv(full(5, 2, (3, 3)), (2, 12, 6), 3, padding=1, relu=relu, dtype=np.float32)
    norm = BatchNorm((5, 12, 6), relu=relu)
    x, dy = numbers((20, 2, 12, 6), 1, np.float32), numbers((20, *layer.out_shape), 2, np.float32)
    (together,) = layer.plan.phases
    alone = [layer.plan._phase([each]) for each in together.origins]
    assert len(alone) > 1
    for tree in (Sequential([before, layer]), Sequential([before, norm, layer])):
        found = []
        for phases in ([together], alone):
            vars(layer.plan)["phases"] = phases
            _, caches = tree.forward(x)
            found.append(tree.backward(dy, caches)[0])
        assert found[0].tobytes() == found[1].tobytes()


def test_rows_without_connections_do_not_make_groups_of_phases():
    """At 90% some offsets reach a channel through no weight; all others take as many lines at once as ever."""
    plan = conv(uniform_random(32, 16, 0.9, np.random.default_rng(0)), (16, 8, 8), 1, 2).plan
    (phase,) = plan.phases
    assert phase.layout.most_group == 1 and len(phase.layout.rows) == 4 * 16
    (phase,) = conv(full(32, 16, (1, 1)), (16, 8, 8), 1, 2).plan.phases
    assert phase.layout.most_group == 4


@pytest.mark.parametrize("kernel, stride", [(1, 1), (1, 2), (3, 1), (3, 2), ((1, 3), 2), ((3, 1), (2, 1)), (2, 3)])
def test_what_is_fetched_early_is_what_the_next_image_row_reads(kernel, stride):
    """Of every plane: all lines that the row before did not read; and of filters of one pixel no others."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    plan = conv(full(2, 1, (high, wide)), (1, 12, 12), kernel, stride).plan
    grid = plan.grid(1, np.empty((1, *plan.out_shape, LANES)))
    taps = list(np.ndindex(high, wide))
    lines = [
        {y * grid.x_y + u * grid.x_line + (a * 12 + b) * LANES for u in range(grid.lines) for a, b in taps}
        for y in range(2)
    ]
    fetched = {grid.ahead + k * grid.apart for k in range(grid.fresh)}
    assert lines[1] - lines[0] <= fetched
    if (high, wide) == (1, 1):
        assert fetched == lines[1]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_full_pattern_of_one_place_is_a_fully_connected_layer(format, dtype):
    pattern = uniform_random(30, 3 * 4 * 5, 0.5, np.random.default_rng(3))
    layer = conv(pattern, (3, 4, 5), (4, 5), dtype=dtype, format=format, relu=True)
    linear = SparseLinear(pattern, layer.weight, layer.bias, dtype=dtype, relu=True)
    x, dy = numbers((21, 3, 4, 5), 4, dtype), numbers((21, 30), 5, dtype)
    (y, cache), (z, other) = layer.forward(x), linear.forward(x.reshape(21, 60))
    assert np.allclose(y.reshape(21, 30), z, rtol=1e-5, atol=1e-5)
    (dx, grads), (dx_linear, grads_linear) = layer.backward(dy.reshape(y.shape), cache), linear.backward(dy, other)
    assert np.allclose(dx.reshape(21, 60), dx_linear, rtol=1e-5, atol=1e-5)
    for name, array in grads.items():
        assert np.allclose(array, grads_linear[name], rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ kernels


@machines
@settings(max_examples=20)
@given(layer=layers(), shift=st.sampled_from([0, 1, 5]), seed=st.integers(0, 2**32))
def test_the_kernels_do_what_the_oracle_does_and_stay_within_their_arrays(dtype, register_bytes, layer, shift, seed):
    """Forward, dW and every phase of dX, on arrays between margins; out of dx's phases, none is left out or written twice."""  # noqa: E501
    launcher, plan, rng = Launcher(POOLS[0], register_bytes=register_bytes), layer.plan, np.random.default_rng(seed)
    inner, outer = (2, *layer.in_shape, LANES), (2, *layer.out_shape, LANES)
    x, dy = (
        np.pad(rng.standard_normal(shape), ((0, 0), (0, 0), border[:2], border[2:], (0, 0)))
        for shape, border in ((inner, plan.x_border), (outer, plan.dy_border))
    )
    for operator, read, shape in (
        ([(plan.forward, plan.grid(2, np.empty(outer)), layer.weight, None)], x, outer),
        ([(p.layout, plan.phase_grid(p, 2, np.empty(inner)), layer.weight[p.perm], p) for p in plan.phases], dy, inner),
    ):
        memory = Guarded(shift)
        out, exact, most = memory.empty(shape, dtype), np.full(shape, np.nan), np.full(shape, np.nan)
        source = memory.put(read.astype(dtype))
        for layout, grid, data, phase in operator:
            here = (lambda images: images) if phase is None else phase.of
            assert np.isnan(here(out)).all()
            data = memory.put(data.astype(dtype))
            launcher.spmm(layout, grid, data, source, None, here(out))
            reference.spmm(layout, grid, data, source, None, here(exact))
            reference.spmm(layout, grid, abs(data), abs(source), None, here(most))
        memory.assert_intact()
        assert_close(out, exact, most, max(layer.pattern.nnz, 1))


def test_a_pixel_that_no_filter_reaches_gets_no_gradient():
    layer = conv(full(2, 1, (1, 1)), (1, 7, 5), 1, 3)
    y, cache = layer.forward(numbers((4, 1, 7, 5)))
    dx, _ = layer.backward(np.ones_like(y), cache)
    reached = np.zeros((7, 5), bool)
    reached[::3, ::3] = True
    assert np.all(dx[:, 0, ~reached] == 0) and np.all(dx[:, 0, reached] == layer.weight.sum())


@pytest.mark.parametrize(
    "kernel, stride, lines", [((3, 3), 1, 60), ((3, 3), 2, 60), ((2, 5), (3, 2), 60), ((1, 1), 1, 4 * _panel())]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_of_channels_change_nothing_but_the_order_of_dx(kernel, stride, lines, dtype, monkeypatch):
    """As layers of a hundred channels have them, here of a few channels each."""
    pattern = uniform_random(12, 9 * kernel[0] * kernel[1], 0.6, np.random.default_rng(0))
    where = ((9, 8, 12), kernel, stride, (1, 2))
    x = numbers((20, 9, 8, 12), 1, dtype)

    def passes() -> tuple[SparseConv2d, list[Array]]:
        layer = conv(pattern, *where, dtype=dtype)
        y, cache = layer.forward(x)
        dx, grads = layer.backward(numbers(y.shape, 2, dtype), cache)
        return layer, [y, grads["weight"], grads["bias"], dx]

    _, wanted = passes()
    monkeypatch.setattr("sparsecore.storage.plan.BLOCK_LINES", lines)
    for name in ("FEWEST_CONNECTIONS", "MORE_CONNECTIONS"):
        monkeypatch.setattr(f"sparsecore.storage.conv_plan.{name}", 1)
    layer, found = passes()
    assert len(layer.plan.forward.cuts) > 2
    assert all(phase.bands is None and len(phase.layout.cuts) > 2 for phase in layer.plan.phases)
    *same, dx = zip(wanted, found, strict=True)
    assert all(np.array_equal(*each) for each in same)
    assert np.allclose(*dx, rtol=0, atol=1e-4 if dtype is np.float32 else 1e-12)
    assert np.allclose(found[0], obvious(layer, x), atol=1e-4)


def test_wide_layers_have_blocks_of_channels_forward_and_transposed():
    pattern = uniform_random(80, 72 * 9, 0.5, np.random.default_rng(0))
    plan = SparseConv2d(pattern, (72, 6, 6), 3, 1, 1).plan
    (phase,) = plan.phases
    assert len(plan.forward.cuts) > 2
    assert len(phase.layout.cuts) > 2
    assert plan.dy_border == (1, 1, 1, 1)
    assert SparseConv2d(dense(80, 72 * 9), (72, 6, 6), 3, 1, 1).plan.dy_border == (0, 0, 1, 1), "rows share columns"


@pytest.mark.parametrize(
    ("channels", "side", "sparsity", "forward", "back"),
    [(96, 16, 0.89, 20, 20), (64, 8, 0.9, 16, 16), (64, 8, 0.95, 0, 0), (512, 4, 0.95, 35, 0), (512, 2, 0.95, 0, 0)],
)
def test_blocks_are_of_one_size_and_where_they_pay(channels, side, sparsity, forward, back, monkeypatch):
    """Channels of a block. Few connections do not pay, nor narrow images, nor dX where bands spare a sixth."""
    monkeypatch.setattr("sparsecore.storage.conv_plan._panel", lambda: 8)
    pattern = uniform_random(channels, channels * 9, sparsity, np.random.default_rng(0))
    plan = SparseConv2d(pattern, (channels, side, side), 3, 1, 1).plan
    assert (plan._forward_block // 9, plan._back_block // 9) == (forward, back)


@pytest.mark.parametrize(("side", "rows"), [(32, 1), (16, 1), (12, 0), (8, 0)])
def test_channels_of_dy_do_not_all_begin_at_one_set_of_a_cache(side: int, rows: int) -> None:
    """32 rows of 34 lines are a multiple of a page: with their border's rows, images begin four lines apart."""
    layer = SparseConv2d(dense(16, 16 * 9), (16, side, side), 3, 1, 1)
    assert layer.plan.dy_border == (rows, rows, 1, 1)
    assert (side + 2 * rows) * (side + 2) % 32, "of 64 sets, channels begin at more than two"


def test_a_border_that_would_crowd_channels_more_is_not_kept() -> None:
    """14 rows of 16 lines begin at two sets of 64, but 16 of 16 would at one. Nor where a pixel's channels are few."""
    few = uniform_random(16, 16 * 9, 0.9, np.random.default_rng(0))
    assert SparseConv2d(few, (16, 32, 32), 3, 1, 1).plan.dy_border == (0, 0, 1, 1)
    assert SparseConv2d(dense(16, 16 * 9), (16, 14, 14), 3, 1, 1).plan.dy_border == (0, 0, 1, 1)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_same_bits_on_any_number_of_threads(format, stride):
    layer = conv(uniform_random(7, 5 * 9, 0.6, np.random.default_rng(0)), (5, 8, 9), 3, stride, 1, format=format, relu=True)  # noqa: E501
    x, dy = numbers((50, 5, 8, 9), 1), numbers((50, *layer.out_shape), 2)

    def step(launcher: Launcher) -> list[Array]:
        workspace = Workspace(cpu(), launcher)
        y, cache = layer.forward(x, workspace)
        dx, grads = layer.backward(dy, cache, workspace)
        return [y, dx, *(array.copy() for array in grads.values())]

    assert_same_bits(step)


@pytest.mark.parametrize("pools", [POOLS[:1], POOLS], ids=["alone", "together"])
@pytest.mark.parametrize("batch, side, sparsity", [(50, 9, 0.6), (128, 4, 0.9), (20, 33, 0.9), (1, 16, 0)])
def test_threads_that_take_bands_of_images_find_the_bits_of_those_that_take_rows(pools, batch, side, sparsity, monkeypatch):  # noqa: E501
    """Also where gradients are added to what is there, and some rows and channels have no connections."""
    monkeypatch.setattr("sparsecore.kernels.cpu.launch.WORTH_CUTTING", 1)
    pattern = uniform_random(7, 5 * 9, sparsity, np.random.default_rng(0))
    plan = SparseConv2d(pattern, (5, side, side), 3, 1, 1).plan
    tiles = -(-batch // LANES)
    x = np.pad(numbers((tiles, 5, side, side, LANES), 1, np.float32), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    dy = numbers((tiles, 7, side, side, LANES), 2, np.float32)
    found = set()
    for pays in (0, 1 << 40):  # always, never
        monkeypatch.setattr("sparsecore.kernels.cpu.launch.PARTIAL_PAYS", pays)
        for pool in pools:
            dw, db = numbers((pattern.nnz,), 3, np.float32), numbers((7,), 4, np.float32)
            for more in (True, False):
                Launcher(pool).sddmm(plan.forward, plan.grid(tiles, dy), dy, x, dw, db, more=more)
                found.add((more, dw.tobytes(), db.tobytes()))
    assert len(found) == 2


# ------------------------------------------------------------------------------------------------ buffers


@pytest.mark.parametrize("format", FORMATS)
def test_what_stands_in_spare_lanes_reaches_nothing(format):
    layer = conv(full(3, 2, (3, 3)), (2, 5, 6), 3, 1, 1, relu=True, format=format)
    x, dy = numbers((19, 2, 5, 6)), numbers((19, *layer.out_shape), 1)
    wanted_y, cache = layer.forward(x)
    wanted_dx, wanted = layer.backward(dy, cache)
    workspace = Workspace()
    y, cache = layer.forward(tiled(x, np.nan), workspace)
    dx, grads = layer.backward(tiled(dy, np.nan), cache, workspace)
    for tiles, plain in ((y, wanted_y), (dx, wanted_dx)):
        assert np.array_equal(np.moveaxis(tiles.data, -1, 1).reshape(-1, *plain.shape[1:])[:19], plain)
    assert all(np.array_equal(grads[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("format", FORMATS)
def test_borders_stay_zero_and_steps_allocate_nothing_new(format):
    layer = conv(full(3, 2, (3, 3)), (2, 5, 6), 3, 1, 2, relu=True, format=format)
    workspace, results = Workspace(), []
    for seed in (1, 2, 1):
        x = tiled(numbers((20, 2, 5, 6), seed), 0.0)
        y, cache = layer.forward(x, workspace)
        dx, grads = layer.backward(tiled(numbers((20, *layer.out_shape), seed), 0.0), cache, workspace)
        results.append([array.copy() for array in (y.data, dx.data, *grads.values())])
        kept = workspace.child(layer).array("padded x", cache[1].shape, np.float64)
        assert kept is cache[1] and workspace.nbytes == sum(a.nbytes for a in workspace.child(layer)._arrays.values())
        kept = kept.copy()
        layer.plan.x_border.interior(kept)[...] = 0
        assert not kept.any()
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_without_dx_nothing_is_read_beyond_dy():
    layer = conv(full(3, 2, (3, 3)), (2, 5, 6), 3)
    workspace = Workspace()
    y, cache = layer.forward(numbers((20, 2, 5, 6)), workspace)
    dx, grads = layer.backward(numbers(y.shape), cache, workspace, need_dx=False)
    _, wanted = layer.backward(numbers(y.shape), cache)
    assert dx is None and all(np.array_equal(grads[name], wanted[name]) for name in wanted)
    assert not {"padded dy", "dx"} & workspace.child(layer)._arrays.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_of_convolutions_learns_what_the_definition_says(format):
    """ReLU masks pass from layer to layer; the gradient of every parameter is a derivative."""
    rng = np.random.default_rng(0)
    network = Network(
        [
            conv(uniform_random(6, 2 * 9, 0.3, rng), (2, 8, 9), 3, 1, 1, relu=True, format=format),
            conv(uniform_random(5, 6 * 6, 0.5, rng), (6, 8, 9), (2, 3), (2, 1), relu=True, format=format, seed=5),
            SparseLinear(dense(4, 5 * 4 * 7), rng=rng, dtype=np.float64),
        ]
    )
    gradcheck(network, numbers((18, 2, 8, 9), 7), labels=rng.integers(0, 4, 18), samples=60)


# ------------------------------------------------------------------------------------------------ cost


class Counting(Launcher):
    """Kernels that run, and count multiply-adds by the layouts and grids they are given."""

    def __init__(self) -> None:
        super().__init__(POOLS[0])
        self.multiplies: dict[str, list[int]] = {"spmm": [], "sddmm": []}

    def spmm(self, layout: Any, grid: Any, data: Any, *others: Any, **options: Any) -> None:
        per_position = [len(data)] * grid.ys
        if grid.bands is not None:
            sizes = np.diff(layout.starts)
            per_position = [int(((layout.cuts[e] - layout.cuts[a]) * sizes).sum()) for a, e in grid.bands]
        self.multiplies["spmm"].append(grid.outer * grid.lines * sum(per_position) * LANES)
        super().spmm(layout, grid, data, *others, **options)

    def sddmm(self, layout: Any, grid: Any, dy: Any, x: Any, grad: Any, db: Any = None, **how: Any) -> None:
        self.multiplies["sddmm"].append(grid.outer * grid.ys * grid.lines * len(grad) * LANES)
        super().sddmm(layout, grid, dy, x, grad, db, **how)


def cost(layer: SparseConv2d, batch: int) -> tuple[int, int, int, int]:
    """Multiply-adds of forward, dW and dX, and bytes of everything that is as long as the pattern."""
    kernels = Counting()
    workspace = Workspace(cpu(), kernels)
    y, cache = layer.forward(numbers((batch, *layer.in_shape)), workspace)
    layer.backward(y, cache, workspace)
    arrays = [layer.pattern.indices, layer.plan.forward.offsets, *layer.params.values()]
    arrays += [array for phase in layer.plan.phases for array in (phase.layout.offsets, phase.perm)]
    arrays += [array for name, array in workspace.child(layer)._arrays.items() if name.startswith("weight")]
    forward, *backward = kernels.multiplies["spmm"]
    (dw,) = kernels.multiplies["sddmm"]
    return forward, dw, sum(backward), sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 1)])
def test_arithmetic_and_bytes_are_connections_times_positions(stride, padding):
    """Nothing grows with the dense size: forward and dW do one multiply-add a connection and position, dX hardly more."""  # noqa: E501
    batch, kernel = 32, 3
    for sparsity, kind in itertools.product((0.0, 0.5, 0.9, 0.99), ("weight", "channel")):
        rng = np.random.default_rng(0)
        pattern = uniform_random(40, 30 * 9, sparsity, rng)
        if kind == "channel":
            channels = uniform_random(40, 30, sparsity, rng)
            pattern = pattern_of(np.repeat(channels.to_scipy().toarray(), 9, axis=1))
        layer = conv(pattern, (30, 20, 20), kernel, stride, padding, dtype=np.float32)
        positions = layer.out_shape[1] * layer.out_shape[2]
        forward, dw, dx, size = cost(layer, batch)
        assert forward == dw == pattern.nnz * positions * batch
        # A border of two columns on either side is read too; rows beyond the edge are not.
        assert dx <= forward * (1 + 2 * kernel / layer.out_shape[2])
        assert size <= pattern.nnz * 40 + 40 * 4


# ------------------------------------------------------------------------------------------------ doors


def test_layers_survive_copies_pickles_configurations_and_pruning():
    layer = conv(uniform_random(6, 2 * 6, 0.5, np.random.default_rng(0)), (2, 8, 7), (2, 3), (1, 2), (1, 0), (2, 1), relu=True)  # noqa: E501
    x = numbers((5, 2, 8, 7))
    wanted, _ = layer.forward(x)
    again = SparseConv2d.from_config(layer.config(), layer.pattern, layer.params)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), again):
        assert np.array_equal(twin.forward(x)[0], wanted) and twin.config() == layer.config()
    keep = np.arange(layer.pattern.nnz) % 3 > 0
    weight = np.where(keep, layer.weight, 0)
    again.prune(keep)
    layer.weight[...] = weight
    assert again.pattern.nnz == keep.sum() and np.allclose(again.forward(x)[0], layer.forward(x)[0])


def test_initial_values_go_by_the_connections_of_a_filter():
    pattern = uniform_random(400, 9 * 25, 0.9, np.random.default_rng(0))
    layer = SparseConv2d(pattern, (9, 8, 8), 5, rng=np.random.default_rng(1))
    assert np.std(layer.weight * np.sqrt(np.repeat(pattern.fan_in, pattern.fan_in) / 2)) == pytest.approx(1, abs=0.03)
    assert not layer.bias.any()


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda p: SparseConv2d(np.ones((3, 18)), (2, 5, 5), 3), TypeError, "pattern must be a SparsityPattern, got ndarray"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 5, 5), 2), ValueError, "pattern must have 2·2·2 = 8 columns for 2 channels and filters of 2×2, got 18"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 5), 3), ValueError, "in_shape must hold 3 integers of at least 1, got (2, 5)"),
        (lambda p: SparseConv2d(p, 5, 3), TypeError, "in_shape must hold 3 integers, got 5"),
        (lambda p: SparseConv2d(p, (2, 5, 5), 3.0), TypeError, "kernel_size must hold 2 integers, got 3.0"),
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, 0), ValueError, "stride must hold 2 integers of at least 1, got (0, 0)"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, 1, -1), ValueError, "padding must hold 2 integers of at least 0, got (-1, -1)"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, 1, 0, 3), ValueError, "filters of 3×3, dilation (3, 3), do not fit images of 5×5 with padding (0, 0)"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, weight=np.ones(3)), ValueError, "SparseConv2d(2×5×5→3×3×3, 3×3): weight must have shape (54,), got (3,)"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, bias=np.ones(4)), ValueError, "bias must have shape (3,), got (4,)"),
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, format="csc"), ValueError, "format must be 'csr' or 'coo', got 'csc'"),
        (lambda p: SparseConv2d(p, (2, 5, 5), 3, dtype=np.float16), TypeError, "dtype must be float32 or float64, got float16"),  # noqa: E501
        (lambda p: SparseConv2d(p, (2, 2**15, 2**15), 3), ValueError, "an image may have at most 2,147,483,647 pixels, border included, got 3,221,618,700"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_wrong_layer_is_named(make, kind, message):
    with pytest.raises(kind) as caught:
        make(full(3, 2, (3, 3)))
    assert message in str(caught.value)


def test_wrong_inputs_are_named():
    layer = conv(full(3, 2, (3, 3)), (2, 5, 6), 3)
    workspace = Workspace()
    for call, message in (
        (lambda: layer.forward(np.ones((4, 2, 6, 5))), "x must have shape (batch, 2, 5, 6), got (4, 2, 6, 5)"),
        (lambda: layer.forward(tiled(np.ones((4, 2, 5, 5)), 0.0)), "x must have 60 features of float64, got 50 of float64"),  # noqa: E501
        (lambda: layer.backward(np.ones((4, 3, 3, 3)), layer.forward(np.ones((4, 2, 5, 6)))[1]), "dy must have shape (batch, 3, 3, 4)"),  # noqa: E501
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            call()
        assert message in str(caught.value)
    same = conv(full(2, 2, (1, 1)), (2, 4, 4), 1)
    y, _ = same.forward(tiled(np.ones((4, 2, 4, 4)), 0.0), workspace)
    with pytest.raises(ValueError, match="last output in the same workspace"):
        same.forward(y, workspace)


def test_flat_arrays_are_images_too():
    layer = conv(full(3, 2, (3, 3)), (2, 5, 6), 3)
    x = numbers((4, 2, 5, 6))
    assert np.array_equal(layer.forward(x.reshape(4, 60))[0], layer.forward(x)[0])
    assert layer.forward(x[:0])[0].shape == (0, 3, 3, 4)
