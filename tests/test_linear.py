"""SparseLinear: arithmetic and gradients over patterns of every kind, its two ways in and out, and what it refuses."""

import copy
import pickle
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.gradcheck import gradcheck
from sparsecore.layers.linear import SparseLinear
from sparsecore.runtime.tiles import LANES, Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random

from .small import BATCHES, FORMATS, PATTERNS, linear, matrix_of, numbers, pattern_of, refused, tiled, untiled

patterns = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
formats = pytest.mark.parametrize("format", FORMATS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])

CLOSE = {np.float32: {"rtol": 1e-4, "atol": 1e-4}, np.float64: {"rtol": 1e-11, "atol": 1e-11}}


# ---------------------------------------------------------------------------------------------- arithmetic


@patterns
@formats
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_are_derivatives(pattern, format, relu):
    layer = linear(pattern, format=format, relu=relu)
    for batch in BATCHES:
        gradcheck(layer, numbers((batch, layer.in_features), batch), samples=25)


@formats
@given(data=st.data())
@settings(max_examples=60)
def test_any_layer_is_its_matrix(data, format):
    """Forward and backward against dense arithmetic in float64, and the adjoint identity ⟨Wx, y⟩ = ⟨x, Wᵀy⟩."""
    rows, columns = data.draw(st.integers(1, 40), "rows"), data.draw(st.integers(1, 40), "columns")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    kept = rng.random((rows, columns)) < data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]), "kept")
    if data.draw(st.booleans(), "rows that share columns"):
        kept = kept[rng.integers(0, rows, rows)]
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
    batch = data.draw(st.sampled_from([1, 2, 15, 16, 17, 31, 50, 64, 65, 129]), "batch")
    layer = linear(pattern_of(kept), seed=int(rng.integers(2**32)), dtype=dtype, format=format)
    x, dy = (rng.standard_normal((batch, n)).astype(dtype) for n in (columns, rows))
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    matrix, bias = matrix_of(layer), layer.bias.astype(np.float64)
    close = {"rtol": CLOSE[dtype]["rtol"], "atol": CLOSE[dtype]["atol"] * np.sqrt(batch)}
    np.testing.assert_allclose(y, x @ matrix.T + bias, **close)
    np.testing.assert_allclose(dx, dy @ matrix, **close)
    row, column = layer.pattern.rows, layer.pattern.indices
    np.testing.assert_allclose(grads["weight"], (dy.astype(np.float64).T @ x)[row, column], **close)
    np.testing.assert_allclose(grads["bias"], dy.sum(axis=0, dtype=np.float64), **close)
    left, right = np.sum((y - layer.bias) * dy, dtype=np.float64), np.sum(x * dx, dtype=np.float64)
    assert left == pytest.approx(right, rel=1e-3, abs=1e-3 if dtype == np.float32 else 1e-9)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (10, 100), (300, 784), (33, 5)])
def test_a_full_pattern_is_plain_matrix_arithmetic(shape, dtype):
    layer = linear(dense(*shape), dtype=dtype)
    weights = layer.weight.reshape(shape).astype(np.float64)
    x, dy = numbers((50, shape[1]), 1, dtype), numbers((50, shape[0]), 2, dtype)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    error = {"rtol": 1e-4, "atol": 1e-3} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(y, x @ weights.T + layer.bias, **error)
    np.testing.assert_allclose(dx, dy @ weights, **error)
    np.testing.assert_allclose(grads["weight"].reshape(shape), dy.T.astype(np.float64) @ x, **error)
    np.testing.assert_allclose(grads["bias"], dy.sum(axis=0), **error)


@patterns
@formats
@dtypes
@pytest.mark.parametrize("batch", BATCHES)
def test_a_fused_relu_is_the_relu_afterwards(pattern, format, dtype, batch):
    plain = linear(pattern, dtype=dtype, format=format)
    fused = linear(pattern, dtype=dtype, format=format, relu=True)
    x, dy = numbers((batch, plain.in_features), 3, dtype), numbers((batch, plain.out_features), 4, dtype)
    z, plain_cache = plain.forward(x)
    y, fused_cache = fused.forward(x)
    assert np.array_equal(y, np.maximum(z, 0))
    wanted = plain.backward(np.where(z > 0, dy, 0), plain_cache)
    got = fused.backward(dy, fused_cache)
    assert np.array_equal(got[0], wanted[0])
    assert all(np.array_equal(got[1][name], wanted[1][name]) for name in ("weight", "bias"))


