"""BatchNorm, GlobalAvgPool, PadChannels and layers without biases: beside PyTorch, gradients, running rows, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.data.normalisation import Normalisation
from sparsecore.gradcheck import GradientError, gradcheck
from sparsecore.layers import (
    KINDS,
    BatchNorm,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    PadChannels,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.prune import curvature
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.training.evaluation import Evaluation
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import Array, numbers, refused, store, tiled, untiled

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
shapes = st.tuples(st.integers(1, 5)) | st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
seeds = st.integers(0, 2**32)


def norm(shape: tuple[int, ...], seed: int = 0, *, dtype: Any = np.float64, **options: Any) -> BatchNorm:
    """A layer with rows of all kinds of numbers; a shift that keeps what it gives off a ReLU's kink."""
    rng = np.random.default_rng(seed)
    scale, shift, mean = rng.standard_normal((3, shape[0]))
    return BatchNorm(shape, scale=scale, shift=shift, mean=mean, var=0.1 + rng.random(shape[0]), dtype=dtype, **options)


def conv(channels: int, out: int, size: tuple[int, int], seed: int, kernel: int = 3, **options: Any) -> SparseConv2d:
    rng = np.random.default_rng(seed)
    pattern = uniform_random(out, channels * kernel * kernel, 0.4, rng)
    options = {"dtype": np.float64, "padding": kernel // 2, "bias": False} | options
    return SparseConv2d(pattern, (channels, *size), kernel, rng=rng, **options)


def block(channels: int, out: int, shortcut: str, seed: int = 0, dtype: Any = np.float64) -> Residual:
    """He et al.'s: convolutions without biases, each with batch normalisation; 6×5 pixels, half of them afterwards
    where the shape changes."""
    stride = 1 if shortcut == "identity" else 2
    first = conv(channels, out, (6, 5), seed, stride=stride, dtype=dtype)
    inner = first.out_shape
    main = Sequential({
        "conv1": first, "norm1": norm(inner, seed + 1, dtype=dtype, relu=True),
        "conv2": conv(out, out, inner[1:], seed + 2, dtype=dtype), "norm2": norm(inner, seed + 3, dtype=dtype),
    })  # fmt: skip
    ways: dict[str, Callable[[], Layer | None]] = {
        "identity": lambda: None,
        "padded": lambda: PadChannels((channels, 6, 5), out, stride),
        "projected": lambda: Sequential([
            conv(channels, out, (6, 5), seed + 4, 1, stride=stride, dtype=dtype), norm(inner, seed + 5, dtype=dtype)
        ]),
    }  # fmt: skip
    return Residual(main, ways[shortcut](), relu=True)


def residual_network(dtype: Any = np.float64) -> Network:
    stage = Sequential([block(4, 4, "identity", 10, dtype), block(4, 6, "padded", 20, dtype)])
    return Network({
        "stem": conv(1, 4, (6, 5), 0, dtype=dtype), "norm": norm((4, 6, 5), 1, dtype=dtype, relu=True), "stage": stage,
        "pool": GlobalAvgPool((6, 3, 3)), "head": SparseLinear(dense(5, 6), rng=np.random.default_rng(9), dtype=dtype),
    })  # fmt: skip


def samples(count: int = 70, dtype: Any = np.float32) -> Batches:
    return store(count, 30, dtype=dtype)


def whole(network: Network) -> Array:
    """All that a network has: parameters, and what is kept beside them."""
    return np.array(network.table.values)


# ---------------------------------------------------------------------------------------------- beside PyTorch


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    """PyTorch on one thread: two that wait for each other on a busy machine take a hundred times as long."""
    found = pytest.importorskip("torch")
    threads = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(threads)


@dtypes
@pytest.mark.parametrize("shape, batch", [((7,), 33), ((3, 5, 4), 21), ((2, 3, 3), 1), ((4,), 5), ((2, 5, 5), 40)])
def test_fifty_steps_of_training_are_pytorchs(torch, dtype, shape, batch):
    """y, gradients and running rows at every step; then, outside training, y and gradients again."""
    layer, rng = norm(shape, dtype=dtype, momentum=0.2), np.random.default_rng(1)
    near = 1e-6 if dtype == np.float64 else 1e-5
    theirs = (torch.nn.BatchNorm1d if len(shape) == 1 else torch.nn.BatchNorm2d)(shape[0], momentum=0.2)
    theirs = theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
    rows = {"weight": layer.params["scale"], "bias": layer.params["shift"]}
    rows |= {"running_mean": layer.kept["mean"], "running_var": layer.kept["var"]}
    theirs.load_state_dict({name: torch.from_numpy(row.copy()) for name, row in rows.items()}, strict=False)

    def close(ours: Array, tensor: Any, what: str) -> None:
        wanted = tensor.detach().numpy()
        np.testing.assert_allclose(ours, wanted, rtol=near, atol=near * np.abs(wanted).max(), err_msg=what)

    workspaces = [Workspace(training=training) for training in (False, True)]
    for step in range(53):
        training = step < 50
        theirs.train(training)
        workspace = workspaces[training]
        x, dy = (rng.standard_normal((batch, *shape)).astype(dtype) for _ in range(2))
        x = (2 * x + rng.standard_normal(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))).astype(dtype)
        y, cache = layer.forward(x, workspace)
        dx, grads = layer.backward(dy, cache, workspace)
        given = torch.from_numpy(x).requires_grad_()
        theirs.zero_grad()
        out = theirs(given)
        out.backward(torch.from_numpy(dy))
        close(y, out, "y")
        close(dx, given.grad, "dx")
        close(grads["scale"], theirs.weight.grad, "dscale")
        close(grads["shift"], theirs.bias.grad, "dshift")
        close(layer.kept["mean"], theirs.running_mean, "mean")
        close(layer.kept["var"], theirs.running_var, "var")
        for params, by in ((layer.params["scale"], grads["scale"]), (layer.params["shift"], grads["shift"])):
            params -= 0.01 * by
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= 0.01 * parameter.grad


