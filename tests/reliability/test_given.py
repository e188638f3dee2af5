"""Arrays that are given: what a kernel writes to or takes for addresses is looked at once, where it is given.

And what belongs together stays so: programs with their structure, copies with all that they need, numbers with values.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sparsecore.kernels.cpu.threads import Pool

from sparsecore.data import DataError, Split, load
from sparsecore.data.batches import Batches
from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.operator import SparseOperator
from sparsecore.layers import ReLU, Sequential, SparseConv2d, SparseLinear
from sparsecore.layers.replay import forward_of
from sparsecore.network import Network
from sparsecore.runs.checkpoint import save
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.cpu import CPU
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.replay import addresses
from sparsecore.runtime.tiles import Tiles, tiled
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random
from sparsecore.training.callbacks import Callback
from sparsecore.training.evaluation import Evaluation
from sparsecore.training.optimizers import SGD, Adam, Optimizer
from sparsecore.training.step import Step
from tests.reliability.runs import network, samples

DATA = samples()
SIZE = 40


def mapped(tmp_path: Path, dtype: Any = np.float32) -> Any:
    """A read-only memory map of SIZE zeros."""
    np.zeros(SIZE, dtype).tofile(tmp_path / "map")
    return np.memmap(tmp_path / "map", dtype, "r")


def locked(array: Any) -> Any:
    array.flags.writeable = False
    return array


def askew(dtype: Any = np.float32) -> Any:
    size = SIZE * np.dtype(dtype).itemsize
    return np.zeros(size + 1, np.uint8)[1:].view(dtype)


UNFIT: dict[str, Any] = {
    "mapped": mapped,
    "locked": lambda path: locked(np.zeros(SIZE, np.float32)),
    "reversed": lambda path: np.zeros(SIZE, np.float32)[::-1],
    "strided": lambda path: np.zeros(2 * SIZE, np.float32)[::2],
    "broadcast": lambda path: np.broadcast_to(np.float32(0), SIZE),
    "askew": lambda path: askew(),
    "masked": lambda path: np.ma.masked_array(np.zeros(SIZE, np.float32), np.arange(SIZE) == 3),
}


# ------------------------------------------------------------------------------------- 3: memory that kernels write to


def stepped(optimizer: Optimizer, params: Any = None, grads: Any = None) -> None:
    zeros = np.zeros(SIZE, np.float32)
    optimizer.step(zeros if params is None else params, np.ones(SIZE, np.float32) if grads is None else grads,
                   Workspace())  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize(("make", "name"), [(SGD, "velocity"), (Adam, "m"), (Adam, "v")])
def test_3_columns_that_a_rule_cannot_write_to(kind: str, make: Any, name: str, tmp_path: Path) -> None:
    optimizer = make(0.1)
    stepped(optimizer)
    optimizer.columns[name] = UNFIT[kind](tmp_path)
    with pytest.raises(ValueError, match=rf"{make.__name__}: {name} must be a contiguous array"):
        stepped(optimizer)
    assert not optimizer.columns[name].any()


@pytest.mark.parametrize("kind", UNFIT)
def test_3_params_and_grads(kind: str, tmp_path: Path) -> None:
    bad = UNFIT[kind](tmp_path)
    with pytest.raises(ValueError, match="params"):
        stepped(SGD(0.1), bad)
    assert not bad.any()
    if kind in ("mapped", "locked"):  # only read
        stepped(SGD(0.1), grads=bad)
    else:
        with pytest.raises(ValueError, match="grads"):
            stepped(SGD(0.1), grads=bad)


@pytest.mark.parametrize(
    "rates",
    [
        np.zeros(2),
        np.zeros(20, np.float32),
        np.zeros((3, 9)),
        np.zeros(40)[::-2],
        locked(np.zeros(20)),
        np.zeros(20, ">f8"),
    ],
)
def test_3_rates(rates: Any) -> None:
    optimizer = Adam()
    stepped(optimizer)
    optimizer.rates = rates
    with pytest.raises(ValueError, match="Adam: rates must be"):
        stepped(optimizer)


def test_3_memory_is_not_shared() -> None:
    whole = np.zeros(SIZE + 5, np.float32)
    optimizer = Adam()
    stepped(optimizer)
    optimizer.columns["m"] = optimizer.columns["v"]
    with pytest.raises(ValueError, match="v must have memory of its own, got some of m's"):
        stepped(optimizer)
    with pytest.raises(ValueError, match="grads must have memory of its own, got some of params's"):
        stepped(SGD(0.1), whole[:SIZE], whole[5:])
    sgd = SGD(0.1)
    stepped(sgd)
    sgd.velocity = whole[5:]
    with pytest.raises(ValueError, match="velocity must have memory of its own"):
        stepped(sgd, whole[:SIZE])


def test_3_a_recorded_step_looks_at_columns_that_were_replaced() -> None:
    net, optimizer = network("csr"), SGD(0.1, 0.9)
    step = Step(net, batches(), optimizer)
    step.run(0, 20)
    optimizer.velocity = locked(np.zeros(net.params.shape, np.float32))
    with pytest.raises(ValueError, match="velocity must be a contiguous array that can be written to, got a read-only"):
        step.run(0, 20)
    optimizer.velocity = np.zeros(net.params.shape, np.float32)
    step.run(0, 20)
    assert optimizer.velocity.any()


@pytest.mark.parametrize("kind", UNFIT)
def test_3_arrays_put_into_a_workspace(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dw must be a contiguous array that can be written to, got"):
        Workspace().put("dw", UNFIT[kind](tmp_path))
    with pytest.raises(TypeError, match="a workspace on cpu: dw is on"):
        Workspace().put("dw", [0.0])


@pytest.mark.parametrize(
    "position", [np.zeros(2, np.int64), np.zeros(3), np.zeros(6, np.int64)[::2], np.zeros(3, ">i8"), [0, 0, 0]]
)
def test_3_a_workspaces_position(position: Any) -> None:
    with pytest.raises(ValueError, match="a workspace's position must be"):
        Workspace(position=position)


def batches() -> Batches:
    return Batches(DATA.train, (24,), DATA.mean, DATA.std, cpu())


@pytest.mark.parametrize(
    "order",
    [
        np.arange(99), np.arange(101), np.arange(1, 101), np.arange(100) - 1, np.arange(100.0), np.full(100, 1 << 40),
        np.full(100, 1 << 63, np.uint64), np.ones(100, bool), np.arange(100).reshape(10, 10), [0] * 99, None,
        np.ma.masked_array(np.arange(100), np.arange(100) == 2),
    ],
)  # fmt: skip
def test_3_an_order_that_is_none_of_the_samples(order: Any) -> None:
    used = batches()
    with pytest.raises(ValueError, match="order must be"):
        used.order = order
    used.seek(0, 100)
    assert np.array_equal(used.order, np.arange(100))


@pytest.mark.parametrize(
    "order", [np.arange(100)[::-1], np.arange(100, dtype=np.uint8), np.arange(100).astype(">i4"), [*range(100)]]
)
def test_3_an_order_is_copied_to_where_steps_read_it(order: Any) -> None:
    used = batches()
    place = used.order.ctypes.data
    step = Step(network("csr"), used)
    step.run(0, 100)
    used.order = order
    step.run(0, 100)
    assert used.order.ctypes.data == place and np.array_equal(used.order, order)


@pytest.mark.parametrize("number", [-1, 5, 100, 1 << 60])
def test_3_an_order_written_to_in_place(number: int) -> None:
    used, same = batches(), batches()
    step, other = (Step(network("csr"), each) for each in (used, same))
    order = used.order
    for write in (lambda: order.__setitem__(7, number), lambda: used.order.fill(number), lambda: order.sort()):
        with pytest.raises(ValueError, match="read-only"):
            write()
    for each, taken in ((step, used), (other, same)):
        each.run(0, 20)
        taken.shuffle(0, 1)
        each.run(0, 20)
    assert step.totals() == other.totals() and np.array_equal(order, same.order)


def test_3_a_position_stays_where_it_is() -> None:
    with pytest.raises(AttributeError):
        batches().position = np.zeros(1, np.int64)  # type: ignore[misc]


# -------------------------------------------------------------------------------- 4: programs, and what they belong to


def replayed(layer: SparseLinear | SparseConv2d, x: Any) -> Any:
    """A layer's output by the program that is kept for it, its parameters at the very end of their memory."""
    replay = forward_of(layer, len(x), "float32", biased=True)
    y = np.empty((len(x), *layer.out_shape), np.float32)
    replay.run(*addresses(x, layer.weight, layer.bias, y, None))
    return y


