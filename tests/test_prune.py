"""Pruning a network where it stands: exact counts, what moves along, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsecore import SGD, Network
from sparsecore.layers.array_layer import ArrayLayer
from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.flatten import Flatten
from sparsecore.layers.norm import BatchNorm
from sparsecore.layers.pooling import AvgPool2d, MaxPool2d
from sparsecore.layers.relu import ReLU
from sparsecore.prune import (
    PruneError,
    by_quality,
    by_threshold,
    curvature,
    gradient,
    magnitude,
    refresh,
    rewind,
    shrink,
    to_sparsity,
)
from sparsecore.prune.masks import keep_largest
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random
from sparsecore.training.step import Step

from .small import linear, matrix_of, network, refused, store

# Few different values: ties wherever a count can fall.
TIED = hnp.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([0.0, 0.25, 1.0, 3.0]))


def dense_network(*, seed: int = 0, dtype: Any = np.float32) -> Network:
    layers = [
        linear(dense(12, 20), seed=seed, dtype=dtype, relu=True),
        linear(dense(9, 12), seed=seed + 1, dtype=dtype, relu=True),
        linear(dense(5, 9), seed=seed + 2, dtype=dtype),
    ]
    return Network(layers, sparse=(0, 1))


def kept(net: Network, k: int) -> set[tuple[int, int]]:
    pattern = net.patterns[k]
    return set(zip(pattern.rows.tolist(), pattern.indices.tolist(), strict=True))


# -- which stay ----------------------------------------------------------------------------------------------------


@given(TIED, st.integers(0, 45))
def test_the_largest_stay_exactly_as_many_as_asked_and_of_equals_the_first(saliency, count):
    mask, threshold = keep_largest(saliency, count)
    wanted = sorted(range(len(saliency)), key=lambda p: (-saliency[p], p))[:count]
    assert np.flatnonzero(mask).tolist() == sorted(wanted)
    assert not mask[saliency < threshold].any() and mask[saliency > threshold].all()


@given(st.floats(0, 0.99), st.booleans(), st.integers(0, 3))
def test_counts_are_exact_with_ties(sparsity, globally, seed):
    net = dense_network(seed=seed)
    for layer in net.layers:
        layer.params["weight"][...] = np.round(layer.params["weight"])
    wanted = [round((1 - sparsity) * 240), round((1 - sparsity) * 108)]
    lines = to_sparsity(net, sparsity, globally=globally, allow_empty=True)
    left = [net.patterns[k].nnz for k in (0, 1)]
    assert sum(left) == round((1 - sparsity) * 348) if globally else left == wanted
    assert [line.connections for line in lines] == left
    assert [line.removed for line in lines] == [240 - left[0], 108 - left[1]]
    assert [line.sparsity for line in lines] == [net.patterns[k].sparsity for k in (0, 1)]
    assert net.patterns[2].is_full


def test_the_same_connections_go_every_time():
    def once() -> bytes:
        net = dense_network()
        for layer in net.layers:
            layer.params["weight"][...] = np.sign(layer.params["weight"])
        to_sparsity(net, 0.7, globally=True, allow_empty=True)
        return b"".join(p.indptr.tobytes() + p.indices.tobytes() for p in net.patterns.values()) + net.params.tobytes()

    assert len({once() for _ in range(3)}) == 1


def test_a_threshold_removes_what_is_below_it_and_nothing_else():
    net = dense_network()
    before = [matrix_of(net.layers[k]) for k in range(3)]
    lines = by_threshold(net, {0: 0.5, 2: 1.0})
    for k, threshold in ((0, 0.5), (1, 0.0), (2, 1.0)):
        assert np.array_equal(matrix_of(net.layers[k]), np.where(np.abs(before[k]) >= threshold, before[k], 0))
    assert [(line.layer, line.name, line.threshold) for line in lines] == [
        ("0", "SparseLinear(20→12)", 0.5), ("2", "SparseLinear(9→5)", 1.0),
    ]  # fmt: skip


def test_quality_is_in_standard_deviations_of_the_stored_weights():
    net = dense_network()
    to_sparsity(net, 0.5)
    weights = [net.layers[k].params["weight"].astype(np.float64) for k in (0, 1)]
    lines = by_quality(net, 0.9)
    for k, weight in enumerate(weights):
        assert lines[k].threshold == pytest.approx(0.9 * np.sqrt(np.mean((weight - weight.mean()) ** 2)))
        assert net.patterns[k].nnz == np.count_nonzero(np.abs(weight) >= lines[k].threshold)


def test_targets_by_layer_leave_the_others_dense():
    net = dense_network()
    to_sparsity(net, {1: 0.5, 2: 0.8})
    assert [pattern.nnz for pattern in net.patterns.values()] == [240, 54, 9]
    to_sparsity(net, 0.75, layers=[0])
    assert [pattern.nnz for pattern in net.patterns.values()] == [60, 54, 9]


def test_a_layer_that_is_sparser_already_stays_as_it_is():
    net = dense_network()
    to_sparsity(net, 0.8)
    before, version = net.params.tobytes(), net.version
    (first, second) = to_sparsity(net, 0.5)
    assert (first.removed, second.removed, first.threshold) == (0, 0, 0.0)
    assert net.params.tobytes() == before and net.version == version  # nothing to record anew


def test_global_ranking_takes_from_the_layer_with_the_smaller_weights():
    net = dense_network()
    net.layers[0].params["weight"][...] *= 1e-6
    to_sparsity(net, 0.5, globally=True)
    assert net.patterns[0].nnz == 348 // 2 - 108 and net.patterns[1].is_full


# -- what moves along ----------------------------------------------------------------------------------------------


def test_values_velocity_and_biases_move_with_their_connections():
    net, optimizer = dense_network(), SGD(0.1, 0.9, 1e-3)
    step = Step(net, store(features=20), optimizer)
    for _ in range(3):
        step.run(0, 32)

    def by_connection(flat: Any) -> dict[Any, float]:
        found = {}
        for k, arrays in enumerate(net.views(flat).values()):
            pattern = net.patterns[k]
            places = zip([k] * pattern.nnz, pattern.rows.tolist(), pattern.indices.tolist(), strict=True)
            found |= dict(zip(places, arrays["weight"].tolist(), strict=True))
            found |= {(k, row): value for row, value in enumerate(arrays["bias"].tolist())}
        return found

    values, velocities = by_connection(net.params), by_connection(optimizer.velocity)
    assert all(velocities.values())
    to_sparsity(net, 0.7, optimizer=optimizer)
    for now, before in ((by_connection(net.params), values), (by_connection(optimizer.velocity), velocities)):
        assert now == {place: before[place] for place in now}
    assert len(by_connection(net.params)) == 72 + 32 + 45 + 12 + 9 + 5
    assert all(np.shares_memory(array, net.params) for layer in net.layers for array in layer.params.values())


def test_steps_go_on_as_those_of_a_network_built_from_what_is_left():
    """To the bit: pruned under way, or taken apart, put together and given the same velocity."""
    net, optimizer, samples = dense_network(), SGD(0.1, 0.9, 1e-3), store(features=20)
    step = Step(net, samples, optimizer)
    for _ in range(3):
        step.run(0, 32)
    to_sparsity(net, 0.7, optimizer=optimizer)
    built = Network(
        (linear_of(layer) for layer in net.layers), sparse=(0, 1)
    )  # fmt: skip
    other = SGD(0.1, 0.9, 1e-3)
    other.velocity = optimizer.velocity.copy()
    second = Step(built, samples, other)
    for _ in range(5):
        step.run(0, 32)
        second.run(0, 32)
    assert net.params.tobytes() == built.params.tobytes()
    assert optimizer.velocity.tobytes() == other.velocity.tobytes()


def linear_of(layer: Any) -> Any:
    return type(layer)(layer.pattern, layer.weight, layer.bias, relu=layer.relu)


def test_removing_zeros_leaves_the_function_to_rounding():
    net, x = dense_network(dtype=np.float64), np.random.default_rng(5).standard_normal((40, 20))
    rng = np.random.default_rng(0)
    for k in (0, 1):
        weight = net.layers[k].params["weight"]
        weight[rng.random(weight.size) < 0.6] = 0
    zeros = sum(int((net.layers[k].params["weight"] == 0).sum()) for k in (0, 1))
    before = net.logits(x)
    lines = by_threshold(net, np.finfo(np.float64).tiny)
    assert sum(line.removed for line in lines) == zeros > 100
    np.testing.assert_allclose(net.logits(x), before, rtol=1e-12, atol=1e-12)


def test_memory_and_arithmetic_fall_at_once():
    net = dense_network()
    step = Step(net, store(features=20), SGD(0.1))
    step.run(0, 32)
    to_sparsity(net, 0.9)
    step.run(0, 32)
    assert net.connections == 24 + 11 + 45 == step.grads.size - 26
    assert net.layers[0].plan.forward.offsets.size == 24


# -- saliencies ----------------------------------------------------------------------------------------------------


def batch_of(samples: Any, count: int) -> tuple[Any, Any]:
    """The first samples of a store, normalised, and their labels."""
    scale, shift = samples._scale, samples._shift
    return samples._x[:count] * scale.astype(np.float64) + shift, samples._y[:count]


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_gradient_saliency_is_weight_times_gradient():
    net, samples = network(dtype=np.float64), store(dtype=np.float64)
    x, labels = batch_of(samples, 50)

    def loss() -> float:
        p = softmax(net.logits(x))
        return float(-np.log(p[np.arange(50), labels]).mean())

    found = gradient(net, samples, 50)
    for k, layer in enumerate(net.layers):
        weight = layer.params["weight"]
        for p in range(0, weight.size, 7):
            value, eps = weight[p], 1e-6
            weight[p] = value + eps
            above = loss()
            weight[p] = value - eps
            slope = (above - loss()) / (2 * eps)
            weight[p] = value
            assert found[k][p] == pytest.approx(abs(value * slope), rel=1e-5, abs=1e-9)


def test_curvature_of_a_single_layer_is_the_exact_second_derivative():
    """One layer has no terms to leave out: ∂²loss/∂w² = mean p(1 − p)x²."""
    net, samples = Network([linear(uniform_random(5, 20, 0.4, np.random.default_rng(0)))]), store(dtype=np.float64)
    x, _ = batch_of(samples, 60)
    p, layer = softmax(net.logits(x)), net.layers[0]
    h = np.array([np.mean(p[:, i] * (1 - p[:, i]) * x[:, j] ** 2) for i, j in sorted(kept(net, 0))])
    np.testing.assert_allclose(curvature(net, samples, 60)[0], h * layer.params["weight"] ** 2 / 2, rtol=1e-9)


@pytest.mark.parametrize("separate", [False, True])
def test_curvature_is_passed_back_as_in_optimal_brain_damage(separate):
    """Against the recursion written out, with ReLUs inside the layers and as layers of their own."""
    net, samples = network(dtype=np.float64), store(dtype=np.float64)
    if separate:
        layers = []
        for layer in net.layers:
            layers.append(linear(layer.pattern, dtype=np.float64))
            layers[-1].params = {name: array.copy() for name, array in layer.params.items()}
            if layer.relu:
                layers.append(ReLU(layer.out_shape))
        net = Network(layers)
    x, _ = batch_of(samples, 64)
    found, linears = curvature(net, samples, 64), list(net.patterns)
    inputs = [x]
    for k in linears[:-1]:
        inputs.append(np.maximum(inputs[-1] @ matrix_of(net.layers[k]).T + net.layers[k].bias, 0))
    p = softmax(net.logits(x))
    h = p * (1 - p) / len(x)
    for k, below in zip(reversed(linears), reversed(inputs), strict=True):
        wanted, pattern = h.T @ below**2, net.patterns[k]
        saliency = wanted[pattern.rows, pattern.indices] * net.layers[k].weight ** 2 / 2
        np.testing.assert_allclose(found[k], saliency, rtol=1e-9)
        h = (h @ matrix_of(net.layers[k]) ** 2) * (below > 0)


@pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d])
def test_curvature_of_convolutions_is_that_of_the_matrices_that_they_are(pool):
    """Every layer written out as a matrix, whose entries that share a weight add up."""
    rng = np.random.default_rng(0)
    first = SparseConv2d(uniform_random(3, 9, 0.3, rng), (1, 6, 6), 3, padding=1, relu=True, rng=rng, dtype=np.float64)
    pooled = pool(first.out_shape, 2)
    second = SparseConv2d(uniform_random(2, 12, 0.3, rng), pooled.out_shape, 2, stride=1, rng=rng, dtype=np.float64)
    head = linear(uniform_random(4, 8, 0.2, rng))
    net = Network([first, pooled, second, ReLU(second.out_shape), Flatten(second.out_shape), head])
    samples = store(features=36, classes=4, dtype=np.float64)
    samples.shape = (1, 6, 6)
    x, _ = batch_of(samples, 64)
    found = curvature(net, samples, 64)
    z, inputs = x.reshape(64, 1, 6, 6), []
    for layer in net.layers:
        inputs.append(z)
        z = layer.forward(z)[0]
    p = softmax(z)
    h = p * (1 - p) / 64
    for k in range(5, -1, -1):
        layer, below = net.layers[k], inputs[k].reshape(64, -1)
        above = (inputs[k + 1] if k < 5 else z).reshape(64, -1)
        if getattr(layer, "relu", False) or isinstance(layer, ReLU):
            h = h * (above > 0)
        size = below.shape[1]
        if k in net.patterns:
            before = relu_off(layer)
            offset = before.forward(np.zeros((1, *layer.in_shape)))[0].ravel()
            matrix = (
                before.forward(np.eye(size).reshape(size, *layer.in_shape))[0].reshape(size, -1).T - offset[:, None]
            )
            wanted = np.empty(layer.weight.size)
            for q in range(wanted.size):  # where this weight alone stands in the matrix
                alone = relu_off(layer)
                alone.params["weight"][...] = np.arange(wanted.size) == q
                alone.params["bias"][...] = 0
                places = alone.forward(np.eye(size).reshape(size, *layer.in_shape))[0].reshape(size, -1).T
                wanted[q] = np.sum((h @ places) * below**2) * layer.weight[q] ** 2 / 2
            np.testing.assert_allclose(found[k], wanted, rtol=1e-9)
            h = h @ matrix**2
        elif isinstance(layer, MaxPool2d):
            taken = MaxPool2d(layer.in_shape, 2)
            y, cache = taken.forward(below.reshape(64, *layer.in_shape))
            h = taken.backward(h.reshape(y.shape), cache)[0].reshape(64, -1)
        elif isinstance(layer, AvgPool2d):
            matrix = layer.forward(np.eye(size).reshape(size, *layer.in_shape))[0].reshape(size, -1).T
            h = h @ matrix**2


def relu_off(layer: Any) -> Any:
    twin = copy.deepcopy(layer)
    twin.relu = False
    return twin


@pytest.mark.parametrize("saliency", [gradient, curvature])
def test_saliencies_change_nothing_and_rank_the_layers_that_are_asked_for(saliency):
    net, samples = network(), store()
    before = net.params.tobytes()
    found = saliency(net, samples, 10**6)  # more than there are: all
    assert net.params.tobytes() == before
    assert {k: array.shape for k, array in found.items()} == {k: (p.nnz,) for k, p in net.patterns.items()}
    to_sparsity(net, 0.8, saliencies=found, globally=True)
    assert net.sparsity == pytest.approx(0.8, abs=0.01) and net.patterns[2].is_full
    with pytest.raises(ValueError, match="samples must be at least 1"):
        saliency(net, samples, 0)


# -- refused -------------------------------------------------------------------------------------------------------


def unchanged(net: Network, call: Any, message: str) -> None:
    before = net.params.tobytes(), net.version, [p.nnz for p in net.patterns.values()]
    refused(PruneError, message, call)
    assert (net.params.tobytes(), net.version, [p.nnz for p in net.patterns.values()]) == before


def test_a_layer_pruned_to_nothing_is_refused_by_name():
    net = dense_network()
    message = (
        "layer 1, SparseLinear(12→9): would lose all its 108 connections: prune less, or allow it (allow_empty=True; "
        "--prune-empty while a run trains, --allow-empty for a checkpoint)"
    )
    unchanged(net, lambda: to_sparsity(net, {0: 0.5, 1: 1.0}), message)
    unchanged(net, lambda: to_sparsity(net, {0: 0.5, 1: 0.999}), message)
    unchanged(net, lambda: by_threshold(net, {0: 0.5, 1: 100.0}), message)
    (line,) = to_sparsity(net, {1: 1.0}, allow_empty=True)
    assert (line.connections, line.sparsity) == (0, 1.0) and line.threshold > 0
    assert np.isfinite(net.logits(np.ones((3, 20)))).all()
    to_sparsity(net, {1: 1.0})  # there is nothing left to lose


def test_what_cannot_be_pruned_is_refused():
    net, nan = dense_network(), dense_network()
    unchanged(
        net, lambda: to_sparsity(net, 1.5), "sparsity: must be from 0 to 1, got 1.5 for layer 0, SparseLinear(20→12)"
    )
    unchanged(
        net,
        lambda: to_sparsity(net, float("nan")),
        "sparsity: must be from 0 to 1, got nan for layer 0, SparseLinear(20→12)",
    )
    unchanged(
        net, lambda: by_threshold(net, -1), "threshold: must be at least 0, got -1 for layer 0, SparseLinear(20→12)"
    )
    unchanged(
        net, lambda: to_sparsity(net, {3: 0.5}),
        "sparsity: layers to prune must be among 0, 1, 2, those with connections, got 3",
    )  # fmt: skip
    unchanged(
        net,
        lambda: to_sparsity(net, {0: 0.5}, layers=[0]),
        "sparsity: give one number with layers, or a number a layer, not both",
    )
    unchanged(
        net, lambda: to_sparsity(net, {0: 0.5}, globally=True),
        "to_sparsity: globally takes one sparsity for all layers, got one a layer",
    )  # fmt: skip
    unchanged(
        net, lambda: to_sparsity(net, 0.5, saliencies={0: np.ones(240)}),
        "layer 1, SparseLinear(12→9): saliencies must be floating, of shape (108,), got none",
    )  # fmt: skip
    nan.layers[1].params["weight"][7] = np.nan
    unchanged(
        nan, lambda: to_sparsity(nan, 0.5),
        "layer 1, SparseLinear(12→9): saliencies must be finite and at least 0, got nan at position 7",
    )  # fmt: skip
    full = Network([linear(dense(3, 4))])
    unchanged(
        full, lambda: to_sparsity(full, 0.5),
        "sparsity: Network(4→3) has no sparse layers: say which to prune, of 0",
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1)])
def test_awkward_shapes(shape):
    net = Network([linear(SparsityPattern.full(shape), dtype=np.float32)])
    to_sparsity(net, 0.5, layers=[0], allow_empty=True)
    by_quality(net, 1.0, layers=[0], allow_empty=True)
    assert net.patterns[0].shape == shape


# -- rewinding -----------------------------------------------------------------------------------------------------


def test_rewinding_gives_the_connections_that_are_left_their_earlier_values():
    net, optimizer = dense_network(), SGD(0.1, 0.9)
    earlier = copy.deepcopy(net)
    step = Step(net, store(features=20), optimizer)
    for _ in range(4):
        step.run(0, 32)
    to_sparsity(net, 0.7, optimizer=optimizer)
    step.run(0, 32)
    patterns, version = net.patterns, net.version
    rewind(net, earlier, optimizer)
    for k, layer in enumerate(net.layers):
        pattern = patterns[k]
        assert net.patterns[k] is pattern
        assert np.array_equal(layer.weight, matrix_of(earlier.layers[k])[pattern.rows, pattern.indices])
        assert np.array_equal(layer.bias, earlier.layers[k].bias)
    assert not optimizer.velocity.any() and net.version == version
    before = net.params.copy()
    step.run(0, 32)  # what was recorded holds
    assert (net.params != before).any()


def test_rewinding_to_another_network_is_refused():
    net = dense_network()
    to_sparsity(net, 0.5)
    sparser = copy.deepcopy(net)
    to_sparsity(sparser, 0.9)
    before = net.params.tobytes()
    with pytest.raises(
        ValueError, match=r"layer 0, SparseLinear\(20→12\): 96 of 120 connections are not in the earlier"
    ):
        rewind(net, sparser)
    with pytest.raises(ValueError, match="expected the layers of"):
        rewind(net, network((20, 12, 8, 5)))
    assert net.params.tobytes() == before


def test_fresh_values_have_the_scale_of_the_pruned_fan_in():
    net = Network(
        [linear(dense(200, 300), dtype=np.float32, relu=True), linear(dense(10, 200), dtype=np.float32)], sparse=(0,)
    )
    to_sparsity(net, 0.9)
    refresh(net, seed=3)
    values, fan_in = net.layers[0].weight, np.repeat(net.patterns[0].fan_in, net.patterns[0].fan_in)
    assert np.std(values * np.sqrt(fan_in)) == pytest.approx(np.sqrt(2), rel=0.03)
    assert not net.layers[0].bias.any()
    again = net.params.tobytes()
    refresh(net, seed=3)
    assert net.params.tobytes() == again
    refresh(net, seed=4)
    assert net.params.tobytes() != again


def test_a_word_is_no_sparsity():
    with pytest.raises(PruneError, match=r"^sparsity: must be from 0 to 1, got '0.9' for layer 0"):
        to_sparsity(network(), "0.9")


class Scaled(ArrayLayer):
    """x times a number, which is 1 in the beginning."""

    def __init__(self, size: int) -> None:
        self.params, self.in_shape, self.out_shape = {"factor": np.full(1, 3.0, np.float32)}, (size,), (size,)

    def forward_array(self, x, *, training):
        return x * self.params["factor"], x

    def backward_array(self, dy, x):
        return dy * self.params["factor"], {"factor": np.sum(dy * x)}


def test_a_refreshed_network_is_a_new_one_in_all_that_is_not_drawn():
    norm = BatchNorm((6,), scale=[0.5] * 6, shift=[2] * 6, mean=[5] * 6, var=[9] * 6)
    net = Network([linear(dense(6, 8), dtype=np.float32), norm, Scaled(6), linear(dense(3, 6), dtype=np.float32)])
    before = net.table.values.tobytes()
    with pytest.raises(PruneError, match=r"^refresh: layer 2, .*: does not say where factor starts: let Scaled have"):
        refresh(net, seed=1)
    assert net.table.values.tobytes() == before
    net.layers[2].starts = {"factor": 1.0}
    refresh(net, seed=1)
    new = BatchNorm((6,))
    for name, array in (*new.params.items(), *new.kept.items()):
        assert np.array_equal({**norm.params, **norm.kept}[name], array), name
    assert net.layers[2].params["factor"] == 1 and not net.layers[0].bias.any() and not net.layers[3].bias.any()


def test_magnitude_of_all_layers_or_some():
    net = network()
    assert list(magnitude(net)) == ["0", "1", "2"] and list(magnitude(net, [1])) == ["1"]


def test_shrinking_by_masks_that_keep_everything_costs_nothing():
    net = network()
    params, version = net.params, net.version
    shrink(net, {k: np.ones(p.nnz, bool) for k, p in net.patterns.items()})
    assert net.params is params and net.version == version