@dtypes
def test_a_mean_far_from_zero_costs_a_layer_no_digits(dtype):
    x = (1e4 + 0.01 * numbers((64, 3, 4, 4))).astype(dtype)
    layer = BatchNorm((3, 4, 4), dtype=dtype)
    y, _ = layer.forward(x, Workspace(training=True))
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 2, 3), keepdims=True), exact.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-5), rtol=2e-6, atol=2e-6)


def test_a_relu_is_that_of_a_layer_of_its_own():
    x, dy = numbers((21, 3, 4, 5)), numbers((21, 3, 4, 5), 1)
    fused, plain, relu = norm((3, 4, 5), relu=True), norm((3, 4, 5)), ReLU((3, 4, 5))
    both = Sequential([plain, relu])
    for training in (True, False):
        there, here = Workspace(training=training), Workspace(training=training)
        (y, cache), (wanted, caches) = fused.forward(x, there), both.forward(x, here)
        assert np.array_equal(y, wanted) and (y == 0).any()
        (dx, grads), (wanted_dx, wanted_grads) = fused.backward(dy, cache, there), both.backward(dy, caches, here)
        assert np.array_equal(dx, wanted_dx)
        assert all(np.array_equal(grads[name], wanted_grads[f"0.{name}"]) for name in grads)


# ---------------------------------------------------------------------------------------------- gradients


@settings(max_examples=25)
@given(shape=shapes, batch=st.integers(1, 35), relu=st.booleans(), training=st.booleans(), seed=seeds)
def test_gradients_of_batch_normalisation_are_derivatives(shape, batch, relu, training, seed):
    if training and batch * int(np.prod(shape[1:])) < 3:
        batch = 5  # of two values, one is always 1 and the other −1
    gradcheck(norm(shape, seed, relu=relu), 2 * numbers((batch, *shape), seed), samples=25, training=training)


