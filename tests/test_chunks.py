"""Ordinary arrays a few tiles at a time: the values and gradients of whole batches, wherever chunks and threads end."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import tuning

from sparsecore.interop.operator import SparseOperator
from sparsecore.layers import SparseConv2d, SparseLinear
from sparsecore.layers.replay import chunks
from sparsecore.runtime.devices import get_threads, set_threads
from sparsecore.runtime.tiles import LANES, Tiles, tiled
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random

from .small import numbers

TILES = 2
"""Of a chunk, where a test makes chunks small."""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two tiles, whatever the layer's size."""
    for module in ("plan", "conv_plan"):
        monkeypatch.setattr(f"sparsecore.storage.{module}.chunk_tiles", lambda *_: TILES)


def linear(rows: int = 37, columns: int = 53, **how: Any) -> SparseLinear:
    pattern = uniform_random(rows, columns, 0.8, np.random.default_rng(0))
    return SparseLinear(pattern, rng=np.random.default_rng(1), **how)


def conv(padding: int = 1, stride: int = 1, **how: Any) -> SparseConv2d:
    pattern = uniform_random(5, 3 * 9, 0.5, np.random.default_rng(0))
    return SparseConv2d(pattern, (3, 6, 7), 3, stride, padding, rng=np.random.default_rng(1), **how)


LAYERS: dict[str, Any] = {
    "linear": linear(), "relu": linear(relu=True), "no bias": linear(bias=False), "coo": linear(format="coo"),
    "wide": linear(dtype=np.float64, relu=True), "full": SparseLinear(dense(9, 31), rng=np.random.default_rng(1)),
    "conv": conv(), "conv relu": conv(relu=True, bias=False), "stride": conv(0, 2), "conv coo": conv(format="coo"),
}  # fmt: skip


def in_tiles(rows: Any, shape: Any) -> Tiles:
    return Tiles(tiled(rows.reshape(len(rows), -1), rows.dtype).reshape(-1, *shape, LANES), len(rows))


def whole(layer: Any, x: Any, dy: Any, workspace: Workspace | None = None) -> tuple[Any, Any, Any]:
    """y, dx and gradients by way of tiles of the whole batch."""

    def rows(found: Tiles, shape: Any) -> Any:
        return np.moveaxis(found.data, -1, 1).reshape(-1, *shape)[: len(x)].copy()

    workspace = Workspace() if workspace is None else workspace
    y, cache = layer.forward(in_tiles(x, layer.in_shape), workspace)
    y = rows(y, layer.out_shape)
    dx, grads = layer.backward(in_tiles(dy, layer.out_shape), cache, workspace)
    return y, rows(dx, layer.in_shape), grads


def arrays(layer: Any, batch: int, seed: int = 0) -> tuple[Any, Any]:
    shapes = (batch, *layer.in_shape), (batch, *layer.out_shape)
    x, dy = (numbers(shape, seed + k, layer.dtype) for k, shape in enumerate(shapes))
    return x, dy


def near(found: Any, wanted: Any, dtype: Any) -> None:
    tolerance = 1e-12 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", [33, 64, 99])
def test_a_layer_alone_gives_what_it_gives_of_the_whole_batch(name, batch):
    layer = LAYERS[name]
    x, dy = arrays(layer, batch)
    y, cache = layer.forward(x)
    assert (len(y.reshape(batch, -1)), type(cache).__name__) == (batch, "_Rows")  # it did go in chunks
    wanted = whole(layer, x, dy)
    np.testing.assert_array_equal(y, wanted[0])  # a sample is computed alone, whatever is beside it
    x[:] = np.nan  # its caller may write over it
    for need_dx in (True, False):
        dx, grads = layer.backward(dy, cache, need_dx=need_dx)
        if need_dx:
            np.testing.assert_array_equal(dx, wanted[1])
        else:
            assert dx is None
        assert set(grads) == set(layer.params)
        for each, gradient in grads.items():
            near(gradient, wanted[2][each], layer.dtype)