def test_large_sums_and_many_tiles():
    """Enough of both to be cut into parts for several threads."""
    layer = linear(uniform_random(700, 3000, 0.9, np.random.default_rng(0)), dtype=np.float32)
    x, dy = numbers((530, 3000), 1, np.float32), numbers((530, 700), 2, np.float32)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    matrix = matrix_of(layer)
    np.testing.assert_allclose(y, x @ matrix.T + layer.bias, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(dx, dy @ matrix, rtol=1e-4, atol=1e-3)
    wanted = (dy.T.astype(np.float64) @ x)[layer.pattern.rows, layer.pattern.indices]
    np.testing.assert_allclose(grads["weight"], wanted, rtol=1e-4, atol=1e-3)


# ---------------------------------------------------------------------------------------------- in and out


@patterns
@formats
@pytest.mark.parametrize("batch", BATCHES)
def test_tiles_in_tiles_out_and_arrays_in_arrays_out_are_the_same(pattern, format, batch):
    layer = linear(pattern, relu=True, format=format)
    x, dy = numbers((batch, layer.in_features), 1), numbers((batch, layer.out_features), 2)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    tiles, tile_cache = layer.forward(tiled(x))
    assert isinstance(tiles, Tiles) and tiles.rectified and tiles.batch == batch
    assert tiles.data.ctypes.data % 64 == 0
    tile_dx, tile_grads = layer.backward(tiled(dy), tile_cache)
    assert np.array_equal(untiled(tiles), y) and np.array_equal(untiled(tile_dx), dx)
    assert all(np.array_equal(tile_grads[name], grads[name]) for name in grads)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
        lambda x: x.astype(">f8"),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(x.shape),  # unaligned
    ],
    ids=["lists", "Fortran order", "strided", "reversed", "big-endian", "unaligned"],
)
def test_x_may_lie_in_memory_as_it_likes(convert):
    layer = linear(PATTERNS["random"])
    x = numbers((20, layer.in_features))
    assert np.array_equal(layer.forward(convert(x))[0], layer.forward(x)[0])


@pytest.mark.parametrize("kind", [np.float16, np.int8, np.uint8, np.int64, np.bool_])
@dtypes
def test_other_numbers_are_converted(kind, dtype):
    layer = linear(PATTERNS["random"], dtype=dtype)
    x = np.random.default_rng(0).integers(0, 2, (9, layer.in_features)).astype(kind)
    y, _ = layer.forward(x)
    assert y.dtype == dtype and np.array_equal(y, layer.forward(x.astype(dtype))[0])


def test_images_may_come_as_images():
    layer = linear(dense(4, 12))
    x = numbers((7, 12))
    flat = layer.forward(x)[0]
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 12\), got \(7, 3, 2, 2\)"):
        layer.forward(x.reshape(7, 3, 2, 2))
    image = tiled(x)
    image = Tiles(image.data.reshape(1, 3, 2, 2, LANES), 7)
    y, cache = layer.forward(image)
    assert np.array_equal(untiled(y), flat)
    assert layer.backward(y, cache)[0].data.shape == image.data.shape


def test_a_result_for_arrays_is_the_callers_to_keep():
    layer, workspace = linear(PATTERNS["random"]), Workspace()
    first, _ = layer.forward(numbers((5, 50), 1), workspace)
    kept = first.copy()
    layer.forward(numbers((5, 50), 2), workspace)
    assert np.array_equal(first, kept)


@patterns
@formats
def test_a_batch_of_none(pattern, format):
    layer, workspace = linear(pattern, format=format, relu=True), Workspace()
    layer.backward(*layer.forward(numbers((3, layer.in_features)), workspace), workspace)  # leaves numbers behind
    y, cache = layer.forward(np.empty((0, layer.in_features)), workspace)
    dx, grads = layer.backward(np.empty((0, layer.out_features)), cache, workspace)
    assert y.shape == (0, layer.out_features) and dx.shape == (0, layer.in_features)
    assert not grads["weight"].any() and not grads["bias"].any()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