@settings(max_examples=15)
@given(shape=st.tuples(*[st.integers(1, 5)] * 3), more=st.integers(0, 3), batch=st.integers(1, 19),
       stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), seed=seeds)  # fmt: skip
def test_gradients_of_pools_and_shortcuts_are_derivatives(shape, more, batch, stride, seed):
    x = numbers((batch, *shape), seed)
    gradcheck(GlobalAvgPool(shape), x, samples=40)
    gradcheck(PadChannels(shape, shape[0] + more, stride), x, samples=40)


@pytest.mark.parametrize("format", ["csr", "coo"])
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_layers_without_biases_are_derivatives(format, relu):
    rng = np.random.default_rng(0)
    flat = SparseLinear(uniform_random(9, 14, 0.5, rng), bias=False, relu=relu, format=format, rng=rng, dtype=float)
    images = conv(2, 3, (6, 5), 0, stride=2, relu=relu, format=format)
    gradcheck(flat, numbers((7, 14)))
    gradcheck(images, numbers((7, 2, 6, 5)), samples=60)
    for layer in (flat, images):
        assert list(layer.params) == ["weight"] and layer.bias is None


def matrix(out: int, into: int, seed: int = 0) -> SparseLinear:
    return SparseLinear(dense(out, into), rng=np.random.default_rng(seed), dtype=np.float64)


# One layer's images are another one's features, or other images with features between them.
NEIGHBOURS: dict[str, Callable[[], list[Layer]]] = {
    "images as features": lambda: [conv(3, 4, (3, 3), 0), norm((36,)), matrix(5, 36)],
    "features as images": lambda: [matrix(36, 27), norm((4, 3, 3)), conv(4, 3, (3, 3), 1)],
    "features before a border": lambda: [matrix(36, 27), norm((36,)), conv(4, 3, (3, 3), 1)],
    "features between borders": lambda: [conv(3, 4, (3, 3), 0), norm((36,), relu=True), conv(4, 3, (3, 3), 1)],
    "channels as pixels": lambda: [conv(3, 36, (3, 3), 0, padding=0), ReLU((36,)), norm((4, 3, 3)), matrix(5, 36)],
    "pixels as channels": lambda: [conv(3, 4, (3, 3), 0), ReLU((36,)), norm((36, 1, 1)), matrix(5, 36)],
    "within a block": lambda: [
        conv(3, 4, (3, 3), 0), Residual(Sequential([matrix(36, 36), norm((36,))]), relu=True), conv(4, 3, (3, 3), 1),
    ],
    "images at the end": lambda: [conv(3, 4, (3, 3), 0, padding=0), norm((4,)), ReLU((4,))],
}  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layers", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_a_neighbour_may_take_the_same_numbers_for_images(layers: Any, training: bool) -> None:
    network, x = Network(layers()), numbers((19, 3, 3, 3))
    alone = x
    for layer in layers():
        alone, _ = layer.forward(alone.reshape(19, *layer.in_shape))
    np.testing.assert_allclose(network.logits(x), alone, rtol=1e-12, atol=1e-12)
    classes = int(np.prod(network.layers[-1].out_shape))
    gradcheck(network, x.reshape(19, 27), labels=np.arange(19) % classes, samples=40, training=training)


@pytest.mark.parametrize("more", [[], [ReLU((5,))], [BatchNorm((5,))], [BatchNorm((5, 1, 1))]], ids=repr)
def test_a_network_that_ends_with_images_is_trained_as_one_that_ends_with_rows(more: Any) -> None:
    found = []
    for between in ([], [Flatten((5, 1, 1))]):
        first = SparseConv2d(dense(5, 30), (1, 6, 5), (6, 5), rng=np.random.default_rng(0))
        network = Network([first, *between, *copy.deepcopy(more)])
        step = Step(network, samples(), SGD(0.1))
        for _ in range(3):
            step.run(0, 70)
        found.append(whole(network))
        assert network.predict(numbers((7, 1, 6, 5))).shape == (7,)
    assert np.array_equal(*found) and np.isfinite(found[0]).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shortcut", ["identity", "padded", "projected"])
