"""Answers to few samples: the batch path's but for rounding, of the network as it is now, or was when compiled."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sparsecore.kernels.cpu.few import FewLauncher
from sparsecore.models.lenet5 import lenet5
from sparsecore.models.mlp import mlp
from sparsecore.models.resnet import resnet

from sparsecore.data.normalisation import Normalisation
from sparsecore.layers import (
    BatchNorm,
    Dropout,
    Flatten,
    Layer,
    PadChannels,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.layers.live import SMALL
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.runtime.recording import recorded
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import PATTERNS, linear, network, numbers, refused, store

BATCHES = range(1, 34)


def in_batches(net: Network, x: Any) -> Any:
    """What a whole batch's way gives for these samples."""
    many = np.concatenate([x, *[x[-1:]] * (SMALL + 1)])
    return net.logits(many)[: len(x)]


def assert_close(got: Any, wanted: Any, dtype: Any = np.float32) -> None:
    """Equal but for rounding, relative to the largest."""
    assert got.dtype == wanted.dtype == dtype and got.shape == wanted.shape
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def normed(net: Network, seed: int = 0) -> Network:
    """The network with batch norms as training leaves them."""
    rng = np.random.default_rng(seed)
    for _, layer in net.walk():
        if isinstance(layer, BatchNorm):
            for name, array in (*layer.params.items(), *layer.kept.items()):
                positive = name in ("var", "scale")
                array[...] = rng.uniform(0.5, 2, array.shape) if positive else rng.normal(0, 0.3, array.shape)
    return net


def sparse_mlp(**options: Any) -> Network:
    rng = np.random.default_rng(0)
    patterns = [uniform_random(40, 48, 0.8, rng), uniform_random(30, 40, 0.6, rng)]
    return normed(mlp(patterns, in_shape=(3, 4, 4), **options))


def in_a_tree(dtype: Any) -> Network:
    """Everything that knows few samples, empty rows among it, in either format; some of it around a block."""
    odd = PATTERNS["empty rows and columns"]
    block = Residual(Sequential([
        linear(uniform_random(19, 19, 0.7, np.random.default_rng(4)), seed=4, dtype=dtype, relu=True, format="coo"),
        linear(uniform_random(19, 19, 0.5, np.random.default_rng(5)), seed=5, dtype=dtype),
    ]), relu=True)  # fmt: skip
    return Network({
        "flat": Flatten((19, 1, 1)), "block": block, "drop": Dropout((19,), 0.5),
        "odd": linear(odd, seed=1, dtype=dtype), "relu": ReLU((13,)), "norm": BatchNorm((13,), dtype=dtype),
        "head": SparseLinear(dense(5, 13), bias=False, rng=np.random.default_rng(2), dtype=dtype),
    })  # fmt: skip


