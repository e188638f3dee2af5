"""Activations in bfloat16 on a GPU: every kernel against the oracle on the widened numbers, and networks of them."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest
from sparsecore.kernels import reference
from sparsecore.kernels.layout import LANES, PAIRS, Window

from sparsecore.layers.sequential import Sequential
from sparsecore.network import Network
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import CUDA, cpu
from sparsecore.runtime.tiles import Tiles, tiles_of
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .. import test_norm as norm
from ..small import numbers
from ..test_halves import close, in_pairs, layers, passes, rounded, rows_of
from .emulator import stand_in
from .machines import OnDevice, machine
from .test_engine import convolutional, losses
from .test_tree import batches, on_host

SAMPLES = 2 * LANES


def words(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Lines of numbers, of which some are zero, infinite, denormal or none, two to a word."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * shape[0], *shape[1:], LANES), np.float32)
    flat = x.reshape(-1)
    special = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-39, -1e-39]
    flat[rng.integers(0, flat.size, len(special))] = special
    return narrowed(x)


def narrowed(lines: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = np.zeros((-(-len(lines) // 2), *lines.shape[1:]), PAIRS)
    reference.narrow(lines, out)
    return out


def widened(pairs: np.ndarray[Any, Any], tiles: int | None = None) -> np.ndarray[Any, Any]:
    out = np.zeros((2 * len(pairs) if tiles is None else tiles, *pairs.shape[1:]), np.float32)
    reference.widen(pairs, out)
    return out


def bits(pairs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of the numbers, with all that are none alike: which NaN a sum gives is the hardware's."""
    wide = widened(pairs)
    return np.where(np.isnan(wide), np.float32(np.nan), wide).view(np.uint32)