@settings(max_examples=4)
@given(batch=st.sampled_from([2, 5, 17]), seed=seeds, before=st.booleans())
def test_gradients_of_blocks_are_derivatives(shortcut, training, batch, seed, before):
    layer: Layer = block(3, 3 if shortcut == "identity" else 4, shortcut, seed)
    if before:
        layer = Sequential([norm((3, 6, 5), seed, relu=True), layer])
    gradcheck(layer, numbers((batch, 3, 6, 5), seed), samples=12, training=training)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_a_residual_network_are_derivatives(training):
    labels = np.arange(21) % 5
    gradcheck(residual_network(), numbers((21, 1, 6, 5)), labels=labels, samples=8, training=training)


class Constant(BatchNorm):
    """A layer that takes a batch's mean and variance for constants on the way back."""

    def backward_tiles(self, dy, cache, workspace, *, need_dx=True):
        return super().backward_tiles(dy, (*cache[:3], False), workspace, need_dx=need_dx)


def test_a_mistake_that_only_training_shows_is_found():
    layer = Constant((3, 2, 2), dtype=np.float64)
    gradcheck(layer, numbers((5, 3, 2, 2)))
    with pytest.raises(GradientError, match=r"backward gives .* for x\["):
        gradcheck(layer, numbers((5, 3, 2, 2)), training=True)


def test_what_is_dropped_has_no_gradient_to_check():
    message = "Dropout(4, 0.5): training needs the workspace's position, which decides what is dropped"
    refused(ValueError, message, lambda: gradcheck(Dropout((4,), 0.5), numbers((3, 4)), training=True))


def test_what_pools_and_shortcuts_compute():
    x = numbers((5, 3, 5, 4))
    np.testing.assert_allclose(GlobalAvgPool((3, 5, 4)).forward(x)[0], x.mean((2, 3)), rtol=1e-14)
    y, _ = PadChannels((3, 5, 4), 5).forward(x)
    assert y.shape == (5, 5, 3, 2) and np.array_equal(y[:, :3], x[:, :, ::2, ::2]) and not y[:, 3:].any()
    y, _ = PadChannels((3, 5, 4), 3, (1, 3)).forward(x)
    assert np.array_equal(y, x[:, :, :, ::3])


def test_a_layer_without_biases_is_one_whose_biases_are_zero():
    x, dy = numbers((21, 2, 6, 5)), numbers((21, 3, 6, 5))
    bare = conv(2, 3, (6, 5), 0)
    biased = SparseConv2d(bare.pattern, (2, 6, 5), 3, weight=bare.weight, bias=np.zeros(3), padding=1, dtype=float)
    (y, cache), (wanted, its) = bare.forward(x), biased.forward(x)
    (dx, grads), (wanted_dx, wanted_grads) = bare.backward(dy, cache), biased.backward(dy, its)
    assert np.array_equal(y, wanted) and np.array_equal(dx, wanted_dx) and list(grads) == ["weight"]
    assert np.array_equal(grads["weight"], wanted_grads["weight"])


def test_curvature_of_batch_normalisation_is_a_second_derivative():
    """Of ½ Σ c·y², with mean and variance constant: y is linear in x, scale and shift, so three points tell it."""
    layer, x, c = norm((3, 2, 2)), numbers((5, 3, 2, 2)), np.random.default_rng(1).random((5, 3, 2, 2))
    workspace = Workspace()
    _, back = layer.curvature(tiled(x), workspace)
    h, grads = back(tiled(c), True)

    def loss() -> float:
        return float(0.5 * np.sum(c * layer.forward(x)[0] ** 2))

    def second(array: Array, at: int) -> float:
        value, sides = array.flat[at], []
        for moved in (value - 1, value, value + 1):
            array.flat[at] = moved
            sides.append(loss())
        array.flat[at] = value
        return sides[0] - 2 * sides[1] + sides[2]

    assert h is not None
    for array, found in ((x, untiled(h)), (layer.params["scale"], grads["scale"]), (layer.params["shift"], grads["shift"])):  # noqa: E501
        np.testing.assert_allclose(found.ravel(), [second(array, k) for k in range(array.size)], rtol=1e-8, atol=1e-9)


