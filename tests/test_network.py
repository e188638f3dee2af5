"""Networks: layers in a row on one flat array, their gradients, their answers, and what they refuse."""

import copy
import pickle
import threading

import numpy as np
import pytest
from sparsecore.models.lenet300 import lenet300

from sparsecore.data.normalisation import Normalisation
from sparsecore.gradcheck import gradcheck
from sparsecore.layers.layer import Layer
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.relu import ReLU
from sparsecore.network import Network
from sparsecore.runtime.tiles import Labels
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random
from sparsecore.topology.radix import fit_radix_net
from sparsecore.training.losses import CrossEntropy

from .small import FORMATS, linear, matrix_of, network, numbers, refused, tiled, untiled

formats = pytest.mark.parametrize("format", FORMATS)


def by_hand(net, x):
    """Logits in float64, layer by layer."""
    for layer in net.layers:
        if not isinstance(layer, ReLU):
            x = x @ matrix_of(layer).T + layer.bias
        if isinstance(layer, ReLU) or layer.relu:
            x = np.maximum(x, 0)
    return x


# ---------------------------------------------------------------------------------------------- arithmetic


@formats
@pytest.mark.parametrize("batch", [1, 16, 21])
def test_gradients_of_lenet300_are_derivatives(format, batch):
    wiring = fit_radix_net([[10, 10]], (784, 300, 100)).patterns
    net = lenet300(wiring, format=format, dtype=np.float64)
    for layer in net.layers:
        layer.bias[:] = numbers(layer.bias.shape)
    labels = np.random.default_rng(1).integers(0, 10, batch)
    gradcheck(net, numbers((batch, 784)), labels=labels, samples=40)


@pytest.mark.parametrize("separate", [False, True], ids=["fused", "ReLU layers"])
def test_gradients_of_a_small_network_are_derivatives(separate):
    patterns = [
        uniform_random(9, 14, 0.5, np.random.default_rng(0)),
        uniform_random(8, 9, 0.6, np.random.default_rng(1)),
    ]
    layers = []
    for k, pattern in enumerate(patterns):
        layers.append(linear(pattern, seed=k, relu=not separate))
        layers += [ReLU((pattern.shape[0],))] if separate else []
    net = Network([*layers, linear(dense(4, 8), seed=5)])
    gradcheck(net, numbers((19, 14)), labels=np.arange(19) % 4, samples=None)


@pytest.mark.parametrize("dtype, error", [(np.float32, 1e-4), (np.float64, 1e-12)])
@pytest.mark.parametrize("batch", [1, 15, 16, 17, 100])
def test_logits_for_ordinary_arrays(batch, dtype, error):
    net, x = network(dtype=dtype), numbers((batch, 20), 1, dtype)
    wanted = by_hand(net, x)
    for size in (1, 7, 16, 1000):
        got = net.logits(x, batch_size=size)
        assert got.dtype == dtype and got.shape == (batch, 5)
        np.testing.assert_allclose(got, wanted, rtol=error, atol=error)
    assert np.array_equal(net.predict(x), wanted.argmax(axis=1))


def test_logits_take_what_can_be_converted():
    net, x = network(dtype=np.float64), np.random.default_rng(0).integers(0, 5, (9, 20))
    wanted = net.logits(x.astype(np.float64))
    for given in (
        x,
        x.tolist(),
        x.astype(np.float16),
        np.asfortranarray(x),
        x.astype(np.int8),
        np.repeat(x, 2, 1)[:, ::2],
    ):
        assert np.array_equal(net.logits(given), wanted)
    assert net.logits(np.empty((0, 20))).shape == (0, 5) and net.predict(np.empty((0, 20))).shape == (0,)


def test_bytes_are_normalised_as_in_training():
    net, x = network(), np.random.default_rng(0).integers(0, 256, (9, 20), dtype=np.uint8)
    with pytest.raises(ValueError, match="uint8 x needs the network's normalisation"):
        net.logits(x)
    net.normalisation = Normalisation((20,), (0.1,), (0.3,))
    np.testing.assert_allclose(net.logits(x), by_hand(net, (x / 255 - 0.1) / 0.3), rtol=1e-4, atol=1e-4)