@formats
def test_layers_without_inputs_or_outputs(shape, format):
    layer = linear(SparsityPattern(shape, np.zeros(shape[0] + 1, np.int64), []), format=format)
    for batch in (0, 1, 17):
        y, cache = layer.forward(np.ones((batch, shape[1])))
        dx, grads = layer.backward(np.ones((batch, shape[0])), cache)
        assert np.array_equal(y, np.broadcast_to(layer.bias, (batch, shape[0])))
        assert dx.shape == (batch, shape[1]) and not dx.any()
        assert grads["weight"].shape == (0,) and np.array_equal(grads["bias"], np.full(shape[0], batch))


# ---------------------------------------------------------------------------------------------- NaN and padding


@patterns
@formats
@dtypes
def test_padding_reaches_nothing(pattern, format, dtype):
    """Lanes past the batch hold NaN or infinity, in x and in dy."""
    layer = linear(pattern, format=format, dtype=dtype, relu=True)
    x, dy = numbers((21, layer.in_features), 1, dtype), numbers((21, layer.out_features), 2, dtype)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    for poison in (np.nan, np.inf, -np.inf):
        got, cache = layer.forward(tiled(x, poison))
        assert np.array_equal(untiled(got), y)
        got_dx, got_grads = layer.backward(tiled(dy, poison), cache)
        assert np.array_equal(untiled(got_dx), dx)
        assert all(np.array_equal(got_grads[name], grads[name]) for name in grads)


@formats
def test_nan_goes_where_arithmetic_takes_it_and_nowhere_else(format):
    layer = linear(PATTERNS["random"], format=format, relu=True)
    x = numbers((20, layer.in_features))
    clean, _ = layer.forward(x)
    x[3, 11] = np.nan
    y, cache = layer.forward(x)
    reads_it = layer.to_scipy().toarray()[:, 11] != 0
    assert reads_it.any() and not reads_it.all()
    assert np.isnan(y[3, reads_it]).all(), "ReLU lets NaN through"
    assert np.array_equal(np.delete(y, 3, axis=0), np.delete(clean, 3, axis=0))
    assert np.array_equal(y[3, ~reads_it], clean[3, ~reads_it])
    _, grads = layer.backward(np.ones_like(y), cache)
    assert np.array_equal(np.isnan(grads["weight"]), layer.pattern.indices == 11)


# ---------------------------------------------------------------------------------------------- use


def run(layer, x, dy, workspace):
    y, cache = layer.forward(tiled(x), workspace)
    dx, grads = layer.backward(tiled(dy), cache, workspace)
    return untiled(y), untiled(dx), grads["weight"].copy(), grads["bias"].copy()


def equal(a, b):
    return all(np.array_equal(left, right) for left, right in zip(a, b, strict=True))


@formats
def test_one_layer_in_two_workspaces(format):
    layer = linear(PATTERNS["random"], relu=True, format=format)
    xs, dys = [numbers((33, 50), seed) for seed in (1, 2)], [numbers((33, 29), seed) for seed in (3, 4)]
    wanted = [run(layer, x, dy, Workspace()) for x, dy in zip(xs, dys, strict=True)]
    workspaces = [Workspace(), Workspace()]
    forwards = [layer.forward(tiled(x), workspace) for x, workspace in zip(xs, workspaces, strict=True)]
    backwards = [
        layer.backward(tiled(dy), cache, workspace)
        for dy, (_, cache), workspace in zip(dys, forwards, workspaces, strict=True)
    ]
    for (y, _), (dx, grads), one in zip(forwards, backwards, wanted, strict=True):
        assert equal((untiled(y), untiled(dx), grads["weight"], grads["bias"]), one)