@pytest.mark.parametrize("conv", [False, True])
def test_4_a_pruned_layer_has_a_program_of_its_own(conv: bool) -> None:
    rng = np.random.default_rng(0)
    layer: Any = SparseConv2d(dense(3, 8), (2, 5, 5), 2) if conv else SparseLinear(dense(7, 9))
    x = rng.standard_normal((5, *layer.in_shape)).astype(np.float32)
    assert np.array_equal(replayed(layer, x), layer.forward(x)[0])
    layer.prune(rng.random(layer.pattern.nnz) < 0.3)
    assert np.array_equal(replayed(layer, x), layer.forward(x)[0])
    kept = type(layer).from_config(layer.config(), layer.pattern, layer.params)
    assert np.array_equal(layer.forward(x)[0], kept.forward(x)[0])


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("need_dx", [False, True])
def test_4_a_cache_of_the_connections_before(conv: bool, need_dx: bool) -> None:
    rng = np.random.default_rng(0)
    layer: Any = SparseConv2d(dense(3, 8), (2, 5, 5), 2) if conv else SparseLinear(dense(7, 9))
    y, cache = layer.forward(rng.random((5, *layer.in_shape), np.float32))
    layer.prune(np.ones(layer.pattern.nnz, bool))  # none goes
    layer.backward(y, cache, need_dx=need_dx)
    layer.prune(rng.random(layer.pattern.nnz) < 0.7)
    with pytest.raises(ValueError, match="the cache is of other connections than the layer has now: call forward"):
        layer.backward(y, cache, need_dx=need_dx)
    y, cache = layer.forward(rng.random((5, *layer.in_shape), np.float32))
    layer.backward(y, cache, need_dx=need_dx)