def test_padding_reaches_nothing():
    net, x, dy = network(dtype=np.float64), numbers((21, 20), 1), numbers((21, 5), 2)
    outcomes = []
    for padding in (0.0, np.nan, np.inf):
        workspace = Workspace()
        y, caches = net.forward(tiled(x, padding), workspace)
        net.backward(tiled(dy, padding), caches, workspace)
        grads = [workspace.child(k).array(name, array.shape, array.dtype)
                 for k, layer in enumerate(net.layers) for name, array in layer.params.items()]  # fmt: skip
        outcomes.append([untiled(y), *grads])
    for outcome in outcomes[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(outcome, outcomes[0], strict=True))


def test_answers_from_several_threads_at_once():
    net = lenet300()
    xs = [numbers((200, 784), seed, np.float32) for seed in range(3)]
    wanted = [net.logits(x) for x in xs]
    wrong = []

    def ask(k):
        for _ in range(10):
            if not np.array_equal(net.logits(xs[k]), wanted[k]):
                wrong.append(k)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------------------------------------- one flat array


def test_parameters_are_views_of_one_flat_array():
    net = network()
    assert net.params.size == sum(array.size for layer in net.layers for array in layer.params.values())
    x = numbers((3, 20), 0, np.float32)
    before = net.logits(x)
    net.params *= 2
    assert not np.array_equal(net.logits(x), before)
    assert np.array_equal(net.params, np.concatenate([a for layer in net.layers for a in layer.params.values()]))
    for pieces, layer in zip(net.views(net.params).values(), net.layers, strict=True):
        assert all(np.shares_memory(pieces[name], array) for name, array in layer.params.items())


def test_assigning_to_params_copies_values_in():
    """Another array there would be one that no layer reads."""
    net, x = network(), numbers((3, 20), 0, np.float32)
    own, doubled = net.params, net.params * 2
    net.params = doubled
    assert net.params is own and np.array_equal(net.params, doubled)
    assert np.array_equal(net.layers[0].weight, doubled[: net.layers[0].weight.size])
    wanted = Network([linear(layer.pattern, relu=layer.relu, dtype=np.float32) for layer in net.layers])
    wanted.params = doubled.tolist()
    assert np.array_equal(wanted.logits(x), net.logits(x))
    for wrong in (1.0, doubled[1:], doubled[:, None]):
        refused(ValueError, f"Network(20→12→9→5): params must have shape {own.shape}, got {np.shape(wrong)}",
                lambda wrong=wrong: setattr(net, "params", wrong))  # fmt: skip
    assert np.array_equal(net.params, doubled)


def test_flatten_gathers_what_a_layer_has_become():
    net = network()
    before = net.version
    smaller = uniform_random(12, 20, 0.8, np.random.default_rng(9))
    net.layers[0]._set(smaller, np.ones(smaller.nnz, np.float32), np.zeros(12, np.float32))
    net.flatten()
    assert net.version == before + 1
    assert np.array_equal(net.params[: smaller.nnz], np.ones(smaller.nnz))
    assert np.shares_memory(net.layers[0].weight, net.params)


@pytest.mark.parametrize("take_away", ["another network", "an array of its own"])
def test_training_parameters_that_are_no_longer_the_networks_is_refused(take_away):
    """Otherwise the optimizer would change arrays that no layer reads, and the loss would never fall."""
    net = network()
    workspace = Workspace()
    y, caches = net.forward(tiled(numbers((3, 20), 0, np.float32)), workspace)
    gradient = CrossEntropy()(y, Labels.pack([0, 1, 2], 5), workspace)
    net.backward(gradient, caches, workspace)
    if take_away == "another network":
        Network(net.layers)
    else:
        net.layers[1].params["weight"] = net.layers[1].weight.copy()
    whose = r"^layer [01], SparseLinear\(.*\), has parameters that are not Network\(20→12→9→5\)'s: call flatten"
    with pytest.raises(ValueError, match=whose):
        net.backward(gradient, caches, workspace)
    net.flatten()
    net.backward(gradient, caches, workspace)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_a_whole_network_of_its_own(duplicate):
    net = network()
    x = numbers((5, 20), 0, np.float32)
    before = net.logits(x)
    twin = duplicate(net)
    assert np.array_equal(twin.logits(x), before)
    twin.params[:] = 0
    assert not twin.logits(x).any(), "the copy's layers read the copy's flat array"
    assert np.array_equal(net.logits(x), before)


