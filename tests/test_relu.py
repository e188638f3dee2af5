"""ReLU, on its own and in the layers before and behind it: every gradient is masked, and none is masked twice."""

import numpy as np
import pytest

from sparsecore.gradcheck import gradcheck
from sparsecore.layers.relu import ReLU
from sparsecore.network import Network
from sparsecore.runtime.tiles import Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import uniform_random

from .small import BATCHES, Counting, linear, matrix_of, numbers, tiled, untiled

MASKED_SPMM = "spmm with mask"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7,), (3, 2, 4), (1,), (0,)])
@pytest.mark.parametrize("batch", [0, *BATCHES])
def test_values_and_gradients(shape, batch, dtype):
    layer = ReLU(shape)
    x, dy = numbers((batch, *shape), 1, dtype), numbers((batch, *shape), 2, dtype)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    assert y.dtype == dx.dtype == dtype and grads == {} and layer.params == {}
    assert np.array_equal(y, np.maximum(x, 0)) and np.array_equal(dx, np.where(x > 0, dy, 0))


def test_gradients_are_derivatives():
    gradcheck(ReLU((5, 2, 3)), numbers((9, 5, 2, 3)), samples=None)


def test_at_zero_and_below_nothing_passes_and_nan_does():
    layer = ReLU((5,))
    y, cache = layer.forward(np.array([[0.0, -0.0, np.nan, -np.inf, np.inf]]))
    assert np.array_equal(y, [[0, 0, np.nan, 0, np.inf]], equal_nan=True)
    assert np.array_equal(layer.backward(np.ones((1, 5)), cache)[0], [[0, 0, 0, 0, 1]])


def test_padding_stays_out_of_what_follows():
    x, layer = numbers((5, 3)), ReLU((3,))
    y, cache = layer.forward(tiled(x, np.nan))
    dx, _ = layer.backward(tiled(x, np.nan), cache)
    assert np.array_equal(untiled(y), np.maximum(x, 0)) and np.array_equal(untiled(dx), np.maximum(x, 0))
    assert not y.data[..., 5:].any() and not dx.data[..., 5:].any()


def test_wrong_arguments_are_refused():
    layer = ReLU((3, 2))
    with pytest.raises(ValueError, match=r"^ReLU\(3×2\): x must have shape \(batch, 3, 2\), got \(4, 5\)$"):
        layer.forward(np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"^ReLU\(3×2\): x must have 6 features of float32, got 5 of float32$"):
        layer.forward(tiled(numbers((4, 5), 0, np.float32)))
    with pytest.raises(ValueError, match=r"^ReLU\(3×2\): x must have 6 features of float32, got 6 of int32$"):
        layer.forward(tiled(np.zeros((4, 6), np.int32)))
    with pytest.raises(ValueError, match=r"^ReLU\(3×2\): x's tiles must be contiguous"):
        layer.forward(Tiles(np.zeros((1, 12, 16), np.float32)[:, ::2], 4))
    y, cache = layer.forward(tiled(numbers((4, 6), 0, np.float32)))
    with pytest.raises(ValueError, match=r"^ReLU\(3×2\): dy must be of the 4 samples that x had, got 20$"):
        layer.backward(tiled(numbers((20, 6), 0, np.float32)), cache)
    with pytest.raises(ValueError, match=r"^ReLU\(3×2\): dy must have 6 features of float32, got 6 of float64$"):
        layer.backward(np.zeros((4, 6)), cache)
    assert isinstance(y, Tiles)


# ---------------------------------------------------------------------------------------------- compositions


def layers(spelling):
    """`F`: a layer with ReLU, `L`: one without, `R`: a ReLU of its own; all 12 → 12."""
    made = []
    for k, letter in enumerate(spelling):
        pattern = uniform_random(12, 12, 0.5, np.random.default_rng(k))
        made.append(ReLU((12,)) if letter == "R" else linear(pattern, seed=k, relu=letter == "F"))
    return made