@pytest.mark.parametrize("stays", [False, True])
def test_4_a_network_rewired_between_its_passes(stays: bool) -> None:
    net, workspace = network("csr"), Workspace()
    y, caches = net.forward(tiles(), workspace)
    pattern = net.patterns["0"]
    if stays:  # as many connections: no address changes, and plans are patched
        other = uniform_random(*pattern.shape, pattern.sparsity, np.random.default_rng(5))
        assert other.nnz == pattern.nnz
    else:
        other = pattern.select(np.arange(pattern.nnz) % 3 == 0)
    net.rewire({"0": other})
    with pytest.raises(ValueError, match="the cache is of other connections than the layer has now: call forward"):
        net.backward(y, caches, workspace)
    y, caches = net.forward(tiles(), workspace)
    net.backward(y, caches, workspace)


def tiles() -> Tiles:
    return Tiles(tiled(np.random.default_rng(1).random((20, 24), np.float32), np.float32), 20)


def replaced(net: Network) -> None:
    layer = net.layers[0]
    layer.params["weight"] = layer.params["weight"] * 2


def pruned_alone(net: Network) -> None:
    layer: Any = net.layers[0]
    layer.prune(np.arange(layer.pattern.nnz) % 2 == 0)


def other_dict(net: Network) -> None:
    net.layers[0].params = {name: array.copy() for name, array in net.layers[0].params.items()}


def gone(net: Network) -> None:
    net.layers[0].params = {}


