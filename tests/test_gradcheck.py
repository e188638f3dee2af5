"""The gradient check itself: it passes what is right, finds what is wrong, and says where."""

import numpy as np
import pytest

from sparsecore.gradcheck import GradCheck, GradientError, gradcheck
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.relu import ReLU
from sparsecore.network import Network
from sparsecore.topology import dense

from .small import PATTERNS, linear, network, numbers, refused


class Wrong(SparseLinear):
    """A layer whose gradients can be spoilt."""

    spoil = staticmethod(lambda dx, grads: (dx, grads))

    def backward_tiles(self, dy, cache, workspace, *, need_dx=True):
        return self.spoil(*super().backward_tiles(dy, cache, workspace, need_dx=need_dx))


def wrong(spoil, dtype=np.float64):
    layer = linear(PATTERNS["random"])
    layer = Wrong(layer.pattern, layer.weight, layer.bias, dtype=dtype)
    layer.spoil = spoil
    return layer


def change(name, at, by):
    def spoil(dx, grads):
        if name == "x":
            dx.data[at[0] // 16, at[1], at[0] % 16] += by
        else:
            grads[name][at] += by
        return dx, grads

    return spoil


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_right_passes_with_room_to_spare(dtype):
    report = gradcheck(linear(PATTERNS["random"], dtype=dtype, relu=True), numbers((9, 50)), samples=None)
    assert isinstance(report, GradCheck) and 0 < report.error < 1e-7
    assert report.checked == 9 * 50 + PATTERNS["random"].nnz + 29
    assert report.gradient == pytest.approx(report.difference, rel=1e-5, abs=1e-8)
    assert report.where.startswith(("x[", "weight[", "bias["))


@pytest.mark.parametrize(
    "name, at, where", [("weight", 17, "weight[17]"), ("bias", 3, "bias[3]"), ("x", (5, 11), "x[5, 11]")]
)
@pytest.mark.parametrize("by", [1e-3, -5.0, np.nan, np.inf])
def test_one_wrong_number_is_found_and_named(name, at, where, by):
    with pytest.raises(GradientError) as caught:
        gradcheck(wrong(change(name, at, by)), numbers((9, 50)), samples=None)
    message = str(caught.value)
    assert (
        message.startswith("SparseLinear(50→29): backward gives ") and f" for {where}, central differences " in message
    )
    assert "allowed 1e-05" in message and "\n" not in message
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda dx, grads: (dx, {name: 0 * array for name, array in grads.items()}),
        lambda dx, grads: (dx, {name: 2 * array for name, array in grads.items()}),
        lambda dx, grads: (dx, {name: -array for name, array in grads.items()}),
        lambda dx, grads: (dx, {name: array[::-1] for name, array in grads.items()}),
    ],
    ids=["zero", "twice", "negative", "reversed"],
)
@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_gradients_that_are_wrong_throughout(spoil, scale):
    with pytest.raises(GradientError):
        gradcheck(wrong(spoil), numbers((9, 50)) * scale, samples=20)


def test_missing_and_misshapen_gradients():
    with pytest.raises(GradientError, match=r"^SparseLinear\(50→29\): backward gives no gradient of bias$"):
        gradcheck(wrong(lambda dx, grads: (dx, {"weight": grads["weight"]})), numbers((9, 50)))
    with pytest.raises(GradientError, match=r"gradient of bias has shape \(28,\), but bias \(29,\)$"):
        gradcheck(wrong(lambda dx, grads: (dx, grads | {"bias": grads["bias"][1:]})), numbers((9, 50)))


def test_a_networks_wrong_layer_is_named():
    head = linear(dense(4, 29), seed=1)
    labels = np.arange(9) % 4
    gradcheck(Network([wrong(lambda dx, grads: (dx, grads)), head]), numbers((9, 50)), labels=labels, samples=30)
    bad = Network([wrong(change("weight", 17, 0.1)), linear(dense(4, 29), seed=1)])
    with pytest.raises(GradientError, match=r"for layer 0 SparseLinear\(50→29\) weight\[17\], central differences"):
        gradcheck(bad, numbers((9, 50)), labels=labels, samples=None)


