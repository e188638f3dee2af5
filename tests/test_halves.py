"""Activations in bfloat16: the same arithmetic in float32 on rounded numbers, two to a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference
from sparsecore.kernels.compile import register_bytes as host_register_bytes
from sparsecore.kernels.cpu.launch import Launcher
from sparsecore.kernels.cpu.threads import Pool
from sparsecore.kernels.layout import LANES, PAIRS

from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.dropout import Dropout
from sparsecore.layers.flatten import Flatten
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.norm import BatchNorm
from sparsecore.layers.pooling import AvgPool2d, GlobalAvgPool, MaxPool2d
from sparsecore.layers.relu import ReLU
from sparsecore.layers.residual import Residual
from sparsecore.layers.sequential import Sequential
from sparsecore.layers.shortcut import PadChannels
from sparsecore.network import Network
from sparsecore.runtime.tiles import Tiles, tiled, tiles_of
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.plan import Plan
from sparsecore.topology import dense, uniform_random

from .kernel_checks import WIDTHS

ALONE = Pool(1)
HOST = host_register_bytes()


def rounded(x: Any) -> np.ndarray[Any, Any]:
    """Numbers as bfloat16 holds them, in float32."""
    x = np.asarray(x, np.float32).copy()
    words = np.zeros((1, *x.reshape(1, -1).shape[1:], LANES), PAIRS)
    lines = np.zeros((1, x.size, LANES), np.float32)
    lines[0, :, 0] = x.ravel()
    reference.narrow(lines, words)
    reference.widen(words, lines)
    return lines[0, :, 0].reshape(x.shape)


def in_pairs(rows: Any) -> np.ndarray[Any, Any]:
    """Rows (batch, features) as tiles of bfloat16."""
    lines = tiled(np.asarray(rows, np.float32), np.float32)
    words = np.zeros((tiles_of(len(rows), PAIRS), *lines.shape[1:]), PAIRS)
    reference.narrow(lines, words)
    return words


def rows_of(words: Any, batch: int) -> np.ndarray[Any, Any]:
    """The other way, in float32."""
    lines = np.zeros((2 * len(words), *words.shape[1:]), np.float32)
    reference.widen(words, lines)
    return np.moveaxis(lines, -1, 1).reshape(len(lines) * LANES, -1)[:batch]


def close(found: Any, right: Any, terms: Any = 0.0) -> bool:
    """Within bfloat16's rounding of the right numbers, and float32's of what was summed up."""
    return bool(np.all(np.abs(found - right) <= 2.0**-8 * np.abs(right) + 2.0**-20 * terms + 1e-37))


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    found = rounded([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, -0.0, 1e-40, np.inf, -np.inf])
    right = [1, 1 + 2**-6, 1 + 2**-7, np.inf, -0.0, 2.0**-133, np.inf, -np.inf]
    assert found.tolist() == right and np.signbit(found[4]) and np.isnan(rounded([np.nan])[0])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_compiled_rounding_is_the_references_bit_for_bit(bits: list[int]) -> None:
    lines = np.zeros((3, len(bits), LANES), np.float32)
    lines.view(np.uint32)[:] = np.array(bits, np.uint32)[None, :, None] + np.arange(LANES, dtype=np.uint32)
    found, right = (np.ones((2, len(bits), LANES), PAIRS) for _ in range(2))
    Launcher(ALONE).narrow(lines, found)
    reference.narrow(lines, right)
    assert np.array_equal(found, right) and not (found[1] >> 16).any()
    wide, exact = np.empty_like(lines), np.empty_like(lines)
    Launcher(ALONE).widen(found, wide)
    reference.widen(right, exact)
    assert np.array_equal(wide.view(np.uint32), exact.view(np.uint32))


@pytest.mark.parametrize("format", ["csr", "coo"])
@pytest.mark.parametrize(
    "register_bytes", [pytest.param(width, marks=() if width == HOST else pytest.mark.slow) for width in WIDTHS]
)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_products_are_those_of_the_rounded_numbers(register_bytes: int, format: str, data: st.DataObject) -> None:
    rows, columns = (data.draw(st.integers(1, 40)) for _ in range(2))
    batch = data.draw(st.sampled_from([1, 16, 31, 32, 33, 100, 160]))
    sparsity = data.draw(st.sampled_from([0, 0.5, 0.9]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    pattern = uniform_random(rows, columns, sparsity, rng)
    plan, kernels = Plan(pattern, format), Launcher(ALONE, register_bytes=register_bytes)
    weight, bias = (rng.standard_normal(size).astype(np.float32) for size in (pattern.nnz, rows))
    x, dy = rounded(rng.standard_normal((batch, columns))), rounded(rng.standard_normal((batch, rows)))
    tiles = tiles_of(batch, PAIRS)
    full = pattern.to_scipy(weight).toarray().astype(np.float64)
    y, dx = np.empty((tiles, rows, LANES), PAIRS), np.empty((tiles, columns, LANES), PAIRS)
    mask = in_pairs(x)
    kernels.spmm(plan.forward, plan.grid(tiles), weight, in_pairs(x), bias, y, relu=True)
    kernels.spmm(plan.transposed, plan.grid_t(tiles), weight[plan.perm.ravel()], in_pairs(dy), None, dx, mask=mask)
    right = np.maximum(x @ full.T + bias, 0)
    assert close(rows_of(y, batch), right, np.abs(x) @ np.abs(full.T) + 1)
    assert close(rows_of(dx, batch), np.where(x > 0, dy @ full, 0), np.abs(dy) @ np.abs(full))
    grad, db = np.empty_like(weight), np.empty_like(bias)
    kernels.sddmm(plan.forward, plan.grid(tiles), in_pairs(dy), in_pairs(x), grad, db)
    where = np.repeat(np.arange(rows), np.diff(pattern.indptr)), pattern.indices
    # Sums are float32's, and not rounded to bfloat16.
    assert np.allclose(grad, (dy.T.astype(np.float64) @ x)[where], rtol=1e-5, atol=1e-5 * batch**0.5)
    assert np.allclose(db, dy.sum(0, dtype=np.float64), rtol=1e-5, atol=1e-5 * batch**0.5)


def test_a_wide_row_is_not_rounded_between_blocks_of_columns() -> None:
    """Column blocks leave sums in y, which is bfloat16 here: all of them are taken together."""
    rng = np.random.default_rng(0)
    pattern = uniform_random(8, 1000, 0.6, rng)
    plan = Plan(pattern)
    assert len(plan.forward.cuts) > 2
    weight = rng.uniform(0.001, 0.002, pattern.nnz).astype(np.float32)  # each too small to change a bfloat16 of 1
    weight[pattern.indptr[:-1]] = 1
    y = np.empty((1, 8, LANES), PAIRS)
    Launcher(ALONE).spmm(plan.forward, plan.grid(1), weight, in_pairs(np.ones((32, 1000))), None, y)
    assert close(rows_of(y, 32), np.add.reduceat(weight.astype(np.float64), pattern.indptr[:-1]))


def test_a_row_of_several_segments_is_not_rounded_between_them() -> None:
    """COO cuts long rows; what one segment leaves to the next waits in float32."""
    rng = np.random.default_rng(0)
    pattern = uniform_random(3, 4000, 0.5, rng)
    plan = Plan(pattern, "coo")
    assert plan.forward.carries > 6
    weight = rng.uniform(0.001, 0.002, pattern.nnz).astype(np.float32)
    weight[pattern.indptr[:-1]] = 1
    bias, y = np.array([0.5, 0, -9], np.float32), np.empty((2, 3, LANES), PAIRS)
    Launcher(ALONE).spmm(plan.forward, plan.grid(2), weight, in_pairs(np.ones((50, 4000))), bias, y, relu=True)
    right = np.maximum(np.add.reduceat(weight.astype(np.float64), pattern.indptr[:-1]) + bias, 0)
    assert close(rows_of(y, 50), right) and (rows_of(y, 50)[:, 2] == 0).all()


SHAPE = (3, 6, 6)


def layers() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def conv(out: int, channels: int, size: int = 6, **more: Any) -> SparseConv2d:
        pattern = uniform_random(out, channels * 9, 0.5, rng)
        return SparseConv2d(pattern, (channels, size, size), 3, padding=1, rng=rng, **more)

    main = Sequential([BatchNorm((4, 6, 6), relu=True), conv(4, 4, bias=False), BatchNorm((4, 6, 6))])
    block = Residual(main, relu=True)
    return {
        "linear": SparseLinear(uniform_random(20, 108, 0.8, rng), relu=True, rng=rng),
        "full": SparseLinear(dense(7, 108), rng=rng),
        "conv": conv(5, 3, relu=True),
        "strided": SparseConv2d(uniform_random(4, 27, 0.4, rng), SHAPE, 3, stride=2, padding=1, rng=rng),
        "coo": SparseLinear(uniform_random(20, 108, 0.8, rng), format="coo", rng=rng),
        "norm": BatchNorm(SHAPE, relu=True),
        "features": BatchNorm((108,)),
        "relu": ReLU(SHAPE),
        "largest": MaxPool2d(SHAPE, 2),
        "overlapping": MaxPool2d(SHAPE, 3, 1),
        "mean": AvgPool2d(SHAPE, 2),
        "global": GlobalAvgPool(SHAPE),
        "pad": PadChannels(SHAPE, 5, 2),
        "block": Sequential([conv(4, 3), block, GlobalAvgPool((4, 6, 6)), Flatten((4,))]),
        "identity": Residual(Sequential([conv(3, 3), BatchNorm(SHAPE)]), PadChannels(SHAPE, 3, 1), relu=True),
    }


def passes(layer: Any, x: Any, dy: Any, batch: int, *, halves: bool) -> list[Any]:
    """y, dx and all gradients, of tiles of one kind or the other."""
    workspace = Workspace(training=True)

    def made(rows: Any, shape: tuple[int, ...]) -> Tiles:
        data = in_pairs(rows) if halves else tiled(rows, np.float32)
        return Tiles(data.reshape(len(data), *shape, LANES), batch)

    def read(tiles: Any) -> Any:
        data = tiles.data.reshape(len(tiles.data), -1, LANES)
        return rows_of(data, batch) if halves else np.moveaxis(data, -1, 1).reshape(len(data) * LANES, -1)[:batch]

    wrapped = Sequential([layer])  # as in a network: what computes in float32 alone is given that
    y, cache = wrapped.forward_tiles(made(x, layer.in_shape), workspace)
    assert y.data.dtype == (PAIRS if halves else np.float32)
    first = read(y).copy()
    dx, grads = wrapped.backward_tiles(made(dy, layer.out_shape), cache, workspace)
    return [first, read(dx).copy(), *(np.array(grads[name]) for name in sorted(grads))]


@pytest.mark.parametrize("name", list(layers()))
@pytest.mark.parametrize("batch", [1, 20, 48, 70])
def test_every_layer_gives_what_it_gives_in_float32(name: str, batch: int) -> None:
    if batch == 1 and name in ("norm", "features", "block", "identity"):
        return  # one value a channel cannot be normalised
    rng = np.random.default_rng(batch)
    features, outputs = (int(np.prod(getattr(layers()[name], end))) for end in ("in_shape", "out_shape"))
    x, dy = rounded(rng.standard_normal((batch, features))), rounded(rng.standard_normal((batch, outputs)))
    found = passes(layers()[name], x, dy, batch, halves=True)
    right = passes(layers()[name], x, dy, batch, halves=False)
    # Where what a ReLU takes is as good as zero, the two may take different sides of it.
    allowed = 0.12 if name in ("block", "identity") else 0.01
    for mine, exact in zip(found, right, strict=True):
        # Of what cancels out in a sum, such as biases in front of a normalisation, what is left is rounding.
        scale = max(np.linalg.norm(exact), 0.05 * np.linalg.norm(dy))
        assert np.linalg.norm(mine - exact) <= allowed * scale, name


def network(seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    return Network([
        SparseConv2d(uniform_random(6, 27, 0.5, rng), SHAPE, 3, padding=1, relu=True, rng=rng),
        MaxPool2d((6, 6, 6), 2), Dropout((6, 3, 3), 0.2), Flatten((6, 3, 3)), BatchNorm((54,)),
        SparseLinear(uniform_random(30, 54, 0.7, rng), relu=True, rng=rng), SparseLinear(dense(10, 30), rng=rng),
    ])  # fmt: skip


def test_a_networks_logits_are_float32_and_not_rounded() -> None:
    mine, exact = network(), network()
    mine.to(activations="bfloat16")
    x = np.random.default_rng(1).standard_normal((50, 108)).astype(np.float32)
    found, right = mine.logits(x), exact.logits(x)
    assert found.dtype == np.float32 and np.abs(found - right).max() < 0.05 * np.abs(right).max()
    assert (rounded(found) != found).any()
    assert not np.array_equal(found, right)
    assert np.array_equal(mine.to(activations="float32").logits(x), right)


def test_what_cannot_be_stored_so_is_refused_and_nothing_changes() -> None:
    mine = network()
    with pytest.raises(ValueError, match="float16, whose smallest normal number is 6e-5"):
        mine.to(activations="float16")
    with pytest.raises(ValueError, match="must be float32 or bfloat16, got 'int8'"):
        mine.to(activations="int8")
    exact = Network([SparseLinear(dense(3, 4), dtype=np.float64)])
    with pytest.raises(ValueError, match="must be float64, got 'bfloat16'"):
        exact.to(activations="bfloat16")
    assert mine.activations == "float32" and exact.activations == "float64"


@pytest.mark.parametrize("batch", [1, 16, 17, 40])
@pytest.mark.parametrize("placed", [False, True])
def test_samples_of_bfloat16_become_words_and_words_samples(batch: int, placed: bool) -> None:
    rng = np.random.default_rng(batch)
    rows = rng.integers(0, 2**16, (batch, 37)).astype(np.uint16)
    places = rng.permutation(50)[:37].astype(np.int32) if placed else None
    found, right = (np.full((tiles_of(batch, PAIRS), 50 if placed else 37, LANES), 7, PAIRS) for _ in range(2))
    Launcher(ALONE).pack(rows, found, places)
    reference.pack(rows, right, places)
    assert np.array_equal(found, right)
    for unpack in (Launcher(ALONE).unpack, reference.unpack):
        back = np.zeros_like(rows)
        unpack(right, back, places)
        assert np.array_equal(back, rows)


def test_a_rank_without_samples_widens_and_narrows_nothing() -> None:
    words, lines = np.empty((0, 3, LANES), PAIRS), np.empty((0, 3, LANES), np.float32)
    Launcher(ALONE).widen(words, lines)
    Launcher(ALONE).narrow(lines, words)