@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=20)
@given(rows=st.integers(1, 40), columns=st.integers(1, 70), batch=st.integers(0, 130), seed=st.integers(0, 99))
def test_any_shape(rows, columns, batch, seed):
    pattern = uniform_random(rows, columns, 0.7, np.random.default_rng(seed))
    layer = SparseLinear(pattern, rng=np.random.default_rng(seed), dtype=np.float64)
    x, dy = arrays(layer, batch, seed)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    w = pattern.to_scipy(layer.weight).toarray()
    near(y, x @ w.T + layer.bias, np.float64)
    near(dx, dy @ w, np.float64)
    near(grads["weight"], (dy.T @ x)[pattern.rows, pattern.indices], np.float64)
    near(grads["bias"], dy.sum(0), np.float64)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["relu", "conv relu"])
def test_threads_change_no_bit(name):
    """Layers so small that none of their calls would be cut: every call is here."""
    layer, before, found = LAYERS[name], get_threads(), []
    x, dy = arrays(layer, 99)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsecore.kernels.cpu.launch.WORTH_CUTTING", 1)
        twin = type(layer).from_config(layer.config(), layer.pattern, layer.params)  # recorded while calls are cut
        try:
            for threads in (1, 2, 3, 7):
                set_threads(threads)
                y, cache = twin.forward(x)
                dx, grads = twin.backward(dy, cache)
                found.append([y, dx, *(np.array(each) for each in grads.values())])
        finally:
            set_threads(before)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("tiles", [4, 12, 20])
def test_rows_alone_have_the_bits_of_the_whole_batch(tiles, monkeypatch):
    """Chunks end where sample would go on to its next panel anyway."""
    layer = linear(60, 400)  # so wide that a panel is four lines
    x, dy = arrays(layer, 16 * 21 + 3)
    monkeypatch.setattr("sparsecore.storage.plan.chunk_tiles", lambda *_: tiles)
    _, cache = layer.forward(x)
    _, grads = layer.backward(dy, cache)
    for name, gradient in whole(layer, x, dy)[2].items():
        np.testing.assert_array_equal(grads[name], gradient)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["linear", "relu", "conv", "conv relu"])
def test_gradients_of_absent_connections_are_those_of_the_arrays(name):
    layer, workspace = LAYERS[name], Workspace()
    x, dy = arrays(layer, 70)
    _, cache = layer.forward(x, workspace)
    _, grads = layer.backward(dy, cache, workspace)
    grad = np.array(grads["weight"])
    own = layer.gradient_at(layer.pattern, workspace.child(layer))
    np.testing.assert_array_equal(own, grad)
    every = dense(*layer.pattern.shape)
    found = layer.gradient_at(every, workspace.child(layer)).reshape(every.shape)
    near(found[layer.pattern.rows, layer.pattern.indices], grad, layer.dtype)
    other = Workspace()
    whole(layer, x, dy, other)
    near(found, layer.gradient_at(every, other.child(layer)).reshape(every.shape), layer.dtype)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["relu", "conv"])
def test_a_gradient_in_tiles_of_what_was_given_as_an_array(name):
    layer = LAYERS[name]
    x, dy = arrays(layer, 50)
    _, cache = layer.forward(x)
    dx, grads = layer.backward(in_tiles(dy, layer.out_shape), cache)
    wanted = layer.backward(dy, cache)
    np.testing.assert_array_equal(np.moveaxis(dx.data, -1, 1).reshape(-1, *layer.in_shape)[:50], wanted[0])
    near(grads["weight"], wanted[1]["weight"], layer.dtype)


@pytest.mark.usefixtures("small_chunks")
def test_gradients_of_another_batch_or_other_connections_are_refused():
    layer = linear()
    x, dy = arrays(layer, 50)
    _, cache = layer.forward(x)
    with pytest.raises(ValueError, match="dy must be of the 50 samples that x had, got 49"):
        layer.backward(dy[:49], cache)
    layer.prune(np.arange(layer.pattern.nnz) % 2 == 0)
    with pytest.raises(ValueError, match="the cache is of other connections"):
        layer.backward(dy, cache)


@pytest.mark.usefixtures("small_chunks")
def test_layers_without_the_mark_are_called_whole():
    class Plain(SparseLinear):
        def forward_tiles(self, x: Tiles, workspace: Workspace) -> Any:
            calls.append(len(x.data))
            return super().forward_tiles(x, workspace)

    calls: list[int] = []
    layer = Plain(linear().pattern)
    x, dy = arrays(layer, 99)
    layer.backward(dy, layer.forward(x)[1])
    assert calls == [7]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("batch", [16, 48, 80, 100])