def test_curvature_stops_where_the_relu_before_let_nothing_through():
    """A ReLU's zeros pass no curvature on to what is before it, whether a normalisation follows it or nothing does."""
    rng = np.random.default_rng(0)
    first = SparseLinear(dense(4, 6), numbers((24,)), numbers((4,), 1), relu=True, rng=rng, dtype=float)
    middle, last = BatchNorm((4,), dtype=float), SparseLinear(dense(4, 4), np.eye(4).ravel(), np.zeros(4), dtype=float)
    middle.kept["var"][:] = 1 - middle.eps  # so that it multiplies by one
    batches = store(40, 6, 4, dtype=float)
    found = curvature(Network([first, middle, last]), batches, 40)
    wanted = curvature(Network([copy.deepcopy(first), copy.deepcopy(last)]), batches, 40)
    np.testing.assert_allclose(found["0"], wanted["0"], rtol=1e-12)


@pytest.mark.parametrize("shortcut", ["identity", "projected"])
def test_curvature_of_a_block_does_not_depend_on_the_shape_of_its_tiles(shortcut):
    """What comes before it may give its images flat."""
    layer, x = block(3, 3 if shortcut == "identity" else 4, shortcut), np.maximum(numbers((17, 3, 6, 5)), 0)
    found = []
    for images in (x, x.reshape(17, 90)):
        y, back = layer.curvature(tiled(images, rectified=True), Workspace())
        h, grads = back(tiled(np.random.default_rng(0).random((17, *layer.out_shape))), True)
        assert h is not None and h.data.shape == tiled(images).data.shape
        found.append([y.data.copy(), untiled(h).reshape(17, 90), *map(np.copy, grads.values())])
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_paths_are_counted_through_them():
    """As many as there are pairs of an input and an output that depends on it, where one path leads from one to the
    other."""
    for layer in (norm((3, 4, 5)), GlobalAvgPool((3, 4, 5)), PadChannels((3, 5, 4), 5), PadChannels((2, 3, 3), 2, 1)):
        size = int(np.prod(layer.in_shape))
        points = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *layer.in_shape)
        y = layer.forward(points)[0].reshape(size + 1, -1)
        depends = (y[1:] != y[0]).astype(float)
        assert np.array_equal(layer.count_paths(np.eye(y.shape[1])), depends.T)
    net = residual_network()
    bare = Network([layer for layer in copy.deepcopy(net).layers if not isinstance(layer, BatchNorm)])
    ends = np.eye(5)
    assert np.array_equal(net.root.count_paths(ends), bare.root.count_paths(ends))


# ---------------------------------------------------------------------------------------------- running rows, batches


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_says_how_far_running_rows_move(momentum):
    layer, x = norm((3, 2, 2), momentum=momentum), numbers((9, 3, 2, 2))
    before = {name: row.copy() for name, row in layer.kept.items()}
    layer.forward(x, Workspace(training=True))
    batch = {"mean": x.mean((0, 2, 3)), "var": x.var((0, 2, 3), ddof=1)}
    for name, wanted in (before if momentum == 0 else batch).items():
        np.testing.assert_allclose(layer.kept[name], wanted, rtol=1e-13)