@pytest.mark.parametrize("change", [replaced, pruned_alone, other_dict, gone])
def test_4_parameters_that_are_not_the_networks(change: Any, tmp_path: Path) -> None:
    net = network("csr")
    step, evaluation = Step(net, batches(), SGD(0.1)), Evaluation(net, DATA.test, normalisation(), cpu())
    step.run(0, 20)
    step.totals()
    evaluation()
    y, caches = net.forward(tiles(), workspace := Workspace())
    before = net.patterns["0"]
    pattern = before.select(np.arange(before.nnz) % 3 == 0)
    change(net)
    for use in (
        lambda: net.forward(tiles(), Workspace()),
        lambda: net.backward(y, caches, workspace),
        lambda: net.logits(np.zeros((3, 24), np.float32)),
        lambda: net.predict(np.zeros((3, 24), np.float32)),
        lambda: save(net, tmp_path / "model.safetensors"),
        lambda: net.rewire({"0": pattern}),
        lambda: (step.run(0, 20), step.totals()),
        evaluation,
    ):
        with pytest.raises(ValueError, match=r"layer 0, .*has parameters that are not .*: call flatten\(\)"):
            use()  # type: ignore[operator]
    assert not list(tmp_path.iterdir())
    if change is not gone:
        net.flatten()
        step.totals()
        step.run(0, 20)
        evaluation()
        save(net, tmp_path / "model.safetensors")


def test_4_two_networks_do_not_share_a_workspace() -> None:
    one, two, workspace = network("csr"), network("csr"), Workspace()
    y, caches = one.forward(tiles(), workspace)
    with pytest.raises(ValueError, match=r"the workspace is that of another, .*: make one for each network"):
        two.forward(tiles(), workspace)
    z, others = two.forward(tiles(), Workspace())
    with pytest.raises(ValueError, match="the workspace is that of another"):
        two.backward(z, others, workspace)
    one.backward(y, caches, workspace)
    one.forward(tiles(), workspace)
    del one
    two.forward(tiles(), workspace)


def normalisation() -> Normalisation:
    return Normalisation(DATA.shape, DATA.mean, DATA.std)


# ------------------------------------------------------------------------------------------------------------ 5: copies

COPIED = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])


def arrays_of(thing: Any, seen: set[int]) -> list[Any]:
    """All arrays that may be written to, however deep in a thing."""
    if id(thing) in seen or isinstance(thing, SparsityPattern | type | str):
        return []
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return [thing] if thing.flags.writeable else []
    parts = list(thing.values()) if isinstance(thing, dict) else list(thing) if isinstance(thing, list | tuple) else []
    if type(thing).__module__.startswith(("sparsecore.", "tests.")) and not isinstance(thing, CPU | Pool):
        parts += list(getattr(thing, "__dict__", {}).values())
    return [array for part in parts for array in arrays_of(part, seen)]


def assert_apart(one: Any, other: Any) -> None:
    mine, its = arrays_of(one, set()), arrays_of(other, set())
    assert mine and its and not any(np.shares_memory(a, b) for a in mine for b in its)


def layers() -> list[Any]:
    net = network("csr")
    conv = SparseConv2d(dense(3, 8), (2, 5, 5), 2)
    return [SparseLinear(dense(7, 9)), conv, net.layers[0], Sequential([SparseLinear(dense(7, 9))]), net.root]


@COPIED
@pytest.mark.parametrize("number", range(5))
def test_5_copies_of_layers(copied: Any, number: int) -> None:
    layer = layers()[number]
    x = np.random.default_rng(0).random((5, *layer.in_shape), np.float32)
    y, _ = layer.forward(x)
    twin = copied(layer)
    assert_apart(layer, twin)
    assert np.array_equal(twin.forward(x)[0], y)
    for _, each in layer.walk():
        for name in each.params:
            each.params[name][...] = 0
    assert np.array_equal(twin.forward(x)[0], y) and not np.array_equal(layer.forward(x)[0], y)


def test_5_the_copy_of_a_networks_layer_leaves_the_network_whole() -> None:
    net = network("csr")
    twin: Any = copy.copy(net.layers[0])
    twin.params["weight"] = twin.params["weight"] * 0
    net.forward(tiles(), Workspace())
    Network([twin])
    net.forward(tiles(), Workspace())


@COPIED
@pytest.mark.parametrize("make", [lambda: SGD(0.05, 0.9), Adam])
def test_5_copies_of_optimizers(copied: Any, make: Any) -> None:
    first, w = make(), np.zeros(SIZE, np.float32)
    assert copied(first).description() == first.description()
    stepped(first, w)
    second, v = copied(first), w.copy()
    assert_apart(first, second)
    stepped(first, w), stepped(second, v), stepped(first, w), stepped(second, v)
    assert np.array_equal(v, w) and first.description() == second.description()
    first.lr = 7.0
    assert second.lr != 7 and second.rates[0] != 7