def test_operators(batch):
    layer = linear(dtype=np.float64)
    matrix, x = layer.to_scipy(), numbers((53, batch))
    y, ours = numbers((37, batch), 1), SparseOperator(matrix)
    near(ours @ x, matrix @ x, np.float64)
    near(ours.T @ y, matrix.T @ y, np.float64)
    near(ours.gradient(y, x), (y @ x.T)[layer.pattern.rows, layer.pattern.indices], np.float64)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("shape", [(70, 20), (3, 33, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_modules(shape, bias):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")
    from sparsecore.interop.torch import SparseLinear as Module

    torch.manual_seed(0)
    module = Module(20, 13, bias, sparsity=0.6, dtype=torch.float64)
    other, found = module.to_linear(), []
    x, dy = torch.randn(shape, dtype=torch.float64), torch.randn(*shape[:-1], 13, dtype=torch.float64)
    for each in (module, other):
        leaf = x.clone().requires_grad_()
        y = each(leaf)
        y.backward(dy)
        found.append([y.detach(), leaf.grad, *(p.grad for p in each.parameters())])
    found[1][2] = found[1][2][torch.tensor(module.pattern.rows), torch.tensor(module.pattern.indices)]
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


def test_modules_notice_that_x_was_written_over():
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")
    from sparsecore.interop.torch import SparseLinear as Module

    module, x = Module(20, 13), torch.randn(5, 20, requires_grad=True) * 1
    y = module(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_two_threads_run_one_layer_at_once(small_chunks):
    layer = LAYERS["relu"]
    given = [arrays(layer, 99, seed) for seed in (0, 5)]
    wanted = [layer.forward(x)[0] for x, _ in given]
    wrong: list[int] = []

    def run(k: int) -> None:
        for _ in range(20):
            if not np.array_equal(layer.forward(given[k][0])[0], wanted[k]):
                wrong.append(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in (0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


@pytest.mark.parametrize("batch", [0, 1, 16, 32, 33, 100])
def test_chunks_are_the_batch(batch):
    found = list(chunks(batch, TILES))
    assert [chunk.samples.start for chunk in found] == [32 * k for k in range(len(found))]
    assert [chunk.tiles.start for chunk in found] == [2 * k for k in range(len(found))]
    assert found[-1].samples.stop == batch and sum(chunk.batch for chunk in found) == batch
    assert found[-1].tiles.stop == -(-batch // LANES)


def test_the_size_of_a_chunk():
    """Whole panels of sample, no more than a cache holds, at least what gather takes together."""
    for tile in (64, 4096, 100_000, 10_000_000):
        tiles = tuning.chunk_tiles(tile, 1)
        assert tiles % tuning.LEAST_CHUNK == 0
        assert tiles == tuning.LEAST_CHUNK or tiles * tile <= tuning.CHUNK_CACHE
    assert tuning.chunk_tiles(10_000_000, 1024) == 1 and tuning.chunk_tiles(10_000_000, 4) == 4
    assert linear(1536, 384).plan.chunk(4) == 8 and linear(2560, 640).plan.chunk(4) == 4
    assert linear(1536, 384).plan.chunk(8) == 4


def test_buffers_are_those_of_a_chunk():
    """Of 512 tiles, four are packed at a time: nothing of the size of the batch stays, and buffers are nobody's."""
    from sparsecore.layers.replay import backward_of, forward_of
    from sparsecore.runtime.scratch import scratch

    layer = linear(2560, 640)
    for made in (forward_of(layer, 8192, "float32", biased=True),
                 backward_of(layer, 8192, "float32", biased=True, need_dx=True)):
        held = [thing for thing in made._kept if isinstance(thing, np.ndarray)]
        assert held and not any(array.ndim == 3 for array in held)
        tile = 16 * 4 * (2560 + 640)
        assert 4 * tile <= made._nbytes <= 4 * 2 * tile + 4 * layer.pattern.nnz + 1024
        assert made._nbytes <= scratch._largest