def test_only_training_moves_a_running_row():
    net, batches = residual_network(np.float32), samples()
    step = Step(net, batches, SGD(0.02))
    before = whole(net)
    step.prepare(32)
    assert np.array_equal(whole(net), before)
    net.logits(numbers((5, 1, 6, 5), dtype=np.float32))
    net["norm"].forward(numbers((5, 4, 6, 5), dtype=np.float32))
    pixels = Split(np.ones((9, 30), np.uint8), np.zeros(9, np.int32))
    Evaluation(net, pixels, Normalisation((1, 6, 5), (0.3,), (0.3,)), cpu())()
    Step(net, batches).run(0, 32)
    curvature(net, batches, 40)
    gradcheck(net, numbers((3, 1, 6, 5)), labels=[0, 1, 2], samples=2, training=True)
    assert np.array_equal(whole(net), before)
    step.run(0, 32)
    moved = {row.path for row in net.table.rows if not np.array_equal(whole(net)[row.slice], before[row.slice])}
    assert {row.path for row in net.table.rows if not row.trained} <= moved


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1)])
def test_one_value_a_channel_is_refused_in_training_and_nothing_changes(shape):
    layer = norm(shape, dtype=np.float32)
    name = f"BatchNorm({'×'.join(map(str, shape))})"
    message = (
        f"{name}: in training needs more than one value a channel, got a batch of 1: choose a batch size that leaves "
        "no batch of one sample"
    )
    workspace, before = Workspace(training=True), {name: row.copy() for name, row in layer.kept.items()}
    x = numbers((1, *shape), dtype=np.float32)
    refused(ValueError, message, lambda: layer.forward(x, workspace))
    assert all(np.array_equal(layer.kept[name], row) for name, row in before.items())
    layer.forward(x)
    layer.forward(np.repeat(x, 2, 0), workspace)
    net = Network([SparseLinear(dense(4, 20)), layer])
    step, held = Step(net, store(33, classes=4), SGD(0.1)), whole(net)
    refused(ValueError, message, lambda: step.run(32, 1))
    assert np.array_equal(whole(net), held) and step.totals().samples == 0
    step.run(0, 32)
    assert np.isfinite(whole(net)).all() and not np.array_equal(whole(net), held)


def test_a_run_whose_last_batch_is_one_sample_is_refused_before_it_begins():
    net = Network([SparseLinear(dense(6, 20), bias=False), BatchNorm((6,), relu=True), SparseLinear(dense(4, 6))])
    batches, before = store(65, classes=4), whole(net)
    step = Step(net, batches, SGD(0.1))
    step.prepare(32)
    with pytest.raises(ValueError, match="got a batch of 1: choose a batch size"):
        step.prepare(1)
    assert np.array_equal(whole(net), before)


def test_a_last_batch_of_one_image_is_a_batch():
    net = residual_network(np.float32)
    step = Step(net, samples(65), SGD(0.02))
    for start, batch in ((0, 32), (32, 32), (64, 1)):
        step.run(start, batch)
    assert np.isfinite(whole(net)).all() and step.totals().samples == 65


@dtypes
def test_what_stands_in_spare_lanes_reaches_nothing(dtype):
    x, dy = numbers((19, 3, 4, 4), dtype=dtype), numbers((19, 3, 4, 4), 1, dtype)
    found = []
    for padding in (0.0, np.nan):
        layer, workspace = norm((3, 4, 4), dtype=dtype), Workspace(training=True)
        y, cache = layer.forward_tiles(tiled(x, padding), workspace)
        dx, grads = layer.backward_tiles(tiled(dy, padding), cache, workspace)
        assert dx is not None
        for tiles in (y, dx):
            assert not tiles.data[1, ..., 3:].any()
        found.append([y.data.copy(), dx.data.copy(), *map(np.copy, grads.values()), *map(np.copy, layer.kept.values())])
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_a_second_step_allocates_nothing():
    layer, workspace, arrays = norm((3, 4, 4)), Workspace(training=True), []
    for seed in range(2):
        y, cache = layer.forward(tiled(numbers((19, 3, 4, 4), seed)), workspace)
        dx, grads = layer.backward(tiled(numbers((19, 3, 4, 4), 5)), cache, workspace)
        arrays.append([y.data, dx.data, *grads.values()])
    assert all(np.shares_memory(a, b) for a, b in zip(*arrays, strict=True))
    assert layer.backward(tiled(numbers((19, 3, 4, 4))), cache, workspace, need_dx=False)[0] is None