def trainer(**options: Any) -> Trainer:
    return Trainer(network("csr"), DATA, SGD(0.05, 0.9), **{"epochs": 3, "batch_size": 32} | options)


@COPIED
@pytest.mark.parametrize("steps", [0, 2, 4, 7])
def test_5_copies_of_trainers_go_on_alone(copied: Any, steps: int) -> None:
    whole = trainer()
    result = {**(whole.run() or {}), "train_seconds": 0, "step_ms": 0}

    class Stop(Callback):
        def stepped(self, loop: Any) -> None:
            if loop.steps_done == steps:
                loop.stop()

    first = trainer(callbacks=[Stop()])
    if steps:
        assert first.run() is None
    second = copied(first)
    assert_apart(first, second)
    before = first.network.params.copy()
    for loop in (second, first):
        loop._stopping = False
        loop.callbacks.clear()
        assert {**(loop.run() or {}), "train_seconds": 0, "step_ms": 0} == result
        assert np.array_equal(loop.network.params, whole.network.params)
        assert len(list(loop.metrics)) == len(list(whole.metrics)) and loop._step.network is loop.network
        if loop is second:
            assert np.array_equal(first.network.params, before)


@COPIED
def test_5_a_copied_step_keeps_its_optimizer_with_its_network(copied: Any) -> None:
    """What an optimizer knows of connections moves with these, in the copy as in the first."""
    first = Step(network("csr"), batches(), SGD(0.05, 0.9))
    first.run(0, 32)
    second = copied(first)
    rng = np.random.default_rng(3)
    pattern = first.network.patterns["0"].select(rng.random(first.network.patterns["0"].nnz) < 0.5)
    for step in (first, second):
        step.network.rewire({"0": pattern})
        step.run(32, 32)
    assert np.array_equal(first.network.params, second.network.params)
    assert first.totals() == second.totals()


def test_5_a_trainer_with_a_folder_is_not_copied(tmp_path: Path) -> None:
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(ValueError, match=r"a run that writes to .*run cannot be copied: two would write there"):
            copied(trainer(out=tmp_path / "run"))


# ----------------------------------------------------------------------------------- 9: values that are no real numbers

HIDDEN = np.ma.masked_array(np.ones(6), [0, 0, 1, 0, 0, 0])
NO_NUMBERS = {
    "complex": np.ones(6) + 1j,
    "long double": np.ones(6, np.longdouble),
    "objects": np.array([1, 2, 3, 4, 5, None]),
    "text": np.array(list("123456")),
    "times": np.zeros(6, "m8[s]"),
    "hidden": HIDDEN,
}
LAYER = SparseLinear(dense(2, 3), dtype=np.float64)
SQUARE = SparseOperator(scipy.sparse.csr_array(np.ones((6, 6))))


def assigned(values: Any) -> None:
    net = Network([SparseLinear(dense(2, 2), dtype=np.float64)])
    net.params = values


def gathered(values: Any) -> None:
    net = Network([SparseLinear(dense(2, 3), dtype=np.float64)])
    net.layers[0].params["weight"] = values
    net.flatten()


def filled(values: Any) -> None:
    net = Network([SparseLinear(SparsityPattern.from_dense(np.eye(2, 3))[0], dtype=np.float64)])
    net.rewire({"0": dense(2, 3)}, {"0": values})


def matrix_of(values: Any) -> Any:
    matrix = scipy.sparse.csr_array(np.ones((2, 3)))
    matrix.data = values
    return matrix


def aimed(values: Any) -> None:
    split = Split(np.zeros((6, 24), np.uint8), np.zeros(6, np.int32))
    Batches(split, (24,), (0.5,), (1.0,), cpu(), targets=values.reshape(6, 1))