@formats
@pytest.mark.parametrize("size", [40, 1500], ids=["small", "cut into parts"])
def test_one_layer_from_two_python_threads(size, format):
    """Both begin on a layer whose plan is not made yet."""
    pattern = uniform_random(size, size, 0.9, np.random.default_rng(0))
    cases = [(numbers((33, size), seed), numbers((33, size), seed + 10)) for seed in range(4)]
    wanted = [run(linear(pattern, relu=True, format=format), x, dy, Workspace()) for x, dy in cases]
    layer, start, wrong = linear(pattern, relu=True, format=format), threading.Barrier(2), []

    def work(mine):
        workspace = Workspace()
        start.wait()
        for _ in range(10):
            for k in mine:
                if not equal(run(layer, *cases[k], workspace), wanted[k]):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ((0, 1, 2), (3, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@formats
def test_one_workspace_serves_many_layers(format):
    """Layers of one shape follow each other in one workspace, and none writes over another's arrays."""
    layers = [linear(uniform_random(30, 30, 0.5, np.random.default_rng(k)), seed=k, relu=True, format=format)
              for k in range(3)]  # fmt: skip
    x, dy, workspace = numbers((20, 30), 1), numbers((20, 30), 2), Workspace()
    y, caches = tiled(x), []
    for layer in layers:
        y, cache = layer.forward(y, workspace)
        caches.append(cache)
    grad, weights = tiled(dy), []
    for layer, cache in zip(layers[::-1], caches[::-1], strict=True):
        grad, grads = layer.backward(grad, cache, workspace)
        weights.insert(0, grads["weight"])
    zs, hidden = [], x
    for layer in layers:
        zs.append(hidden @ matrix_of(layer).T + layer.bias)
        hidden = np.maximum(zs[-1], 0)
    np.testing.assert_allclose(untiled(y), hidden, rtol=1e-12, atol=1e-12)
    slope = dy
    for k in (2, 1, 0):
        slope = np.where(zs[k] > 0, slope, 0)
        below = np.maximum(zs[k - 1], 0) if k else x
        pattern = layers[k].pattern
        np.testing.assert_allclose(weights[k], (slope.T @ below)[pattern.rows, pattern.indices], rtol=1e-11, atol=1e-11)
        slope = slope @ matrix_of(layers[k])
    np.testing.assert_allclose(untiled(grad), slope, rtol=1e-11, atol=1e-11)


def test_a_layer_applied_to_its_own_output_needs_a_second_workspace():
    layer, workspace = linear(pattern_of(np.eye(8))), Workspace()
    y, _ = layer.forward(tiled(numbers((3, 8))), workspace)
    with pytest.raises(ValueError, match=r"SparseLinear\(8→8\): x is this layer's last output in the same workspace"):
        layer.forward(y, workspace)
    wanted = matrix_of(layer) @ untiled(y).T
    assert np.allclose(untiled(layer.forward(y, Workspace())[0]), wanted.T + layer.bias)


@formats
def test_a_second_step_of_the_same_shape_allocates_nothing(format):
    layer, workspace = (
        linear(uniform_random(300, 400, 0.5, np.random.default_rng(0)), format=format, relu=True),
        Workspace(),
    )
    x, dy = tiled(numbers((64, 400), 1)), tiled(numbers((64, 300), 2))

    def step():
        y, cache = layer.forward(x, workspace)
        dx, grads = layer.backward(dy, cache, workspace)
        return y.data, dx.data, grads["weight"], grads["bias"]

    first, size = step(), workspace.nbytes
    tracemalloc.start()
    try:
        again = step()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        step()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert workspace.nbytes == size
    assert peak < 30_000, "a few words for each call, and no array of the layer's or the batch's size"


def test_gradients_are_overwritten():
    layer, workspace = linear(PATTERNS["empty rows and columns"]), Workspace()
    x, dy = numbers((5, 19), 1), numbers((5, 13), 2)
    _, cache = layer.forward(x, workspace)
    _, grads = layer.backward(dy, cache, workspace)
    once = {name: array.copy() for name, array in grads.items()}
    grads["weight"].fill(np.nan), grads["bias"].fill(np.nan)
    _, grads = layer.backward(dy, cache, workspace)
    assert grads.keys() == layer.params.keys() == once.keys()
    assert all(np.array_equal(grads[name], once[name]) for name in once)


def test_without_dx_it_is_not_computed():
    layer = linear(PATTERNS["random"])
    y, cache = layer.forward(numbers((5, 50)))
    dx, grads = layer.backward(y, cache, need_dx=False)
    assert dx is None and np.array_equal(grads["weight"], layer.backward(y, cache)[1]["weight"])
    assert "transposed" not in vars(linear(PATTERNS["random"]).plan), "nor its plan made before it is needed"


# ---------------------------------------------------------------------------------------------- values


def test_the_callers_arrays_may_change_afterwards():
    indptr, indices = np.array([0, 2, 3]), np.array([0, 2, 1])
    weight, bias = np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.5])
    layer = SparseLinear(SparsityPattern((2, 3), indptr, indices), weight, bias, dtype=np.float64)
    x = np.array([[1.0, 10.0, 100.0]])
    wanted = [[201.5, 29.5]]
    assert np.array_equal(layer.forward(x)[0], wanted)
    for array in (indptr, indices, weight, bias):
        array[:] = 10**6
    assert np.array_equal(layer.forward(x)[0], wanted)
    fresh = SparseLinear(SparsityPattern((2, 3), [0, 2, 3], [0, 2, 1]), [1, 2, 3], [0.5, -0.5], dtype=np.float64)
    assert np.array_equal(fresh.forward(x)[0], wanted)