# ---------------------------------------------------------------------------------------------- copies and mistakes

LAYERS = [norm((3,)), norm((2, 3, 4), relu=True, eps=1e-3, momentum=0.3), GlobalAvgPool((2, 3, 4)),
          PadChannels((2, 3, 4), 5, (2, 1)), conv(2, 3, (3, 4), 0), SparseLinear(dense(3, 4), bias=False)]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_survive_copies_pickles_and_configurations(layer: Any) -> None:
    arrays = {**layer.params, **layer.kept}
    again = KINDS[type(layer).__name__].from_config(layer.config(), getattr(layer, "pattern", None), arrays)
    x = numbers((4, *layer.in_shape), dtype=layer.dtype)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), again):
        assert type(twin) is type(layer) and twin.config() == layer.config() and twin.out_shape == layer.out_shape
        assert np.array_equal(twin.forward(x)[0], layer.forward(x)[0])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_a_network_has_running_rows_of_its_own(duplicate: Any) -> None:
    net = residual_network(np.float32)
    before, twin = whole(net), duplicate(net)
    assert np.array_equal(whole(twin), before) and twin.table.trained == net.table.trained
    Step(twin, samples(), SGD(0.02)).run(0, 32)
    assert np.array_equal(whole(net), before) and not np.array_equal(whole(twin), before)
    Step(net, samples(), SGD(0.02)).run(0, 32)
    assert np.array_equal(whole(twin), whole(net))


def test_wrong_layers_and_inputs_are_named() -> None:
    nan = float("nan")
    good, image = norm((3,)), norm((3, 2, 2), dtype=np.float32)
    range_ = "BatchNorm: eps must be positive and finite, and momentum from 0 to 1, got "
    for error, message, call in (
        (ValueError, "BatchNorm: shape must be (features,) or (channels, height, width), got (3, 4)",
         lambda: BatchNorm((3, 4))),
        (ValueError, "BatchNorm: shape must be (features,) or (channels, height, width), got 3",
         lambda: BatchNorm(3)),  # type: ignore[arg-type]
        (ValueError, "shape must hold 1 integers of at least 1, got (0,)", lambda: BatchNorm((0,))),
        (TypeError, "shape must hold 3 integers, got (3, 2.5, 2)", lambda: BatchNorm((3, 2.5, 2))),  # type: ignore[arg-type]
        (ValueError, range_ + "0 and 0.1", lambda: BatchNorm((3,), eps=0)),
        (ValueError, range_ + "nan and 0.1", lambda: BatchNorm((3,), eps=nan)),
        (ValueError, range_ + "inf and 0.1", lambda: BatchNorm((3,), eps=float("inf"))),
        (ValueError, range_ + "1e-05 and 1.5", lambda: BatchNorm((3,), momentum=1.5)),
        (ValueError, range_ + "1e-05 and -0.1", lambda: BatchNorm((3,), momentum=-0.1)),
        (TypeError, "BatchNorm: momentum must be a number, got None",
         lambda: BatchNorm((3,), momentum=None)),  # type: ignore[arg-type]
        (TypeError, "BatchNorm: eps must be a number, got [1]",
         lambda: BatchNorm((3,), eps=[1])),  # type: ignore[arg-type]
        (ValueError, "BatchNorm: dtype must be float32 or float64, got float16",
         lambda: BatchNorm((3,), dtype=np.float16)),
        (ValueError, "BatchNorm(3): scale must have shape (3,), got (2,)", lambda: BatchNorm((3,), scale=[1, 2])),
        (TypeError, "BatchNorm(3): mean must hold real numbers, got complex128",
         lambda: BatchNorm((3,), mean=[1j, 0, 0])),
        (ValueError, "BatchNorm(3): shift must be numbers that float32 holds, got 1e+300",
         lambda: BatchNorm((3,), shift=[1e300, 0, 0])),
        (ValueError, "BatchNorm(3): var must not be negative, got -1.0", lambda: BatchNorm((3,), var=[1, -1, 0])),
        (ValueError, "BatchNorm(3): x must have shape (batch, 3), got (5, 4)", lambda: good.forward(np.ones((5, 4)))),
        (ValueError, "BatchNorm(3×2×2): x must have 12 features of float32, got 12 of float64",
         lambda: image.forward(tiled(np.ones((5, 3, 2, 2))))),
        (ValueError, "GlobalAvgPool(2×3×3): x must have shape (batch, 2, 3, 3), got (5, 2)",
         lambda: GlobalAvgPool((2, 3, 3)).forward(np.ones((5, 2)))),
        (ValueError, "in_shape must hold 3 integers of at least 1, got (2, 3)",
         lambda: GlobalAvgPool((2, 3))),  # type: ignore[arg-type]
        (ValueError, "PadChannels: out_channels must be at least the 3 of x, got 2",
         lambda: PadChannels((3, 4, 4), 2)),
        (ValueError, "stride must hold 2 integers of at least 1, got (0, 0)", lambda: PadChannels((3, 4, 4), 4, 0)),
        (TypeError, "out_channels must hold 1 integers, got (2.5,)",
         lambda: PadChannels((3, 4, 4), 2.5)),  # type: ignore[arg-type]
    ):  # fmt: skip
        refused(error, message, call)