def test_summary_and_sparsity():
    net = network((20, 12, 5))
    lines = net.summary()
    assert [(line.name, line.connections, line.biases) for line in lines] == [
        ("SparseLinear(20→12)", 120, 12), ("SparseLinear(12→5)", 60, 5)
    ]  # fmt: skip
    assert net.connections == 180 and net.sparse == ("0",) and net.sparsity == 0.5
    assert net.global_sparsity == pytest.approx(1 - 180 / 300)
    assert repr(net) == "Network(20→12→5)"


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "layers, message",
    [
        (lambda: [], "a network needs at least one layer"),
        (
            lambda: [SparseLinear(dense(3, 4)), SparseLinear(dense(2, 5))],
            "layer 1, SparseLinear(5→2), takes (5,), but layer 0, SparseLinear(4→3), before it gives (3,)",
        ),
        (
            lambda: [SparseLinear(dense(3, 4)), ReLU((2, 2))],
            "layer 1, ReLU(2×2), takes (2, 2), but layer 0, SparseLinear(4→3), before it gives (3,)",
        ),
        (
            lambda: [linear(dense(3, 3), dtype=np.float32), linear(dense(3, 3), dtype=np.float64)],
            "all layers must have one dtype, got float32, float64",
        ),
        (
            lambda: [SparseLinear(dense(3, 3))] * 2,
            "a layer may appear only once in a network, and SparseLinear(3→3) is both 0 and 1: make a second one with "
            "the same pattern",
        ),
    ],
)
def test_networks_that_cannot_be(layers, message):
    with pytest.raises(ValueError) as caught:
        Network(layers())
    assert str(caught.value) == message


def test_a_network_is_made_of_layers():
    for wrong in (dense(3, 4), np.tanh, None):
        kind = type(wrong).__name__
        refused(TypeError, f"a network is made of Layers, got {kind}", lambda wrong=wrong: Network([ReLU((3,)), wrong]))


def test_wrong_inputs_are_named():
    net = network()
    for x, message in (
        (np.zeros((64, 21)), "Network(20→12→9→5): x must have shape (batch, 20), got (64, 21)"),
        (np.zeros(20), "Network(20→12→9→5): x must have shape (batch, 20), got (20,)"),
        (np.zeros(()), "Network(20→12→9→5): x must have shape (batch, 20), got ()"),
    ):
        with pytest.raises(ValueError) as caught:
            net.logits(x)
        assert str(caught.value) == message
    with pytest.raises(TypeError, match=r"^Network\(20→12→9→5\): x must hold real numbers, got complex128$"):
        net.logits(np.zeros((2, 20), complex))
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {size}$"):
            net.predict(np.zeros((2, 20)), batch_size=size)
    with pytest.raises(
        ValueError, match=r"^SparseLinear\(20→12\): x must have 20 features of float32, got 21 of float32$"
    ):
        net.forward(tiled(np.zeros((3, 21), np.float32)), Workspace())


def test_a_network_of_relu_alone():
    net = Network([ReLU((4,))])
    assert net.params.size == 0 and net.dtype == np.float32 and net.summary() == [] and net.sparsity == 0
    assert np.array_equal(net.logits([[-1, 2, 0, 3]]), [[0, 2, 0, 3]])


def test_a_layer_of_ones_own():
    """Anything that follows the contract of Layer goes into a network."""

    class Scale(Layer):
        def __init__(self, size):
            self.in_shape = self.out_shape = (size,)
            self.params = {"factor": np.full(1, 3.0)}

        def forward_tiles(self, x, workspace):
            y = workspace.array("y", x.data.shape, x.data.dtype)
            np.multiply(x.data, self.params["factor"], out=y)
            return type(x)(y, x.batch), x

        def backward_tiles(self, dy, cache, workspace, *, need_dx=True):
            factor = workspace.array("factor", (1,), dy.data.dtype)
            factor[0] = np.sum(dy.data * cache.data)
            dx = workspace.array("dx", dy.data.shape, dy.data.dtype)
            np.multiply(dy.data, self.params["factor"], out=dx)
            return type(dy)(dx, dy.batch), {"factor": factor}

        def config(self):
            return {}

        @classmethod
        def from_config(cls, config, pattern, params):
            raise NotImplementedError

    gradcheck(Scale(6), numbers((5, 6)))
    pattern = SparsityPattern.full((4, 6))
    net = Network([linear(pattern), Scale(4), linear(dense(3, 4), seed=1, relu=False)])
    gradcheck(net, numbers((19, 6)), labels=np.arange(19) % 3)