def test_values_changed_in_place_count_at_once():
    layer, workspace = linear(dense(3, 4)), Workspace()
    x = np.ones((2, 4))
    _, cache = layer.forward(x, workspace)
    layer.weight[:] = 1
    layer.bias[:] = 0
    assert np.array_equal(layer.forward(x, workspace)[0], np.full((2, 3), 4.0))
    assert np.array_equal(layer.backward(np.ones((2, 3)), cache, workspace)[0], np.full((2, 4), 3.0))


def test_a_weight_of_zero_stays_stored():
    layer = SparseLinear(pattern_of(np.eye(3)), np.zeros(3))
    assert layer.pattern.nnz == 3
    y, cache = layer.forward(np.ones((2, 3)))
    assert np.array_equal(layer.backward(np.ones_like(y), cache)[1]["weight"], [2, 2, 2])


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
def test_from_scipy_and_back(kind):
    matrix = scipy.sparse.random_array((9, 14), density=0.3, rng=np.random.default_rng(0))
    layer = SparseLinear.from_scipy(matrix.asformat(kind), np.arange(9.0), relu=True)
    assert layer.dtype == np.float64 and layer.relu
    assert np.array_equal(layer.to_scipy().toarray(), matrix.toarray())
    assert np.shares_memory(layer.to_scipy().data, layer.weight)
    x = numbers((6, 14))
    np.testing.assert_allclose(layer.forward(x)[0], np.maximum(x @ matrix.toarray().T + np.arange(9), 0), atol=1e-13)
    assert SparseLinear.from_scipy(matrix.astype(np.float32)).dtype == np.float32
    assert SparseLinear.from_scipy(matrix.astype(np.int32)).dtype == np.float32


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_independent(duplicate):
    layer = linear(PATTERNS["radix"], relu=True)
    layer.forward(np.ones((2, layer.in_features)))
    twin = duplicate(layer)
    x = numbers((4, layer.in_features))
    y, _ = layer.forward(x)
    assert np.array_equal(twin.forward(x)[0], y)
    twin.weight[:] = 0
    assert np.array_equal(layer.forward(x)[0], y)