def convolutional() -> Network:
    """LeNet-5 as it is, its middle 90% sparse."""
    rng = np.random.default_rng(0)
    shapes = [(50, 20 * 25), (500, 800)]
    return lenet5([uniform_random(*shape, 0.9, rng) for shape in shapes])


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": network,
    "mlp, float64": lambda: network(dtype=np.float64),
    "mlp, batch norm": lambda: sparse_mlp(batch_norm=True),
    "mlp, coo": lambda: sparse_mlp(format="coo"),
    "tree": lambda: in_a_tree(np.float32),
    "tree, float64": lambda: in_a_tree(np.float64),
    "lenet5": convolutional,
    "resnet20": lambda: normed(resnet(20, width=0.5, in_shape=(3, 16, 16))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_of_every_number_of_samples_are_the_batch_paths(name: str) -> None:
    net = NETWORKS[name]()
    x = numbers((BATCHES[-1], *net.layers[0].in_shape), 3, net.dtype)
    wanted, compiled = in_batches(net, x), net.compile(BATCHES[-1])
    for batch in BATCHES:
        assert_close(compiled(x[:batch]), wanted[:batch], net.dtype)
        assert_close(net.logits(x[:batch]), wanted[:batch], net.dtype)
        assert np.array_equal(net.predict(x[:batch]), net.logits(x[:batch]).argmax(1))
    flat = x[:3].reshape(3, -1)
    assert np.array_equal(compiled(flat), compiled(x[:3])) and np.array_equal(net.logits(flat), net.logits(x[:3]))


def test_eight_samples_and_fewer_go_by_rows_and_more_by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = FewLauncher.spmm_few

    def counted(self: Any, layout: Any, data: Any, x: Any, bias: Any, out: Any, **options: Any) -> None:
        sizes.append(x.shape[1])
        original(self, layout, data, x, bias, out, **options)

    monkeypatch.setattr(FewLauncher, "spmm_few", counted)
    net = Network([linear(PATTERNS["random"], dtype=np.float32)])
    x = numbers((33, 50), dtype=np.float32)
    for batch in (3, 1, 8, 4, 9, 33, 2, 5):
        net.logits(x[:batch])
    assert sizes == [4, 1, 8, 2]
    assert np.array_equal(net.logits(x), in_batches(net, x))  # in tiles, bit for bit


# ---------------------------------------------------------------------------------------------- as it is now


def changed(net: Network, key: str) -> None:
    """Change a network in one of all the ways that change answers."""
    path = "1" if net["1"].params else "0"
    layer: Any = net[path]
    rng = np.random.default_rng(7)
    if key == "parameters":
        net.params *= 1.5
    elif key == "a layer's values":
        layer.weight[:] = rng.standard_normal(layer.weight.shape)
    elif key == "rewired, as many":
        net.rewire({path: uniform_random(*layer.pattern.shape, 0.5, rng)}, fill=0.7)
    elif key == "rewired twice":
        net.let_move([path])
        for _ in range(2):
            net.logits(numbers((2, 20), dtype=np.float32))
            net.rewire({path: uniform_random(*net[path].pattern.shape, 0.5, rng)}, fill=0.7)  # type: ignore[attr-defined]
    elif key == "rewired, fewer":
        net.rewire({path: uniform_random(*layer.pattern.shape, 0.8, rng)}, fill=0.7)
    elif key == "relu":
        layer.relu = not layer.relu
    elif key == "flattened anew":
        layer.params["weight"] = layer.weight * 2
        net.flatten()
    elif key == "pruned":
        layer.prune(np.arange(layer.pattern.nnz) % 2 == 0)
        net.flatten()
    elif key == "another layer":
        net.layers[1] = linear(uniform_random(9, 12, 0.5, rng), seed=9, dtype=np.float32)
    elif key == "trained":
        step = Step(net, store(), SGD(0.5), cpu())
        step.run(0, 32)
    elif key == "normalisation":
        net.normalisation = Normalisation((20,), (0.5,), (3.0,), "float32")


WAYS = [
    "parameters", "a layer's values", "rewired, as many", "rewired twice", "rewired, fewer", "relu", "flattened anew",
    "pruned", "another layer", "trained", "normalisation",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_network_answers_as_it_is_now_and_what_was_compiled_as_it_was(way: str) -> None:
    net, x = network(), numbers((12, 20), 1, np.float32)
    compiled, sizes = net.compile(12), (1, 3, 12)
    before = [net.logits(x[:batch]) for batch in sizes]
    changed(net, way)
    now = in_batches(net, x)
    assert np.abs(now - in_batches(network(), x)).max() > 0.1, "nothing has changed"
    for batch, old in zip(sizes, before, strict=True):
        assert_close(net.logits(x[:batch]), now[:batch])
        assert np.array_equal(net.predict(x[:batch]), now[:batch].argmax(1))
        assert_close(compiled(x[:batch]), old)
        if way != "another layer":  # of which the table does not know
            assert_close(net.compile(batch)(x[:batch]), now[:batch])


def test_running_rows_of_a_norm_are_read_where_they_are() -> None:
    net = sparse_mlp(batch_norm=True)
    x = numbers((3, 48), dtype=np.float32)
    before, compiled = net.logits(x), net.compile(3)
    norm = next(layer for _, layer in net.walk() if isinstance(layer, BatchNorm))
    norm.kept["mean"] += 1  # type: ignore[index]
    assert np.abs(net.logits(x) - before).max() > 1e-3
    assert_close(net.logits(x), in_batches(net, x))
    assert_close(compiled(x), before)
    norm.eps = 2.0
    assert_close(net.logits(x), in_batches(net, x))


def test_parameters_that_are_no_longer_the_networks_are_refused_for_few_samples_too() -> None:
    net, x = network(), numbers((1, 20), dtype=np.float32)
    net.logits(x)
    net.layers[0].params["weight"] = net.layers[0].params["weight"] * 2
    for call in (net.logits, net.predict, lambda x: net.compile()):
        with pytest.raises(ValueError, match="has parameters that are not Network"):
            call(x)
    net.flatten()
    assert_close(net.logits(x), in_batches(net, x))


def test_a_network_that_nobody_holds_is_gone_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        net = network()
        net.predict(numbers((1, 20), dtype=np.float32))
        compiled = net.compile()
        gone = [weakref.ref(thing) for thing in (net, compiled, net.params)]
        del net, compiled
        assert [ref() for ref in gone] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_have_recordings_of_their_own(duplicate: Any) -> None:
    net, x = network(), numbers((2, 20), dtype=np.float32)
    wanted, compiled = net.logits(x), net.compile(2)
    twin, other = duplicate(net), duplicate(compiled)
    net.params[...] = 0
    for answers in (twin.logits, other, compiled):
        assert np.array_equal(answers(x), wanted)
    if duplicate is not copy.copy:
        assert other._programs is not compiled._programs


# ---------------------------------------------------------------------------------------------- at the same time


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_ask_at_once(threads: int) -> None:
    net, before = network((400, 300, 200, 5)), get_threads()
    set_threads(threads)
    try:
        compiled = net.compile(16)
        xs = [numbers((batch, 400), batch, np.float32) for batch in (1, 1, 2, 16)]
        wanted = [(compiled(x), net.logits(x)) for x in xs]
        wrong: list[int] = []

        def ask(k: int) -> None:
            for _ in range(100):
                if not all(map(np.array_equal, (compiled(xs[k]), net.logits(xs[k])), wanted[k])):
                    wrong.append(k)

        workers = [threading.Thread(target=ask, args=(k % 4,)) for k in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
    finally:
        set_threads(before)


def test_a_call_within_a_call_has_buffers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a signal handler, which may ask between any two lines of Python."""
    net, (x, other) = network(), (numbers((1, 20), seed, np.float32) for seed in (1, 2))
    compiled = net.compile()
    wanted, inner = [compiled(x), net.logits(x)], [compiled(other)]
    for answers, expected in zip((compiled, net.logits), wanted, strict=True):
        within = []
        original = FewLauncher.replay

        def replay(self: Any, tape: Any, original: Any = original, within: Any = within, ask: Any = answers) -> None:
            if not within:
                within.append(None)
                within[0] = ask(other)
            original(self, tape)

        with monkeypatch.context() as patch:
            patch.setattr(FewLauncher, "replay", replay)
            assert np.array_equal(answers(x), expected)
        assert np.array_equal(within[0], inner[0])


def test_an_answer_is_the_callers() -> None:
    compiled = network().compile(2)
    first = compiled(numbers((2, 20), 1, np.float32))
    kept = first.copy()
    compiled(numbers((2, 20), 2, np.float32))
    assert np.array_equal(first, kept) and first.flags.c_contiguous and first.base is None


# ---------------------------------------------------------------------------------------------- what is given


PIXELS = Normalisation((20,), (0.1,), (0.3,), "uint8")
NUMBERS = Normalisation((20,), tuple(np.linspace(-3, 3, 20)), tuple(np.linspace(0.5, 4, 20)), "float32")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", [None, PIXELS, NUMBERS, Normalisation((20,), (0.1,), (0.3,))])
def test_raw_samples_are_normalised_and_others_taken_as_they_are(norm: Any, dtype: Any) -> None:
    net = network(dtype=dtype)
    net.normalisation = norm
    compiled = net.compile(4)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20), dtype=np.uint8)
    floats = (pixels / 255 - 0.1) / 0.3
    given: list[Any] = [floats.astype(dtype), floats.astype(np.float32), floats, floats.tolist(),
                        np.asfortranarray(floats.astype(dtype))]  # fmt: skip
    if norm is not None and norm.dtype != "float32":
        given += [pixels, pixels.astype(int), pixels.tolist()]
    for x in given:
        wanted = in_batches(net, np.asarray(x))
        assert_close(compiled(x), wanted, dtype)
        assert_close(net.logits(x), wanted, dtype)
    assert_close(compiled(given[0], normalised=True), in_batches_normalised(net, given[0]), dtype)


def in_batches_normalised(net: Network, x: Any) -> Any:
    plain = copy.deepcopy(net)
    plain.normalisation = None
    return in_batches(plain, x)


def test_what_cannot_be_taken_is_refused_in_a_line() -> None:
    net = network()
    net.normalisation = PIXELS
    compiled = net.compile(2)
    name, few = "Compiled(20→12→9→5, batch=2)", np.zeros((1, 20), np.float32)
    refused(ValueError, f"{name}: x must be at most 2 samples, as it was compiled for, got 3",
            lambda: compiled(np.zeros((3, 20), np.uint8)))  # fmt: skip
    refused(ValueError, f"{name}: x must have shape (batch, 20), got (20,)", lambda: compiled(few[0]))
    refused(ValueError, f"{name}: x must have shape (batch, 20), got ()", lambda: compiled(1.0))
    refused(ValueError, f"{name}: x must have shape (batch, 20), got (1, 21)", lambda: compiled(np.zeros((1, 21))))
    refused(TypeError, f"{name}: x must hold real numbers, got complex128", lambda: compiled(few.astype(complex)))
    for batch in (0, -1):
        refused(ValueError, f"compile: batch must be at least 1, got {batch}", lambda batch=batch: net.compile(batch))
    refused(ValueError, "compile: batch must be a whole number, got 1.5", lambda: net.compile(1.5))  # type: ignore[arg-type]
    for answers in (compiled, net.logits, net.predict):
        with pytest.raises(ValueError, match=r"floats normalised to -0.3333 to 3, got 5$"):
            answers(few + 5)
    net.normalisation = None
    with pytest.raises(ValueError, match="uint8 x needs the network's normalisation"):
        net.compile()(np.zeros((1, 20), np.uint8))
    assert compiled(np.empty((0, 20), np.float32)).shape == net.logits(np.empty((0, 20))).shape == (0, 5)
    assert np.isnan(net.logits(few + np.nan)).all()
    with pytest.raises(ValueError, match="got NaN as logits of sample 0"):
        net.predict(few + np.nan)


# ---------------------------------------------------------------------------------------------- layers of one's own


class Doubled(SparseLinear):
    """Marked, and different from the layer that it is made of: what that knows of few samples is not true of it."""

    @recorded
    def forward_tiles(self, x: Any, workspace: Any) -> Any:
        y, cache = super().forward_tiles(x, workspace)
        workspace.kernels.add(y.data, y.data, y.data)
        return y, cache


class Counting(Layer):
    """Plain Python, which may change from call to call."""

    def __init__(self, size: int) -> None:
        self.in_shape = self.out_shape = (size,)
        self.params: dict[str, Any] = {}
        self.factor = 1.0
        self.batches: list[int] = []

    def forward_tiles(self, x: Any, workspace: Any) -> Any:
        self.batches.append(x.batch)
        return type(x)(x.data * x.data.dtype.type(self.factor), x.batch), None

    def backward_tiles(self, dy: Any, cache: Any, workspace: Any, *, need_dx: bool = True) -> Any:
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Any, pattern: Any, params: Any) -> Any:
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore:.*is plain Python")
def test_layers_of_ones_own_are_asked_and_not_guessed() -> None:
    pattern = uniform_random(12, 20, 0.5, np.random.default_rng(0))
    double = Network([Doubled(pattern, numbers((pattern.nnz,)))])
    single = Network([SparseLinear(pattern, numbers((pattern.nnz,)))])
    x = numbers((3, 20), 1, np.float32)
    for answers in (double.logits, double.compile(3)):
        assert_close(answers(x), 2 * single.logits(x))
    own = Network([Counting(20), *copy.deepcopy(single).layers])
    counting: Any = own.layers[0]
    assert_close(own.logits(x), single.logits(x))
    compiled = own.compile(3)
    counting.factor = 3.0
    counting.batches.clear()
    assert_close(own.logits(x), in_batches(single, 3 * x))
    assert counting.batches == [3]
    assert_close(compiled(x), single.logits(x))  # the copy's
    assert_close(compiled(x[:2]), single.logits(x[:2]))


def test_what_stays_in_tiles_is_asked_too() -> None:
    """A norm that follows a ReLU is not folded, channels that are padded know no few samples."""
    shape = (2, 6, 6)
    net = normed(Network([
        SparseConv2d(dense(2, 18), shape, 3, padding=1, relu=True, rng=np.random.default_rng(1)), BatchNorm(shape),
        PadChannels(shape, 3, 2), linear(dense(4, 27), dtype=np.float32),
    ]))  # fmt: skip
    x = numbers((20, *shape), dtype=np.float32)
    compiled = net.compile(20)
    for batch in (1, 8, 20):
        assert_close(compiled(x[:batch]), in_batches(net, x[:batch]))