STRICT: dict[str, Any] = {  # doors where truths make no sense
    "weight": lambda values: SparseLinear(dense(2, 3), values),
    "bias": lambda values: SparseLinear(dense(6, 3), None, values),
    "conv weight": lambda values: SparseConv2d(dense(2, 3), (3, 2, 2), 1, weight=values),
    "params": assigned,
    "flatten": gathered,
    "fill": filled,
}
DOORS: dict[str, Any] = STRICT | {
    "x": lambda values: LAYER.forward(values.reshape(2, 3)),
    "logits": lambda values: Network([SparseLinear(dense(2, 3))]).logits(values.reshape(2, 3)),
    "A @ x": lambda values: SQUARE @ values,
    "x @ A": lambda values: values @ SQUARE,
    "gradient": lambda values: SQUARE.gradient(values, np.ones(6)),
    "normalisation": lambda values: Normalisation((3,), (0.0,), (1.0,))(values.reshape(2, 3)),
    "targets": aimed,
}
MATRICES: dict[str, Any] = {
    "operator": lambda values: SparseOperator(matrix_of(values)),
    "from_scipy": lambda values: SparseLinear.from_scipy(matrix_of(values)),
    "shared": lambda values: SparseLinear.from_scipy(matrix_of(values), share=True),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.parametrize("door", DOORS | MATRICES)
def test_9_what_is_no_real_number_is_refused_at_every_door(door: str, kind: str) -> None:
    use, values = (DOORS | MATRICES)[door], NO_NUMBERS[kind]
    with pytest.raises((TypeError, ValueError), match=r"must hold real numbers, got|has hidden entries|fill must be"):
        use(values)


@pytest.mark.parametrize("door", STRICT)
def test_9_truths_are_no_weights(door: str) -> None:
    with pytest.raises((TypeError, ValueError), match=r"must hold real numbers, got bool|fill must be"):
        STRICT[door](np.ones(6, bool))


@pytest.mark.parametrize("door", DOORS | MATRICES)
def test_9_what_holds_real_numbers_is_taken(door: str) -> None:
    unmasked = np.ma.masked_array(np.ones(6), np.zeros(6, bool))
    for values in (np.ones(6, ">f8"), np.ones(6, ">f4"), np.ones(6, ">i2"), np.ones(6, np.float16), unmasked):
        if door != "shared":
            (DOORS | MATRICES)[door](values)


def test_9_bytes_in_another_order_lose_nothing() -> None:
    values = np.random.default_rng(0).random(6)
    turned = values.astype(">f8")
    for layer in (SparseLinear.from_scipy(matrix_of(turned)), SparseLinear(dense(2, 3), turned, dtype=np.float64)):
        assert layer.dtype == np.float64 and np.array_equal(layer.weight, values)
    assert SparseOperator(matrix_of(turned)).dtype == np.float64
    relu = Network([ReLU((3,))])
    assert np.array_equal(ReLU((3,)).forward(turned.reshape(2, 3))[0], values.reshape(2, 3))
    assert relu.logits(turned.reshape(2, 3)).dtype == np.float32
    pytest.importorskip("torch")
    from sparsecore.interop.torch import SparseLinear as Module

    with pytest.raises(TypeError, match="the matrix must hold real numbers, got complex128"):
        Module.from_scipy(matrix_of(values + 1j))


@pytest.mark.parametrize("dtype", [complex, np.longdouble, bool, object])
def test_9_files_of_data(dtype: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((20, 4)).astype(dtype), y=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"x: expected (uint8 or floating|numbers), got|could not read it"):
        load(str(tmp_path / "data.npz"))


def test_9_hidden_samples() -> None:
    hidden = np.ma.masked_array(np.ones((2, 3), np.float32), [[0, 0, 0], [0, 1, 0]])
    with pytest.raises(DataError, match="must be plain arrays, got masked ones"):
        Split(hidden, np.zeros(2, np.int32))
    layer = SparseLinear(dense(2, 3))
    layer.params["weight"] = np.ma.masked_array(np.ones(6, np.float32), HIDDEN.mask)
    with pytest.raises(ValueError, match="weight must be a contiguous array of 6 float32 numbers"):
        layer.forward(np.ones((2, 3), np.float32))