def test_initial_values_are_drawn_from_the_generator_given():
    pattern = PATTERNS["random"]
    a, b, c = (SparseLinear(pattern, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a.weight, b.weight) and not np.array_equal(a.weight, c.weight)
    assert a.dtype == np.float32 and not a.bias.any()


# ---------------------------------------------------------------------------------------------- refusals


def test_a_wrong_x_is_named():
    layer = SparseLinear(dense(300, 784))
    name = "SparseLinear(784→300)"
    for shape in [(64, 800), (784,), (), (64, 28, 28), (1, 64, 784), (0, 783)]:
        refused(
            ValueError,
            f"{name}: x must have shape (batch, 784), got {shape}",
            lambda s=shape: layer.forward(np.zeros(s)),
        )
    refused(
        TypeError,
        f"{name}: x must hold real numbers, got complex128",
        lambda: layer.forward(np.zeros((2, 784), complex)),
    )
    refused(TypeError, f"{name}: x must hold real numbers, got <U1", lambda: layer.forward([["a"] * 784]))
    refused(TypeError, f"{name}: x must hold real numbers, got object", lambda: layer.forward(None))
    refused(
        TypeError, f"{name}: x must hold real numbers, got object", lambda: layer.forward(scipy.sparse.eye_array(784))
    )


def test_wrong_tiles_are_named():
    layer = linear(dense(3, 5))
    name = "SparseLinear(5→3)"
    good = tiled(numbers((20, 5)))
    refused(
        ValueError,
        f"{name}: x must have 5 features of float64, got 4 of float64",
        lambda: layer.forward(tiled(numbers((20, 4)))),
    )
    refused(
        ValueError,
        f"{name}: x must have 5 features of float64, got 5 of float32",
        lambda: layer.forward(tiled(numbers((20, 5), 0, np.float32))),
    )
    holes = Tiles(np.zeros((2, 10, LANES))[:, ::2], 20)
    refused(
        ValueError, f"{name}: x's tiles must be contiguous, got strides (1280, 256, 8)", lambda: layer.forward(holes)
    )
    refused(
        ValueError,
        "tiles of a batch of 33 must have shape (3, features, 16), got (2, 5, 16)",
        lambda: Tiles(good.data, 33),
    )
    _, cache = layer.forward(good)
    refused(
        ValueError,
        f"{name}: dy must be of the 20 samples that x had, got 33",
        lambda: layer.backward(np.zeros((33, 3)), cache),
    )
    refused(
        ValueError,
        f"{name}: dy must be of the 20 samples that x had, got 19",
        lambda: layer.backward(tiled(numbers((19, 3))), cache),
    )
    refused(
        ValueError,
        f"{name}: dy must have shape (batch, 3), got (20, 5)",
        lambda: layer.backward(np.zeros((20, 5)), cache),
    )
    refused(
        ValueError, f"{name}: dy must have 3 features of float64, got 5 of float64", lambda: layer.backward(good, cache)
    )


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("weight", np.zeros(5), "weight must be a contiguous array of 15 float64 numbers, got float64 (5,)"),
        ("weight", np.zeros((3, 5)), "weight must be a contiguous array of 15 float64 numbers, got float64 (3, 5)"),
        ("weight", np.zeros(30)[::2], "weight must be a contiguous array of 15 float64 numbers, got float64 (15,)"),
        ("weight", np.zeros(15, np.int64), "parameters must be float32 or float64, got int64"),
        ("weight", np.zeros(15, np.float16), "parameters must be float32 or float64, got float16"),
        ("bias", np.zeros(1), "bias must be a contiguous array of 3 float64 numbers, got float64 (1,)"),
        ("bias", np.zeros(3, np.float32), "bias must be a contiguous array of 3 float64 numbers, got float32 (3,)"),
    ],
)
def test_values_put_in_later_must_fit(name, values, message):
    """Kernels trust them; one that is too short would be read past its end."""
    layer = linear(dense(3, 5))
    y, cache = layer.forward(numbers((2, 5)))
    layer.params[name] = values
    refused(ValueError, f"SparseLinear(5→3): {message}", lambda: layer.forward(numbers((2, 5))))
    refused(ValueError, f"SparseLinear(5→3): {message}", lambda: layer.backward(y, cache))


def test_another_layers_cache_is_refused():
    x = numbers((20, 5))
    layer, wide, tall = linear(dense(3, 5)), linear(dense(3, 9)), linear(dense(4, 5))
    dy = np.ones((20, 3))
    refused(ValueError, "SparseLinear(5→3): x must have 5 features of float64, got 9 of float64",
            lambda: layer.backward(dy, wide.forward(numbers((20, 9)))[1]))  # fmt: skip
    refused(ValueError, "SparseLinear(5→3): the cache must be what this layer's forward returned, got another layer's",
            lambda: layer.backward(dy, tall.forward(x)[1]))  # fmt: skip


def test_a_wrong_layer_is_named():
    pattern = pattern_of(np.eye(3))
    name = "SparseLinear(3→3)"
    refused(
        TypeError,
        "SparseLinear: pattern must be a SparsityPattern, got csr_array",
        lambda: SparseLinear(pattern.to_scipy()),
    )
    refused(ValueError, f"{name}: weight must have shape (3,), got (3, 3)", lambda: SparseLinear(pattern, np.eye(3)))
    refused(ValueError, f"{name}: bias must have shape (3,), got (1,)", lambda: SparseLinear(pattern, np.ones(3), [1]))
    refused(
        ValueError,
        f"{name}: dtype must be float32 or float64, got float16",
        lambda: SparseLinear(pattern, np.ones(3), dtype=np.float16),
    )
    refused(ValueError, "format must be 'csr' or 'coo', got 'csc'", lambda: SparseLinear(pattern, format="csc"))
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got int32"):
        SparseLinear(pattern, dtype=np.int32)
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
        SparseLinear(pattern, rng=0)
    huge = SparsityPattern((1, 2**31), [0, 0], [])
    with pytest.raises(ValueError, match=r"a layer may have at most 2,147,483,647 inputs and outputs"):
        SparseLinear(huge)


def test_nothing_warns_on_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pattern in PATTERNS.values():
            layer = linear(pattern, relu=True)
            y, cache = layer.forward(numbers((3, layer.in_features)))
            layer.backward(y, cache)
