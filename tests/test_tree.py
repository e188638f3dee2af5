"""Layers that hold layers: Sequential and Residual, paths, and networks that are trees."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from sparsecore.data.normalisation import Normalisation
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import (
    AvgPool2d,
    Dropout,
    Flatten,
    Layer,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.prune import curvature, magnitude, to_sparsity
from sparsecore.runs.checkpoint import read, save
from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import linear, numbers, store, tiled, untiled


def conv(
    channels: int, out: int, shape: tuple[int, int], *, seed: int, kernel: int = 3, **options: Any
) -> SparseConv2d:
    rng = np.random.default_rng(seed)
    pattern = uniform_random(out, channels * kernel * kernel, 0.5, rng)
    padding = kernel // 2
    layer = SparseConv2d(
        pattern, (channels, *shape), kernel, padding=padding, rng=rng, bias=rng.standard_normal(out), **options
    )
    return layer


def block(channels: int, out: int, shape: tuple[int, int], *, seed: int, dtype: Any, stride: int = 1) -> Residual:
    """A basic block: two convolutions, and a 1×1 projection where the shape changes."""
    first = conv(channels, out, shape, seed=seed, stride=stride, relu=True, dtype=dtype)
    second = conv(out, out, first.out_shape[1:], seed=seed + 1, dtype=dtype)
    around = None
    if stride != 1 or channels != out:
        around = conv(channels, out, shape, seed=seed + 2, kernel=1, stride=stride, dtype=dtype)
    return Residual(Sequential({"conv1": first, "conv2": second}), around, relu=True)


def residual_network(dtype: Any = np.float64, dropout: float = 0.0) -> Network:
    """A small residual network; its stages are named."""
    stem = conv(1, 4, (8, 8), seed=0, relu=True, dtype=dtype)
    stage1 = Sequential([block(4, 4, (8, 8), seed=10, dtype=dtype), block(4, 4, (8, 8), seed=20, dtype=dtype)])
    stage2 = Sequential([block(4, 6, (8, 8), seed=30, dtype=dtype, stride=2)])
    head = linear(dense(5, 6), dtype=dtype)
    between: dict[str, Layer] = {"drop": Dropout((6, 4, 4), dropout)} if dropout else {}
    return Network(
        {"stem": stem, "stage1": stage1, "stage2": stage2, **between, "pool": AvgPool2d((6, 4, 4), 4),
         "flat": Flatten((6, 1, 1)), "head": head}
    )  # fmt: skip


def flat_and_nested(dtype: Any = np.float64) -> tuple[Network, Network]:
    """The same layers in a row, and in nested Sequentials."""

    def layers() -> list[Layer]:
        return [
            linear(uniform_random(14, 20, 0.5, np.random.default_rng(0)), seed=1, dtype=dtype, relu=True),
            Dropout((14,), 0.3),
            linear(uniform_random(9, 14, 0.5, np.random.default_rng(2)), seed=3, dtype=dtype),
            ReLU((9,)),
            Dropout((9,), 0.4),
            linear(dense(5, 9), seed=4, dtype=dtype),
        ]

    a, b, c, d, e, f = layers()
    return Network(layers()), Network([Sequential([a, b]), Sequential([Sequential([c, d]), e]), f])


# ---------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("batch", [1, 16, 21])
def test_gradients_of_a_residual_network_are_derivatives(batch: int) -> None:
    labels = np.random.default_rng(1).integers(0, 5, batch)
    gradcheck(residual_network(), numbers((batch, 1, 8, 8)), labels=labels, samples=25)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("first", ["ReLU before", "nothing before"])
def test_gradients_of_residual_layers_are_derivatives(relu: bool, projected: bool, first: str) -> None:
    rng = np.random.default_rng(0)
    there, back = uniform_random(9, 12, 0.4, rng), uniform_random(12, 9, 0.4, rng)
    inner = [linear(there, seed=1, relu=True), linear(back, seed=2)]
    around = linear(uniform_random(12, 12, 0.4, rng), seed=3, relu=True) if projected else None
    layer: Layer = Residual(Sequential(inner), around, relu=relu)
    if first == "ReLU before":
        layer = Sequential([linear(dense(12, 12), seed=4, relu=True), layer])
    gradcheck(layer, numbers((5, 12)))


def by_hand(layer: Layer, x: Any) -> Any:
    """What a tree of fully connected layers computes, in ordinary arrays."""
    if isinstance(layer, Sequential):
        for each in layer.layers:
            x = by_hand(each, x)
        return x
    if isinstance(layer, Residual):
        total = by_hand(layer.main, x) + (x if layer.shortcut is None else by_hand(layer.shortcut, x))
        return np.maximum(total, 0) if layer.relu else total
    assert isinstance(layer, SparseLinear)
    y = x @ layer.to_scipy().toarray().T + layer.bias
    return np.maximum(y, 0) if layer.relu else y


@pytest.mark.parametrize("batch", [1, 5, 16, 33])
def test_a_tree_computes_what_it_says(batch: int) -> None:
    rng = np.random.default_rng(0)

    def inner(seed: int) -> Sequential:
        return Sequential([linear(uniform_random(7, 12, 0.5, rng), seed=seed, relu=True), linear(dense(12, 7), seed=8)])

    tree = Residual(
        Sequential([Residual(inner(1)), Residual(inner(2), linear(dense(12, 12), seed=3), relu=True)]),
        linear(uniform_random(12, 12, 0.7, rng), seed=5),
    )
    x = numbers((batch, 12))
    y, _ = tree.forward(x)
    np.testing.assert_allclose(y, by_hand(tree, x), rtol=1e-12, atol=1e-12)


def test_nesting_changes_no_bit() -> None:
    """Neither do the streams of dropout: they are numbered along the leaves."""
    found = []
    for net in flat_and_nested(np.float32):
        optimizer = SGD(0.05, 0.9, 1e-3)
        step = Step(net, store(features=20), optimizer)
        for start in (0, 32, 0, 38):
            step.run(start, 32)
        found.append((net.params.copy(), optimizer.columns["velocity"].copy(), step.totals()))
    (a, v, t), (b, w, u) = found
    assert np.array_equal(a, b) and np.array_equal(v, w) and t == u


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    def trained() -> Any:
        net = residual_network(np.float32, dropout=0.2)
        step = Step(net, store(samples=120, features=64), SGD(0.02, 0.9))
        for start in (0, 40, 80):
            step.run(start, 40)
        return net.params.copy()

    before = cpu().pool.threads
    try:
        set_threads(1)
        alone = trained()
        set_threads(threads)
        assert np.array_equal(trained(), alone)
    finally:
        set_threads(before)


def test_lanes_past_the_batch_reach_nothing() -> None:
    net = residual_network()
    x = numbers((5, 1, 8, 8))
    gradients = []
    for padding in (0.0, np.nan):
        workspace = Workspace()
        y, caches = net.forward(tiled(x, padding), workspace)
        dy = tiled(numbers((5, 5), 1), padding)
        net.backward(dy, caches, workspace)
        rows = [row.path.rpartition(".") for row in net.table.rows]
        gradients.append([untiled(y), *(workspace.at(path).find(name).copy() for path, _, name in rows)])
    assert all(np.array_equal(a, b) for a, b in zip(*gradients, strict=True))


# ---------------------------------------------------------------------------------------------- paths


def test_layers_go_by_path() -> None:
    net = residual_network()
    paths = [path for path, _ in net.walk()]
    assert paths[:5] == ["stem", "stage1", "stage1.0", "stage1.0.main", "stage1.0.main.conv1"]
    assert net["stage2.0.shortcut"].out_shape == (6, 4, 4) and net["stem"] is net.layers[0] and net[0] is net.layers[0]
    assert [row.path for row in net.table.rows][:2] == ["stem.weight", "stem.bias"]
    assert [line.path for line in net.summary()] == list(net.patterns)
    assert set(net.sparse) == set(net.patterns) - {"head"}
    for path in ("stage3", "stage1.7", "stem.conv", ""):
        with pytest.raises(KeyError, match="no layer"):
            net[path]


def test_numbers_go_on_working_for_flat_networks() -> None:
    net, _ = flat_and_nested()
    assert net.patterns[0] is net.layers[0].pattern and list(net.patterns) == ["0", "2", "5"]  # type: ignore[attr-defined]
    assert [net.layers[k] for k in net.sparse] == [net.layers[0], net.layers[2]]
    assert Network(flat_and_nested()[0].layers, sparse=[2]).sparse == ("2",)
    to_sparsity(net, {0: 0.8, "2": 0.9})
    assert round(net.patterns[0].sparsity, 2) == 0.8 and round(net.patterns["2"].sparsity, 2) == 0.9


def test_what_makes_no_tree_is_refused() -> None:
    layer, other = linear(dense(3, 3)), linear(dense(3, 3), seed=1)
    twice = r"may appear only once.*both 0 and 1\.main"
    with pytest.raises(ValueError, match=twice):
        Network([layer, Residual(layer)])
    loop = Sequential([other])
    loop.children = {"0": other, "1": loop}
    with pytest.raises(ValueError, match=r"layer 0\.1 holds itself"):
        Network([loop])
    with pytest.raises(ValueError, match=r"main gives \(2,\), but x, which goes around it, is \(3,\)"):
        Residual(linear(dense(2, 3)))
    with pytest.raises(ValueError, match=r"main takes \(3,\), but shortcut takes \(4,\)"):
        Residual(linear(dense(4, 3)), linear(dense(4, 4)))
    with pytest.raises(TypeError, match="main must be a Layer, got int"):
        Residual(3)  # type: ignore[arg-type]
    for name in ("", "a.b", "a:b", 3):
        with pytest.raises(ValueError, match="a layer's name must be"):
            Sequential({name: layer})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "taken", "good"),
    [((3, 32, 32), (32, 32, 3), False), ((3, 4, 4), (48,), True), ((48,), (3, 4, 4), True), ((2, 8), (4, 4), False)],
)
def test_axes_must_meet(given: tuple[int, ...], taken: tuple[int, ...], good: bool) -> None:
    layers = [ReLU(given), ReLU(taken)]
    if good:
        Network(layers)
        return
    with pytest.raises(ValueError, match=r"layer 1, ReLU.*takes .* but layer 0, ReLU.* before it gives"):
        Network(layers)


# ---------------------------------------------------------------------------------------------- the rest of the house


def test_a_checkpoint_holds_a_tree(tmp_path: Any) -> None:
    net = residual_network(np.float32, dropout=0.1)
    net.normalisation = Normalisation((1, 8, 8), (0.1,), (0.5,))
    optimizer = SGD(0.1, 0.9)
    step = Step(net, store(features=64), optimizer)
    step.run(0, 32)
    save(net, tmp_path / "m.safetensors", optimizer=optimizer)
    found = read(tmp_path / "m.safetensors")
    assert [path for path, _ in found.network.walk()] == [path for path, _ in net.walk()]
    assert found.network.sparse == net.sparse and found.network.params.tobytes() == net.params.tobytes()
    assert found.columns["velocity"].tobytes() == optimizer.columns["velocity"].tobytes()
    x = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), dtype=np.uint8)
    assert np.array_equal(found.network.logits(x), net.logits(x))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_tree_is_its_own(duplicate: Any) -> None:
    net = residual_network(np.float32)
    x = numbers((3, 1, 8, 8), 0, np.float32)
    before, twin = net.logits(x), duplicate(net)
    twin.params[:] = 0
    assert np.array_equal(net.logits(x), before) and not twin.logits(x).any()


def test_pruning_goes_by_path() -> None:
    net = residual_network(np.float32)
    step = Step(net, store(features=64), SGD(0.05, 0.9))
    step.run(0, 32)
    lines = to_sparsity(net, 0.8)
    assert [line.layer for line in lines] == list(net.sparse)
    assert all(abs(net.patterns[path].sparsity - 0.8) < 0.05 for path in net.sparse)
    step.run(0, 32)
    assert np.isfinite(net.params).all()


def test_saliencies_of_a_tree() -> None:
    net, samples = residual_network(), store(samples=40, features=64, dtype=np.float64)
    found = curvature(net, samples, 40)
    assert list(found) == list(magnitude(net)) == list(net.patterns)
    assert all(h.shape == (net.patterns[path].nnz,) and h.min() >= 0 for path, h in found.items())
    flat, nested = flat_and_nested()
    samples = store(dtype=np.float64)
    for a, b in zip(curvature(flat, samples).values(), curvature(nested, samples).values(), strict=True):
        assert np.array_equal(a, b)


def test_a_pool_of_a_tree() -> None:
    """Layers without parameters in a layer that is used alone take the dtype of what they are given."""
    tree = Sequential([MaxPool2d((2, 4, 4), 2), Flatten((2, 2, 2)), ReLU((8,))])
    for dtype in (np.float32, np.float64):
        y, _ = tree.forward(numbers((3, 2, 4, 4), 0, dtype))
        assert y.dtype == dtype and y.shape == (3, 8)