def test_a_layer_that_does_not_write_into_the_workspace_is_found():
    """In a network only what is written there reaches the optimizer."""
    absent = wrong(lambda dx, grads: (dx, grads))
    original = absent.backward_tiles

    def elsewhere(dy, cache, workspace, *, need_dx=True):
        return original(dy, cache, workspace.child("elsewhere"), need_dx=need_dx)

    absent.backward_tiles = elsewhere
    with pytest.raises(GradientError, match="backward gives nan for layer 0"):
        gradcheck(Network([absent, linear(dense(4, 29), seed=1)]), numbers((9, 50)), labels=np.arange(9) % 4, samples=3)


def test_nothing_of_the_users_changes():
    net, x, labels = network(), numbers((9, 20), 0, np.float32), np.arange(9) % 5
    before, x_before, version = net.params.copy(), x.copy(), net.version
    arrays = [id(array) for layer in net.layers for array in layer.params.values()]
    gradcheck(net, x, labels=labels, samples=10)
    gradcheck(net.layers[0], x, samples=10)
    assert net.dtype == np.float32 and net.version == version
    assert np.array_equal(net.params, before) and np.array_equal(x, x_before)
    assert [id(array) for layer in net.layers for array in layer.params.values()] == arrays


def test_the_seed_decides_which_coordinates_are_looked_at():
    layer, x = linear(PATTERNS["random"], relu=True), numbers((9, 50))
    assert gradcheck(layer, x, samples=7) == gradcheck(layer, x, samples=7)
    assert gradcheck(layer, x, samples=7).checked == 21
    assert gradcheck(layer, x, samples=7) != gradcheck(layer, x, samples=7, seed=1)


def test_a_kink_nearby_is_not_a_mistake_and_a_kink_itself_is():
    x = np.array([[3e-6, -3e-6, 1.0, -1.0]])
    gradcheck(ReLU((4,)), x)
    with pytest.raises(GradientError, match=r"for x\[0, 1\]"):
        gradcheck(ReLU((2,)), np.array([[1.0, 0.0]]))


def test_wrong_arguments_are_refused():
    layer, net, x = linear(PATTERNS["random"]), network(), numbers((9, 50))
    good = numbers((9, 20))
    for message, call in {
        "gradcheck: a network is checked through its loss, which needs labels": lambda: gradcheck(net, good),
        "gradcheck: labels are for networks, and this is a layer": lambda: gradcheck(layer, x, labels=[0]),
        "gradcheck: eps must be more than 0, got 0": lambda: gradcheck(layer, x, eps=0),
        "gradcheck: rtol must be more than 0, got -1": lambda: gradcheck(layer, x, rtol=-1),
        "gradcheck: samples must be more than 0, got 0": lambda: gradcheck(layer, x, samples=0),
        "SparseLinear(50→29): x must have shape (batch, 50), got (9, 3)": lambda: gradcheck(layer, x[:, :3]),
        "SparseLinear(20→12): x must have shape (batch, 20), got (9, 50)": lambda: gradcheck(net, x, labels=[0] * 9),
        "labels must be at least 0 and below 5, got 5 at position 8": lambda: gradcheck(
            net, good, labels=[0] * 8 + [5]
        ),
        "logits of 9 samples and 5 classes do not go with labels of 2 samples and 5 classes": lambda: gradcheck(
            net, good, labels=[1, 2]
        ),
        "gradcheck: ReLU(4) and x hold no number to differentiate by": lambda: gradcheck(ReLU((4,)), np.empty((0, 4))),
    }.items():
        refused(ValueError, message, call)
    refused(TypeError, "gradcheck: a Layer or a Network is needed, got ufunc", lambda: gradcheck(np.tanh, x))