def test_the_cache_of_another_batch_is_refused() -> None:
    layer = norm((3,))
    _, cache = layer.forward(numbers((5, 3)))
    message = "BatchNorm(3): dy must be of the 5 samples that x had, got 4"
    refused(ValueError, message, lambda: layer.backward(numbers((4, 3)), cache))


def test_a_layers_own_output_is_no_input_in_the_same_workspace() -> None:
    """It would be written over, and backward would take it for x."""
    layer, workspace = norm((3,)), Workspace()
    y, _ = layer.forward(tiled(numbers((5, 3))), workspace)
    message = "BatchNorm(3): x is this layer's last output in the same workspace; give each use its own"
    refused(ValueError, message, lambda: layer.forward(y, workspace))


@pytest.mark.parametrize("name", ["scale", "shift", "mean", "var"])
@pytest.mark.parametrize(
    "row, found",
    [(np.ones(2), "float64 (2,)"), (np.ones(3, np.float16), "float16 (3,)"), (np.ones(6)[::2], "float64 (3,)")],
)
def test_rows_that_kernels_would_misread_are_refused(name: str, row: Array, found: str) -> None:
    layer, x = norm((3,)), numbers((5, 3))
    _, cache = layer.forward(x)
    (layer.params if name in layer.params else layer.kept)[name] = row  # type: ignore[index]
    for call in (lambda: layer.forward(x), lambda: layer.backward(x, cache)):
        with pytest.raises(ValueError) as caught:
            call()
        text = str(caught.value)
        assert text.startswith("BatchNorm(3): ") and "\n" not in text
        assert (name in text and found in text) or "parameters must be float32 or float64, got float16" in text


def test_a_running_row_that_is_not_the_networks_is_refused() -> None:
    """A checkpoint would hold the row that it replaces."""
    net = residual_network()
    layer: Any = net["norm"]
    layer.kept["mean"] = layer.kept["mean"].copy()
    with pytest.raises(ValueError, match=r"^layer norm, BatchNorm\(4×6×5\), has parameters that are not .*flatten"):
        net.forward(tiled(numbers((5, 1, 6, 5))), Workspace())
    net.flatten()
    net.forward(tiled(numbers((5, 1, 6, 5))), Workspace())
    assert np.shares_memory(layer.kept["mean"], net.table.values)