def against_the_oracle(
    cuda: CUDA, name: str, *arguments: Any, tiles: int | None = None, exact: bool = False, **named: Any
) -> None:
    """Call a kernel on words, and the oracle's function on as many tiles of the numbers in them: all must come out the
    same, in the last bit if `exact`, and otherwise but for rounding."""

    def wide(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype == PAIRS:
            return widened(value, tiles)
        if value.dtype == np.uint16:  # a byte for each number
            return np.stack([value & 0xFF, value >> 8], 1).reshape(-1, *value.shape[1:]).astype(np.uint8)[:tiles]
        return value.copy()

    ours = [value.copy() if isinstance(value, np.ndarray) else value for value in arguments]
    oracles = [wide(value) for value in arguments]
    getattr(OnDevice(cuda), name)(*ours, **named)
    with np.errstate(all="ignore"):
        getattr(reference, name)(*oracles, **{key: wide(value) for key, value in named.items()})
    for k, (got, right) in enumerate(zip(ours, oracles, strict=True)):
        if not isinstance(got, np.ndarray):
            continue
        what = f"{name}, argument {k}"
        if got.dtype == PAIRS and exact:
            np.testing.assert_array_equal(bits(got), bits(narrowed(right)), err_msg=what)
        elif got.dtype == PAIRS:
            found, none = widened(got, tiles), np.isnan(right)
            assert np.array_equal(np.isnan(found), none) and close(found[~none], right[~none], 8), what
            assert tiles is None or not (got[-1] >> 16).any() or tiles % 2 == 0, what
        elif got.dtype == np.uint16:
            np.testing.assert_array_equal(wide(got), right, err_msg=what)
        else:
            np.testing.assert_allclose(got, right, rtol=1e-6 if got.dtype == np.float32 else 1e-9, err_msg=what)


# ------------------------------------------------------------------------------------------ every kernel


@pytest.mark.parametrize("tiles, features", [(1, 1), (2, 9), (3, 130)])
def test_rounding_is_the_references_bit_for_bit(cuda: CUDA, tiles: int, features: int) -> None:
    rng = np.random.default_rng(tiles)
    given = rng.integers(0, 2**32, (tiles, features, LANES), dtype=np.uint32)
    edges = [0, 0x80000000, 1, 0x007FFFFF, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0xFFFFFFFF]
    given.reshape(-1)[: len(edges)] = edges
    given[:, -1, -1] = [0x3F80_7FFF, 0x3F80_8001, 0x7FC0_0001][:tiles]
    lines = given.view(np.float32)
    found = np.ones((-(-tiles // 2), features, LANES), PAIRS)
    OnDevice(cuda).narrow(lines, found)
    np.testing.assert_array_equal(found, narrowed(lines))
    wide = np.ones_like(lines)
    OnDevice(cuda).widen(found, wide)
    np.testing.assert_array_equal(wide.view(np.uint32), widened(found, tiles).view(np.uint32))


@pytest.mark.parametrize("batch", [1, 17, 40, 300])
@pytest.mark.parametrize("alike", [1, 2, 3, 4])
def test_products_are_those_of_the_rounded_numbers(cuda: CUDA, batch: int, alike: int) -> None:
    """Of rows in groups of up to four with the same columns."""
    rows, columns, rng = 12, 70, np.random.default_rng(batch)
    some = rng.random((rows // alike, columns)) < 0.1 + 0.2 * alike
    pattern, _ = SparsityPattern.from_dense(np.repeat(some, alike, 0).astype(float))
    plan, kernels, tiles = Plan(pattern), OnDevice(cuda), tiles_of(batch, PAIRS)
    assert plan.forward.most_group == alike
    weight, bias = (rng.standard_normal(size).astype(np.float32) for size in (pattern.nnz, rows))
    x, dy = rounded(rng.standard_normal((batch, columns))), rounded(rng.standard_normal((batch, rows)))
    full = pattern.to_scipy(weight).toarray().astype(np.float64)
    y, dx = np.empty((tiles, rows, LANES), PAIRS), np.empty((tiles, columns, LANES), PAIRS)
    weight_t, given, slopes = weight[plan.perm.ravel()], in_pairs(x), in_pairs(dy)
    kernels.spmm(plan.forward, plan.grid(tiles), weight, given, bias, y, relu=True)
    kernels.spmm(plan.transposed, plan.grid_t(tiles), weight_t, slopes, None, dx, mask=given)
    assert close(rows_of(y, batch), np.maximum(x @ full.T + bias, 0), np.abs(x) @ np.abs(full.T) + 3)
    assert close(rows_of(dx, batch), np.where(x > 0, dy @ full, 0), np.abs(dy) @ np.abs(full))
    before = rows_of(y, batch)
    kernels.spmm(plan.forward, plan.grid(tiles), weight, given, None, y, more=True)
    assert close(rows_of(y, batch), before + x @ full.T, np.abs(before) + np.abs(x) @ np.abs(full.T))
    grad, db = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
    where = np.repeat(np.arange(rows), np.diff(pattern.indptr)), pattern.indices
    for times in (1, 2):  # sums are float32's, and not rounded to bfloat16
        kernels.sddmm(plan.forward, plan.grid(tiles), slopes, given, grad, db, more=times == 2)
        exact = times * (dy.T.astype(np.float64) @ x)[where]
        assert np.allclose(grad, exact, rtol=1e-5, atol=1e-5 * batch**0.5)
        assert np.allclose(db, times * dy.sum(0, dtype=np.float64), rtol=1e-5, atol=1e-5 * batch**0.5)


def test_sums_of_slices_are_not_rounded(cuda: CUDA) -> None:
    """Few connections over many positions: slices of the positions are summed apart, and joined in float32."""
    rng = np.random.default_rng(0)
    plan, batch = Plan(dense(2, 3)), 3000
    tiles, launch = tiles_of(batch, PAIRS), importlib.import_module("sparsecore.kernels.cuda.launch")
    assert launch._slices(2, tiles)[0] > 1
    x, dy = rounded(rng.uniform(1, 2, (batch, 3))), rounded(rng.uniform(1, 2, (batch, 2)))
    grad, db = np.empty(6, np.float32), np.empty(2, np.float32)
    OnDevice(cuda).sddmm(plan.forward, plan.grid(tiles), in_pairs(dy), in_pairs(x), grad, db)
    np.testing.assert_allclose(grad, (dy.T.astype(np.float64) @ x).ravel(), rtol=1e-5)
    np.testing.assert_allclose(db, dy.sum(0, dtype=np.float64), rtol=1e-5)


def test_elementwise(cuda: CUDA) -> None:
    x, dy, y = (words(3, 5, 2, 7, seed=seed) for seed in range(3))
    nothing = words(3, 5, 2, 7, seed=3)
    against_the_oracle(cuda, "relu", x, nothing, exact=True)
    against_the_oracle(cuda, "mask", dy, y, nothing, exact=True)
    against_the_oracle(cuda, "place", x, nothing, exact=True)
    against_the_oracle(cuda, "place", x, nothing, y, exact=True)
    for options in ({}, {"relu": True}, {"mask": dy}):
        against_the_oracle(cuda, "add", x, y, nothing, exact=True, **options)


def test_views_are_written_within_and_nothing_around_them(cuda: CUDA) -> None:
    """Images in a border, of every second pixel."""
    whole, images = words(2, 4, 7, 8), words(2, 3, 3, 3, seed=1)
    at = (slice(None), slice(1, 4), slice(1, 7, 2), slice(2, 8, 2))
    for name, given in {"place": (images,), "add": (images, images)}.items():
        out, right = cuda.put(whole), widened(whole)
        getattr(cuda.launcher(), name)(*map(cuda.put, given), out[at])
        getattr(reference, name)(*map(widened, given), right[at])
        np.testing.assert_array_equal(bits(cuda.get(out)), bits(narrowed(right)))


@pytest.mark.parametrize("batch", [1, 16, 20, 32, 47, 48, 60])
def test_lanes_past_the_batch_are_cleared(cuda: CUDA, batch: int) -> None:
    x = words(tiles_of(batch, PAIRS), 3, 5)
    against_the_oracle(cuda, "clear_lanes", x, batch, tiles=tiles_of(batch), exact=True)
    ours, tiles = cuda.put(x), Tiles(cuda.put(x), batch)
    cuda.launcher().clear_lanes(ours, batch)
    tiles.clear_padding()
    np.testing.assert_array_equal(cuda.get(tiles.data), cuda.get(ours))


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("batch, features", [(1, 1), (32, 64), (37, 70), (60, 65)])
def test_packing(cuda: CUDA, stored: Any, batch: int, features: int) -> None:
    rng = np.random.default_rng(batch)
    lines, tiles = tiles_of(batch) * LANES, tiles_of(batch)
    store = (rng.random((70, features)) * 255).astype(stored)
    scale, shift = rng.standard_normal((2, features)).astype(np.float32)
    labels, out_labels = rng.integers(0, 10, 70).astype(np.int32), np.full(lines, 77, np.int32)
    out = words(tiles_of(batch, PAIRS), features)
    against_the_oracle(
        cuda, "pack_samples", store, labels, rng.permutation(70), np.array([9]), scale / 255, shift, out, out_labels,
        batch, np.zeros(lines, np.int64), tiles=tiles,
    )  # fmt: skip
    x = rng.standard_normal((batch, features)).astype(np.float32)
    against_the_oracle(cuda, "pack", x, out, tiles=tiles, exact=True)
    against_the_oracle(cuda, "unpack", narrowed(widened(out, tiles)), x, tiles=tiles, exact=True)


@pytest.mark.parametrize("window", [Window(2, 2, 2, 2), Window(3, 2, 3, 4), Window(2, 3, 1, 1), Window(7, 6, 1, 1)])
def test_pooling(cuda: CUDA, window: Window) -> None:
    rng = np.random.default_rng(0)
    lines = rng.integers(-3, 3, (4, 3, 7, 6, LANES)).astype(np.float32)  # many are equal
    lines[:, 1, 2:4, 3, 5] = np.nan
    high, wide = (7 - window.high) // window.row_step + 1, (6 - window.wide) // window.column_step + 1
    x, y, dy = narrowed(lines), words(2, 3, high, wide), narrowed(numbers((4, 3, high, wide, LANES), dtype=np.float32))
    index = np.full((2, 3, high, wide, LANES), 0x4D4D, np.uint16)
    against_the_oracle(cuda, "max_pool", x, window, y, index, exact=True)
    against_the_oracle(cuda, "mean_pool", x, window, y)
    OnDevice(cuda).max_pool(x, window, y, index)
    against_the_oracle(cuda, "max_unpool", dy, index, window, words(2, 3, 7, 6))
    against_the_oracle(cuda, "mean_unpool", dy, window, words(2, 3, 7, 6))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.99])
def test_dropout(cuda: CUDA, rate: float) -> None:
    """The same numbers are dropped as of float32."""
    x = narrowed(numbers((6, 5, 2, LANES), dtype=np.float32))
    against_the_oracle(cuda, "dropout", x, np.array([1 << 40, 3, 1 << 62]), 4, rate, words(3, 5, 2))


@pytest.mark.parametrize("batch, segments", [(2, 1), (20, 1), (40, 2), (128, 4), (130, 2), (130, 3)])
def test_batch_normalisation(cuda: CUDA, batch: int, segments: int) -> None:
    """Each kernel of it, there and back; what is found is compared at its end, since tiles are cut otherwise."""
    rng, (tiles, lines) = np.random.default_rng(batch), (tiles_of(batch, PAIRS), tiles_of(batch))
    shape = lines, 3, 4, 2, LANES
    x, dy, around = (narrowed((3 * rng.standard_normal(shape) + 5).astype(np.float32)) for _ in range(3))
    samples = np.moveaxis(widened(x, lines).astype(np.float64), -1, 1).reshape(-1, *shape[1:4])[:batch]
    slopes = np.moveaxis(widened(dy, lines).astype(np.float64), -1, 1).reshape(-1, *shape[1:4])[:batch]
    mean, var, partial = np.zeros(3, np.float32), np.ones(3, np.float32), np.empty((3, segments, 2))
    found, totals, kernels = np.empty((3, 2)), np.empty((3, 2)), OnDevice(cuda)
    kernels.moments(x, batch, partial)
    against_the_oracle(cuda, "settle", partial, 8, batch, 1e-5, 0.1, mean, var, found, samples=SAMPLES)
    kernels.settle(partial, 8, batch, 1e-5, 0.1, mean, var, found, samples=SAMPLES)
    middle, variance = samples.mean((0, 2, 3)), samples.var((0, 2, 3))
    np.testing.assert_allclose(found, np.stack([middle, 1 / np.sqrt(variance + 1e-5)], 1), rtol=1e-9)
    np.testing.assert_allclose(var, 0.9 + 0.1 * variance * batch * 8 / (batch * 8 - 1), rtol=1e-6)
    scale, shift = rng.standard_normal((2, 3)).astype(np.float32)
    for more in ({}, {"around": around}, {"relu": True}):
        against_the_oracle(cuda, "normalise", x, found, scale, shift, words(tiles, 3, 4, 2), batch, tiles=lines, **more)
    kernels.slopes(dy, x, found, scale, shift, batch, partial, relu=False)
    dscale, dshift = np.empty((2, 3), np.float32)
    kernels.settle_slopes(partial, found, totals, dscale, dshift)
    np.testing.assert_allclose(totals[:, 0], slopes.sum((0, 2, 3)), rtol=1e-9)
    apart = (slopes * (samples - middle[:, None, None])).sum((0, 2, 3))
    np.testing.assert_allclose(totals[:, 1], apart, rtol=1e-9, atol=1e-9)
    for training, relu in itertools.product((True, False), repeat=2):
        against_the_oracle(
            cuda, "normalise_back", dy, x, found, scale, shift, totals, words(tiles, 3, 4, 2), batch, tiles=lines,
            training=training, relu=relu,
        )  # fmt: skip
    y, masked, sums = words(tiles, 3, 4, 2), words(tiles, 3, 4, 2), np.empty_like(partial)
    kernels.normalise(x, found, scale, shift, y, batch, relu=True)
    kernels.mask(dy, y, masked)
    kernels.slopes(dy, x, found, scale, shift, batch, partial, relu=True)
    kernels.slopes(masked, x, found, scale, shift, batch, sums, relu=False)
    assert np.array_equal(partial, sums)


def test_no_race_and_no_access_out_of_bounds(checked_cuda: CUDA) -> None:
    """Every kernel with every access checked."""
    test_rounding_is_the_references_bit_for_bit(checked_cuda, 3, 130)
    for alike in (1, 2, 3, 4):
        test_products_are_those_of_the_rounded_numbers(checked_cuda, 40, alike)
    test_sums_of_slices_are_not_rounded(checked_cuda)
    test_elementwise(checked_cuda)
    test_views_are_written_within_and_nothing_around_them(checked_cuda)
    test_lanes_past_the_batch_are_cleared(checked_cuda, 47)
    test_packing(checked_cuda, np.uint8, 37, 70)
    test_pooling(checked_cuda, Window(2, 2, 2, 2))
    test_dropout(checked_cuda, 0.3)
    test_batch_normalisation(checked_cuda, 130, 3)


def test_a_connection_reads_half_the_bytes() -> None:
    pattern, batch = uniform_random(60, 200, 0.9, np.random.default_rng(0)), 128
    plan, found = Plan(pattern), {}
    with machine("forward", checking=True) as device:
        data = device.put(np.ones(pattern.nnz, np.float32))
        for dtype in (PAIRS, np.dtype(np.float32)):
            tiles = tiles_of(batch, dtype)
            x, out = (device.zeros((tiles, size, LANES), dtype) for size in (200, 60))
            with stand_in.sectors() as counted:
                device.launcher().spmm(plan.forward, plan.grid(tiles), data, x, None, out)
            found[dtype.itemsize, tiles] = counted
    (read, written), (read_32, written_32) = found.values()
    least = pattern.nnz * batch * 2
    assert written * 2 == written_32 and least < 32 * read < 1.3 * least and read < 0.55 * read_32


# ------------------------------------------------------------------------------------------ layers and networks


def passes_on(device: Device, layer: Any, x: Any, dy: Any, batch: int) -> list[Any]:
    """y, dx and all gradients on a device, of tiles of bfloat16."""
    layer.to(device)
    workspace, wrapped = Workspace(device, training=True), Sequential([layer])

    def made(rows: Any, shape: tuple[int, ...]) -> Tiles:
        data = in_pairs(rows)
        return Tiles(device.put(data.reshape(len(data), *shape, LANES)), batch)

    def read(tiles: Any) -> Any:
        data = device.get(tiles.data)
        return rows_of(data.reshape(len(data), -1, LANES), batch)

    y, cache = wrapped.forward_tiles(made(x, layer.in_shape), workspace)
    assert y.data.dtype == PAIRS
    first = read(y)
    dx, grads = wrapped.backward_tiles(made(dy, layer.out_shape), cache, workspace)
    return [first, read(dx), *(device.get(grads[name]) for name in sorted(grads))]


@pytest.mark.parametrize("name", list(layers()))
@pytest.mark.parametrize("batch", [20, 70])
def test_every_layer_gives_what_it_gives_in_float32(a_cuda: CUDA, name: str, batch: int) -> None:
    rng = np.random.default_rng(batch)
    features, outputs = (int(np.prod(getattr(layers()[name], end))) for end in ("in_shape", "out_shape"))
    x, dy = rounded(rng.standard_normal((batch, features))), rounded(rng.standard_normal((batch, outputs)))
    found = passes_on(a_cuda, layers()[name], x, dy, batch)
    right = passes(layers()[name], x, dy, batch, halves=False)
    allowed = 0.12 if name in ("block", "identity") else 0.01
    for mine, exact in zip(found, right, strict=True):
        scale = max(np.linalg.norm(exact), 0.05 * np.linalg.norm(dy))
        assert np.linalg.norm(mine - exact) <= allowed * scale, name


def small_lenet_5() -> Network:
    return convolutional(16, (4, 6), 20, 0.6)


def test_a_convolutional_network_has_the_losses_of_the_cpu(a_cuda: CUDA) -> None:
    """A tenth as far from those in bfloat16 as these are from float32's, at most."""
    right, exact = (losses(small_lenet_5().to(activations=kind), cpu(), 40, 8) for kind in ("bfloat16", "float32"))
    mine = losses(small_lenet_5().to(activations="bfloat16"), a_cuda, 40, 8)
    assert np.linalg.norm(mine - right) <= 0.1 * np.linalg.norm(right - exact) and mine[-1] < mine[0]


def trained(device: Device, *, kind: str = "bfloat16") -> list[Any]:
    """Residual blocks with batch normalisation, trained for a few batches; the last of one image."""
    network, optimizer = norm.residual_network(np.float32).to(device, activations=kind), SGD(0.05, 0.9, 1e-3)
    step = Step(network, batches(device, shape=(1, 6, 5)), optimizer)
    for start, batch in ((0, 33), (33, 33), (5, 33), (69, 1), (37, 33)):
        step.run(start, batch)
    x = numbers((19, 1, 6, 5), dtype=np.float32)
    rows = np.array(device.get(network.table.values))
    return [rows, *on_host(network, optimizer), step.totals().mean_loss, network.logits(x)]


def test_a_network_with_batch_normalisation_trains_as_on_the_cpu(a_cuda: CUDA) -> None:
    """A tenth as far from the CPU's bfloat16 as that is from float32, at most."""
    found, right, exact = trained(a_cuda), trained(cpu()), trained(cpu(), kind="float32")
    for mine, theirs, other in zip(found, right, exact, strict=True):
        assert np.linalg.norm(mine - theirs) <= 0.1 * np.linalg.norm(theirs - other)


def test_the_same_bits_in_every_order_of_the_threads() -> None:
    results = []
    for order in ("forward", "random", "random"):
        with machine(order) as device:
            results.append([np.asarray(each).tobytes() for each in trained(device)])
    assert results[0] == results[1] == results[2]
