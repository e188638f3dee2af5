"""Connections go and come in one operation: what stays keeps its numbers, in every column, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.layers import ReLU, Residual, Sequential, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.rewiring import sources_of
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import linear, network, numbers, store, tiled, untiled

SEEDS = st.integers(0, 2**32 - 1)


def mask_of(pattern: SparsityPattern) -> Any:
    return pattern.to_scipy().toarray() > 0


def some(shape: tuple[int, int], rng: np.random.Generator, nnz: int | None = None) -> SparsityPattern:
    """A random pattern, perhaps with empty rows, perhaps of a given size."""
    kept = np.zeros(shape[0] * shape[1], bool)
    count = int(rng.integers(0, kept.size + 1)) if nnz is None else nnz
    kept[rng.permutation(kept.size)[:count]] = True
    rows, columns = np.nonzero(kept.reshape(shape))
    return SparsityPattern.from_coo(shape, rows, columns)


def by_connection(net: Network, flat: Any) -> dict[Any, float]:
    """Every number of a column by what it belongs to."""
    found = {}
    for row in net.table.rows:
        if row.pattern is None:
            found |= {(row.path, k): value for k, value in enumerate(flat[row.slice].tolist())}
        else:
            places = zip(row.pattern.rows.tolist(), row.pattern.indices.tolist(), strict=True)
            found |= {(row.path, *at): v for at, v in zip(places, flat[row.slice].tolist(), strict=True)}
    return found


def small(rng: np.random.Generator, format: Any = "csr") -> Network:
    """A residual network of linear layers, and a convolution before it."""
    conv = SparseConv2d(
        some((3, 2 * 9), rng), (2, 4, 4), 3, padding=1, stride=2, relu=True, format=format, rng=rng,
        bias=rng.standard_normal(3), dtype=np.float64,
    )  # fmt: skip
    inner = [linear(some((9, 12), rng), seed=1, relu=True, format=format), linear(some((12, 9), rng), seed=2)]
    return Network(
        {"conv": conv, "block": Residual(Sequential(inner), relu=True), "head": linear(dense(5, 12), seed=3)}
    )


def masked(net: Network, x: Any, dy: Any) -> tuple[Any, dict[str, Any]]:
    """Outputs and weights' gradients of the dense networks under the patterns' masks, in float64, by hand."""
    weight = {path: net[path].to_scipy().toarray() for path in net.patterns}  # type: ignore[attr-defined]
    bias: dict[str, Any] = {path: net[path].params["bias"] for path in net.patterns}
    mask = {path: mask_of(pattern) for path, pattern in net.patterns.items()}
    batch = len(x)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    columns = np.stack(
        [padded[:, :, v : v + 3, u : u + 3].reshape(batch, -1) for v in (0, 2) for u in (0, 2)], axis=1
    )  # positions, then inputs of a filter
    a = np.einsum("oc,bpc->bop", weight["conv"], columns) + bias["conv"][:, None]
    h = np.maximum(a, 0).reshape(batch, -1)
    first, second = "block.main.0", "block.main.1"
    inner = h @ weight[first].T + bias[first]
    mid = np.maximum(inner, 0)
    total = mid @ weight[second].T + bias[second] + h
    out = np.maximum(total, 0)
    y = out @ weight["head"].T + bias["head"]
    grads = {"head": dy.T @ out}
    d_total = (dy @ weight["head"]) * (total > 0)
    grads[second] = d_total.T @ mid
    d_inner = (d_total @ weight[second]) * (inner > 0)
    grads[first] = d_inner.T @ h
    d_h = (d_inner @ weight[first] + d_total).reshape(a.shape) * (a > 0)
    grads["conv"] = np.einsum("bop,bpc->oc", d_h, columns)
    return y, {path: grads[path][mask[path]] for path in grads}


@settings(max_examples=60)
@given(SEEDS, st.sampled_from(["csr", "coo"]), st.integers(1, 20), st.booleans(), st.integers(1, 4))
def test_a_rewired_network_is_the_masked_dense_one(
    seed: int, format: str, batch: int, equal: bool, times: int
) -> None:
    rng = np.random.default_rng(seed)
    net = small(rng, format)
    optimizer = SGD(0.1, 0.9)
    optimizer.attach(net)
    for _ in range(times):
        optimizer.columns["velocity"] = rng.standard_normal(net.params.shape)
        optimizer.attach(net)
        before = [by_connection(net, column) for column in (net.params, optimizer.columns["velocity"])]
        paths = [path for path in net.patterns if rng.random() < 0.7]
        new = {p: some(net.patterns[p].shape, rng, net.patterns[p].nnz if equal else None) for p in paths}
        fill = float(rng.choice([0.0, 0.25]))
        net.rewire(new, fill=fill)
        assert all(net.patterns[path] == pattern for path, pattern in new.items())
        for column, was, start in zip((net.params, optimizer.columns["velocity"]), before, (fill, 0.0), strict=True):
            assert column.shape == (net.table.trained,)
            assert all(value == was.get(key, start) for key, value in by_connection(net, column).items())
        x, dy = rng.standard_normal((batch, 2, 4, 4)), rng.standard_normal((batch, 5))
        workspace = Workspace()
        y, caches = net.forward(tiled(x), workspace)
        net.backward(tiled(dy), caches, workspace)
        expected, grads = masked(net, x, dy)
        close(untiled(y), expected)
        for path, gradient in grads.items():
            close(workspace.at(path).array("weight", gradient.shape, gradient.dtype), gradient)


def close(found: Any, expected: Any) -> None:
    """To 1e-12 of the largest number."""
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * max(np.abs(expected).max(initial=0), 1))


# ---------------------------------------------------------------------------------------------- addresses and tapes


def trained(net: Network, moves: Any, threads: int = 1) -> Any:
    """Parameters after steps with moves between them, on one Step."""
    set_threads(threads)
    optimizer = SGD(0.05, 0.9)
    step = Step(net, store(features=20), optimizer)
    for k in range(6):
        step.run(0, 33)
        if k < len(moves):
            net.rewire(moves[k])
    return net.params.copy(), optimizer.columns["velocity"].copy()


def moves_of(net: Network, rng: np.random.Generator) -> list[dict[str, SparsityPattern]]:
    patterns = net.patterns
    return [{path: some(patterns[path].shape, rng, patterns[path].nnz) for path in net.sparse} for _ in range(5)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_equal_sizes_keep_addresses_and_tapes(threads: int) -> None:
    """What was recorded stays valid, and gives the bits that recording anew would."""
    before = cpu().pool.threads
    net, again = network(), network()
    moves = moves_of(net, np.random.default_rng(0))
    try:
        at = net.params.ctypes.data
        patched = trained(net, moves, threads)
        assert net.params.ctypes.data == at
        set_threads(1)
        optimizer = SGD(0.05, 0.9)
        for k in range(6):
            step = Step(again, store(features=20), optimizer)  # which records anew
            step.run(0, 33)
            if k < len(moves):
                again.rewire(moves[k])
        assert np.array_equal(again.params, patched[0])
        assert np.array_equal(optimizer.columns["velocity"], patched[1])
    finally:
        set_threads(before)


def test_tapes_stay_valid_once_a_plan_owns_its_arrays() -> None:
    net = network()
    moves = moves_of(net, np.random.default_rng(1))
    step = Step(net, store(features=20), SGD(0.05))
    step.run(0, 33)
    versions = []
    for move in moves:
        net.rewire(move)
        step.run(0, 33)
        versions.append(net.version)
    assert versions[1:] == versions[:1] * 4, "only the first move records anew: a plan's arrays were the pattern's"


def test_another_size_compacts() -> None:
    net = network()
    before, rng = net.params.size, np.random.default_rng(0)
    version = net.version
    net.rewire({0: some(net.patterns[0].shape, rng, net.patterns[0].nnz - 7)})
    assert net.params.size == before - 7 and net.version > version
    net.rewire({0: SparsityPattern.full(net.patterns[0].shape)})
    assert net.patterns[0].is_full and all(np.shares_memory(layer.weight, net.params) for layer in net.layers)  # type: ignore[attr-defined]


def test_what_does_not_change_costs_nothing() -> None:
    net = network()
    version, at = net.version, net.params.ctypes.data
    net.rewire({})
    net.rewire(dict(net.patterns))
    assert (net.version, net.params.ctypes.data) == (version, at)


def test_columns_of_a_structure_that_is_gone_are_made_anew() -> None:
    """A layer was given another pattern by hand: what the optimizer kept belongs to no connection any more."""
    net, optimizer = network(), SGD(0.1, 0.9)
    step = Step(net, store(features=20), optimizer)
    step.run(0, 33)
    net.layers[0].prune(np.arange(net.patterns[0].nnz) % 2 == 0)  # type: ignore[attr-defined]
    net.flatten()
    net.rewire({1: some(net.patterns[1].shape, np.random.default_rng(0))})
    assert "velocity" not in optimizer.columns
    step.run(0, 33)
    assert optimizer.columns["velocity"].shape == net.params.shape and np.isfinite(net.params).all()


@pytest.mark.parametrize("key", [0, "only"])
@pytest.mark.parametrize("of_fill", [0, "only"])
def test_values_of_new_connections(key: Any, of_fill: Any) -> None:
    net = Network({"only": linear(some((4, 6), np.random.default_rng(0), 9))})
    (old,), full = net.patterns.values(), SparsityPattern.full((4, 6))
    values = np.arange(24.0)
    net.rewire({key: full}, fill={of_fill: values})
    new = sources_of(old, full) < 0
    weight = net.layers[0].params["weight"]
    assert np.array_equal(weight[new], values[new]) and np.count_nonzero(new) == 15


# ---------------------------------------------------------------------------------------------- refusals


def state(net: Network) -> Any:
    return net.params.tobytes(), dict(net.patterns), net.version, net.table.rows


@pytest.mark.parametrize(
    ("patterns", "fill", "error", "message"),
    [
        ({"7": dense(5, 9)}, 0, KeyError, "no layer 7"),
        ({7: dense(5, 9)}, 0, KeyError, "no layer 7"),
        ({-1: dense(5, 9)}, 0, KeyError, "no layer -1"),
        ({"3": dense(5, 5)}, 0, ValueError, "layers must be among 0, 1, 2, those with connections, got 3"),
        ({0: dense(5, 9)}, 0, ValueError, r"layer 0: the pattern must have shape \(12, 20\), got \(5, 9\)"),
        ({0: np.ones((12, 20))}, 0, TypeError, "layer 0: expected a SparsityPattern, got ndarray"),
        ({0: dense(12, 20)}, "x", ValueError, "layer 0: fill must be a number"),
        ({0: dense(12, 20)}, 1j, ValueError, "layer 0: fill must be a number"),
        ({0: dense(12, 20)}, {0: np.ones(3)}, ValueError, "layer 0: fill must be a number, or one for each of 240"),
        ({0: dense(12, 20)}, {"9": 1.0}, KeyError, "no layer 9"),
        ({0: dense(12, 20)}, {1: 1.0}, ValueError, "fill is of layer 1, of which patterns has none"),
        ({0: dense(12, 20)}, {0: 1.0, "0": 2.0}, ValueError, "fill must have one entry a layer, got two of 0"),
        ({0: dense(12, 20), "0": dense(12, 20)}, 0, ValueError, "patterns must have one entry a layer, got two of 0"),
        # A good change beside a bad one must not be made either.
        ({0: dense(12, 20), 1: dense(2, 2)}, 0, ValueError, "layer 1: the pattern must have shape"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    patterns: Any, fill: Any, error: type[Exception], message: str
) -> None:
    net = Network([*network().layers, ReLU((5,))])
    before = state(net)
    with pytest.raises(error, match=message) as caught:
        net.rewire(patterns, fill=fill)
    assert "\n" not in str(caught.value) and state(net) == before


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("nth", range(3))
def test_a_full_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch, equal: bool, nth: int) -> None:
    net, rng = network(), np.random.default_rng(0)
    optimizer = SGD(0.1, 0.9)
    Step(net, store(features=20), optimizer).run(0, 33)
    before, velocity = state(net), optimizer.columns["velocity"].tobytes()
    new = {k: some(net.patterns[k].shape, rng, net.patterns[k].nnz if equal else None) for k in (0, 1)}
    calls = 0

    def failing(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > nth:
                raise MemoryError
            return real(*arguments, **options)

        return call

    device = net.device
    with monkeypatch.context() as patch:
        for name in ("pick", "get"):
            patch.setattr(device, name, failing(getattr(device, name)))
        if equal and nth == 2:
            patch.setattr("sparsecore.storage.plan.laid_out", failing(lambda *a, **k: None))
        with pytest.raises(MemoryError):
            net.rewire(new)
    assert state(net) == before and optimizer.columns["velocity"].tobytes() == velocity
    net.rewire(new)
    assert all(net.patterns[k] == pattern for k, pattern in new.items())


@given(SEEDS)
def test_sources(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(0, 8)), int(rng.integers(0, 8))
    old, new = some(shape, rng), some(shape, rng)
    places = {at: k for k, at in enumerate(zip(old.rows.tolist(), old.indices.tolist(), strict=True))}
    expected = [places.get(at, -1) for at in zip(new.rows.tolist(), new.indices.tolist(), strict=True)]
    assert sources_of(old, new).tolist() == expected


def test_a_layer_used_alone_prunes_itself() -> None:
    layer: SparseLinear = linear(uniform_random(9, 14, 0.5, np.random.default_rng(0)))
    before = layer.to_scipy().toarray()
    keep = np.abs(layer.weight) > 0.5
    layer.prune(keep)
    assert np.array_equal(layer.to_scipy().toarray(), np.where(np.abs(before) > 0.5, before, 0))
    y, _ = layer.forward(numbers((3, 14)))
    np.testing.assert_allclose(y, numbers((3, 14)) @ layer.to_scipy().toarray().T + layer.bias, rtol=1e-12)