def expected(chain, x, dy):
    """Output, dx and weight gradients by plain arithmetic, every ReLU a step of its own."""
    inputs, masks = [], []
    for layer in chain:
        inputs.append(x)
        z = x if isinstance(layer, ReLU) else x @ matrix_of(layer).T + layer.bias
        rectifies = isinstance(layer, ReLU) or layer.relu
        masks.append(z > 0 if rectifies else np.ones(z.shape, bool))
        x = np.where(masks[-1], z, 0)
    output, weights = x, []
    for layer, before, mask in zip(chain[::-1], inputs[::-1], masks[::-1], strict=True):
        dy = dy * mask
        if not isinstance(layer, ReLU):
            weights.insert(0, (dy.T @ before)[layer.pattern.rows, layer.pattern.indices])
            dy = dy @ matrix_of(layer)
    return output, dy, weights


# How often a gradient is masked on the way back: by a kernel of its own ("mask"), or in the spmm of the layer behind.
COMPOSITIONS = {
    "F": (1, 0), "R": (1, 0), "L": (0, 0), "FL": (0, 1), "FF": (1, 1), "LRL": (0, 1), "FRL": (0, 1), "RL": (0, 1),
    "RF": (1, 1), "LR": (1, 0), "LRF": (1, 1), "FFL": (0, 2), "FFF": (1, 2), "LL": (0, 0), "LRFL": (0, 2),
    "FR": (1, 0), "RR": (1, 0), "FRR": (1, 0), "RRL": (0, 1), "FRF": (1, 1),
}  # fmt: skip


@pytest.mark.parametrize("spelling", COMPOSITIONS)
@pytest.mark.parametrize("way", ["tiles", "arrays", "dy as an array", "network"])
def test_every_composition(spelling, way):
    chain, x, dy = layers(spelling), numbers((21, 12), 7), numbers((21, 12), 8)
    output, dx_wanted, weights_wanted = expected(chain, x, dy)
    kernels = Counting()
    workspace = Workspace(kernels=kernels)
    caches, weights, y, slope = [], [], x if way == "arrays" else tiled(x), dy if "array" in way else tiled(dy)
    if way == "network":
        network = Network(chain)
        y, caches = network.forward(y, workspace)
        network.backward(slope, caches, workspace)
        weights = [workspace.child(k).array("weight", layer.weight.shape, np.float64)
                   for k, layer in enumerate(chain) if not isinstance(layer, ReLU)]  # fmt: skip
        slope = None
    else:
        for layer in chain:
            y, cache = layer.forward(y, workspace)
            caches.append(cache)
        for layer, cache in zip(chain[::-1], caches[::-1], strict=True):
            slope, grads = layer.backward(slope, cache, workspace)
            if "weight" in grads:
                weights.insert(0, grads["weight"].copy())
    np.testing.assert_allclose(untiled(y) if isinstance(y, Tiles) else y, output, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(weights, weights_wanted, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)
    if slope is not None:
        got = untiled(slope) if isinstance(slope, Tiles) else slope
        np.testing.assert_allclose(got, dx_wanted, rtol=1e-11, atol=1e-11)
    if way == "tiles":
        assert (kernels.calls.count("mask"), kernels.calls.count(MASKED_SPMM)) == COMPOSITIONS[spelling]


def test_two_layers_that_read_one_rectified_output():
    """Each masks what it sends back; their sum is masked, and the layer in front does not mask it again."""
    front, left, right = layers("FLL")
    x, dys = numbers((21, 12), 7), [numbers((21, 12), seed) for seed in (8, 9)]
    workspace = Workspace()
    hidden, cache = front.forward(tiled(x), workspace)
    slopes = []
    for layer, dy in zip((left, right), dys, strict=True):
        _, its_cache = layer.forward(hidden, workspace)
        slopes.append(layer.backward(tiled(dy), its_cache, workspace)[0])
    assert all(slope.masked for slope in slopes)
    both = Tiles(slopes[0].data + slopes[1].data, 21, masked=True)
    dx, _ = front.backward(both, cache, workspace)
    mask = x @ matrix_of(front).T + front.bias > 0
    wanted = ((dys[0] @ matrix_of(left) + dys[1] @ matrix_of(right)) * mask) @ matrix_of(front)
    np.testing.assert_allclose(untiled(dx), wanted, rtol=1e-11, atol=1e-11)
