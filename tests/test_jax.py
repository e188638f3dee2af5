"""A layer as JAX's function: the same values and gradients as JAX's own dense operations, under its transformations."""

import numpy as np
import pytest

pytest.importorskip("jax", reason="needs JAX: pip install 'sparsecore[jax]'")

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

from sparsecore.interop.jax import as_function
from sparsecore.layers import SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.topology import uniform_random

from .small import numbers

LAYER = SparseLinear(uniform_random(30, 50, 0.8, np.random.default_rng(0)), rng=np.random.default_rng(1))
CONV = SparseConv2d(uniform_random(4, 2 * 9, 0.5, np.random.default_rng(0)), (2, 7, 6), 3, padding=1)
ROWS, COLUMNS = LAYER.pattern.rows, LAYER.pattern.indices


def dense(x, weight, bias):
    return x.astype(weight.dtype) @ jnp.zeros((30, 50), weight.dtype).at[ROWS, COLUMNS].set(weight).T + bias


def convolved(x, weight, bias):
    filters = jnp.zeros(CONV.pattern.shape).at[CONV.pattern.rows, CONV.pattern.indices].set(weight).reshape(4, 2, 3, 3)
    return jax.lax.conv(x, filters, (1, 1), "SAME") + bias[:, None, None]


def arguments(layer, batch=17):
    shapes = (batch, *layer.in_shape), layer.weight.shape, layer.bias.shape
    return [jnp.asarray(numbers(shape, k, np.float32)) for k, shape in enumerate(shapes)]


def loss_of(f):
    return lambda *given: jnp.sum(jnp.sin(f(*given)))


def near(found, expected):
    for each, one in zip(found, expected, strict=True):
        assert each.dtype == one.dtype
        np.testing.assert_allclose(each, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer, plain", [(LAYER, dense), (CONV, convolved)], ids=["linear", "conv"])
@pytest.mark.parametrize("batch", [0, 1, 17])
def test_values_and_gradients_are_those_of_dense_operations(layer, plain, batch):
    f, given = as_function(layer), arguments(layer, batch)
    near([f(*given)], [plain(*given)])
    expected = jax.grad(loss_of(plain), (0, 1, 2))(*given)
    near(jax.grad(loss_of(f), (0, 1, 2))(*given), expected)
    near(jax.jit(jax.grad(loss_of(f), (0, 1, 2)))(*given), expected)


def test_gradients_against_differences():
    check_grads(as_function(LAYER), arguments(LAYER), order=1, modes=["rev"], atol=0.05, rtol=0.05)


def test_maps_and_loops():
    f, (x, weight, bias) = as_function(LAYER), arguments(LAYER)
    xs, weights = jnp.stack([x, 2 * x, -x]), jnp.stack([weight, weight + 1, weight - 1])
    near(jax.vmap(f, (0, 0, None))(xs, weights, bias), jax.vmap(dense, (0, 0, None))(xs, weights, bias))

    def descend(f):
        def step(weight, _):
            return weight - 0.01 * jax.grad(loss_of(f), 1)(x, weight, bias), None

        return jax.lax.scan(step, weight, None, length=5)[0]

    near([jax.jit(lambda: descend(f))()], [descend(dense)])


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_16_bits_are_widened_and_their_gradient_narrowed(kind):
    f, (x, weight, bias) = as_function(LAYER), arguments(LAYER)
    x = x.astype(kind)
    y, dx = f(x, weight, bias), jax.grad(loss_of(f))(x, weight, bias)
    assert (y.dtype, dx.dtype) == (jnp.float32, kind)
    near([y], [dense(x, weight, bias)])


def test_float64():
    with jax.enable_x64(True):
        given = [jnp.asarray(numbers(shape, k)) for k, shape in enumerate([(5, 50), LAYER.weight.shape, (30,)])]
        found, expected = (jax.grad(loss_of(each), (0, 1, 2))(*given) for each in (as_function(LAYER), dense))
        for each, one in zip(found, expected, strict=True):
            assert each.dtype == np.float64
            np.testing.assert_allclose(each, one, rtol=1e-10, atol=1e-12)


def test_large_arrays_do_not_wait_for_each_other():
    layer = SparseLinear(uniform_random(500, 1000, 0.9, np.random.default_rng(0)))
    f, x = jax.jit(jax.value_and_grad(loss_of(as_function(layer)), 1)), jnp.ones((512, 1000))
    for _ in range(5):
        value, slope = f(x, jnp.asarray(layer.weight), jnp.asarray(layer.bias))
    assert np.isfinite(value) and slope.shape == layer.weight.shape


def test_what_is_refused():
    f, (x, weight, bias) = as_function(LAYER), arguments(LAYER)
    for wrong, words in (
        ((x[:, :9], weight, bias), r"x must have shape \(17, 50\), got \(17, 9\)"),
        ((x, weight[1:], bias), "weight must have shape"), ((x, weight, bias[1:]), "bias must have shape"),
        ((x[0, 0], weight, bias), "x must have shape"),
        ((x[0], weight, bias), r"x must have shape \(batch, 50\), got \(50,\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            f(*wrong)
    with pytest.raises(TypeError, match="must be float32 or float64, got int32"):
        f(x, weight.astype(int), bias)
    with pytest.raises(ValueError, match="must have no ReLU"):
        as_function(SparseLinear(LAYER.pattern, relu=True))


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("stays", [False, True])
def test_a_function_keeps_the_connections_that_its_layer_had(conv, stays):
    pattern = (CONV if conv else LAYER).pattern
    layer = SparseConv2d(pattern, (2, 7, 6), 3, padding=1) if conv else SparseLinear(pattern)
    net = Network([layer])
    f, given = as_function(layer), arguments(layer)
    compiled, expected = jax.jit(jax.grad(loss_of(f), (0, 1, 2))), jax.grad(loss_of(f), (0, 1, 2))(*given)
    compiled(*given)
    y, pull = jax.vjp(f, *given)
    if stays:  # the plan is patched in place
        layer.forward(np.asarray(given[0]))
        for seed in (5, 6):
            net.rewire({"0": uniform_random(*pattern.shape, pattern.sparsity, np.random.default_rng(seed))})
        assert layer.pattern.nnz == pattern.nnz
    else:
        net.rewire({"0": pattern.select(np.arange(pattern.nnz) % 3 == 0)})
    near(pull(jnp.cos(y)), expected)
    near(compiled(*given), expected)
    near(jax.grad(loss_of(f), (0, 1, 2))(*given), expected)
    assert as_function(layer)(given[0], jnp.asarray(layer.weight), given[2]).shape == y.shape


def test_a_layer_without_a_bias():
    layer = SparseLinear(LAYER.pattern, weight=LAYER.weight, bias=False)
    f, (x, weight, bias) = as_function(layer), arguments(LAYER)
    assert layer.bias is None
    near([f(x, weight, layer.bias)], [dense(x, weight, 0 * bias)])
    dx, dw, db = jax.grad(loss_of(f), (0, 1, 2))(x, weight, None)
    near([dx, dw], jax.grad(loss_of(dense), (0, 1))(x, weight, 0 * bias))
    assert db is None
