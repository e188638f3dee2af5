"""The whole engine on the emulated device, or on a card: trained as on the CPU, pruned, saved, and never mixed up."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sparsecore.models.lenet5 import lenet5, links
from sparsecore.models.lenet300 import lenet300

from sparsecore.data import Dataset, Split
from sparsecore.data.augmentation import Augmentation
from sparsecore.data.batches import Batches
from sparsecore.layers import AvgPool2d, Dropout, Flatten, MaxPool2d, ReLU, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.prune import by_threshold, curvature, gradient, refresh, rewind, to_sparsity
from sparsecore.prune.pruner import Pruner, sparsity_rule
from sparsecore.prune.schedule import gradual
from sparsecore.runs.checkpoint import load, read, save
from sparsecore.runs.trainer import Callback, Trainer
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import CUDA, cpu
from sparsecore.runtime.tiles import LANES, Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, fit_radix_net, uniform_random
from sparsecore.topology.wiring import full
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from ..small import network as small_network
from ..small import numbers, tiled
from .emulator import stand_in
from .machines import machine

STEPS = 50


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on no stream can be captured."""

    def now() -> None:
        def refused(stretch: Any) -> None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")

        launch = importlib.import_module("sparsecore.kernels.cuda.launch")
        monkeypatch.setattr(launch.Stretch, "_captured", refused)

    return now


# ------------------------------------------------------------------------------------------ what is trained


def fully_connected() -> Network:
    """LeNet-300-100, wired as a RadiX-Net that keeps a tenth of the connections."""
    return lenet300(fit_radix_net([[10, 10]], (784, 300, 100)).patterns)


def hypersparse() -> Network:
    """LeNet-300-100 with a hundredth of the connections, walked in their order."""
    rng = np.random.default_rng(0)
    return lenet300([uniform_random(300, 784, 0.99, rng), uniform_random(100, 300, 0.99, rng)], format="coo")


def lenet_5() -> Network:
    """LeNet-5 with a tenth of the connections of its middle layers."""
    rng = np.random.default_rng(1)
    return lenet5([uniform_random(*full(link).shape, 0.9, rng) for link in links((1, 28, 28))])


def convolutional(size: int, filters: tuple[int, int], hidden: int, sparsity: float) -> Network:
    """The same row of layers, smaller."""
    rng = np.random.default_rng(1)
    first, second = filters
    half = (size - 4) // 2
    quarter = (half - 4) // 2
    inputs = second * quarter**2
    return Network([
        SparseConv2d(uniform_random(first, 25, 0.4, rng), (1, size, size), 5, relu=True, rng=rng),
        MaxPool2d((first, size - 4, size - 4), 2),
        SparseConv2d(uniform_random(second, first * 25, sparsity, rng), (first, half, half), 5, relu=True, rng=rng),
        MaxPool2d((second, half - 4, half - 4), 2),
        Flatten((second, quarter, quarter)),
        SparseLinear(uniform_random(hidden, inputs, sparsity, rng), relu=True, rng=rng),
        SparseLinear(dense(10, hidden), rng=rng),
    ])  # fmt: skip


def everything() -> Network:
    """Padding, stride, COO, a ReLU of its own, mean pooling and dropout."""
    rng = np.random.default_rng(2)
    return Network([
        SparseConv2d(uniform_random(6, 9, 0.3, rng), (1, 12, 12), 3, stride=2, padding=1, rng=rng),
        ReLU((6, 6, 6)),
        AvgPool2d((6, 6, 6), 2),
        SparseConv2d(uniform_random(8, 54, 0.5, rng), (6, 3, 3), 3, padding=1, relu=True, format="coo", rng=rng),
        Dropout((8, 3, 3), 0.2),
        Flatten((8, 3, 3)),
        SparseLinear(uniform_random(30, 72, 0.5, rng), relu=True, format="coo", rng=rng),
        Dropout((30,), 0.3),
        SparseLinear(dense(10, 30), rng=rng),
    ])  # fmt: skip


def samples(network: Network, count: int = 300) -> Split:
    """Ten blurred pictures, one a class, each with its own noise: something to learn."""
    rng = np.random.default_rng(3)
    shape = network.layers[0].in_shape
    y = rng.integers(0, 10, count, dtype=np.int32)
    pictures = rng.integers(0, 160, (10, int(np.prod(shape))))
    x = pictures[y] + rng.integers(0, 96, (count, pictures.shape[1]))
    return Split(x.astype(np.uint8), y)


def losses(network: Network, device: Device, batch: int, steps: int = STEPS, *, clip: float | None = 5.0) -> np.ndarray:
    """The loss of every step of a training run."""
    network.to(device)
    shape = network.layers[0].in_shape
    augment = Augmentation(shape, 2, flip=True) if len(shape) == 3 else None
    store = Batches(samples(network), shape, [0.4], [0.3], device, augment=augment)
    step = Step(network, store, SGD(0.02, 0.9, 1e-4, nesterov=True, clip_norm=clip))
    found = []
    for number in range(steps):
        if number % 5 == 0:
            store.shuffle(7, number // 5)
        step.run(number % 5 * batch, batch)
        found.append(step.totals().mean_loss)
    return np.array(found)


@pytest.mark.parametrize(
    "make, batch",
    [(fully_connected, 60), (hypersparse, 60), (lenet_5, 16), (everything, 40)],
    ids=["LeNet-300-100", "hypersparse", "LeNet-5", "every layer"],
)
def test_losses_are_those_of_the_cpu(a_cuda: CUDA, make: Callable[[], Network], batch: int) -> None:
    expected = losses(make(), cpu(), batch)
    np.testing.assert_allclose(losses(make(), a_cuda, batch), expected, rtol=1e-4)
    assert expected[-1] < expected[0]


# ------------------------------------------------------------------------------------------ steps


def test_a_step_moves_nothing_and_waits_for_nobody() -> None:
    with machine("forward") as device:
        network = small_network().to(device)
        split = Split(np.zeros((70, 20), np.uint8), np.arange(70, dtype=np.int32) % 5)
        store, optimizer = Batches(split, (20,), [0.3], [0.25], device), SGD(0.1, 0.9, clip_norm=1.0)
        step = Step(network, store, optimizer)
        for start in (0, 32):
            step.run(start, 32)
        traffic = stand_in.traffic()
        before = copy.copy(vars(traffic))
        for k in range(3):
            optimizer.lr = 0.05 / (k + 1)
            step.run(32 * (k % 2), 32)
        moved = {name: count - before[name] for name, count in vars(traffic).items()}
        assert moved.pop("launches") > 0
        assert moved == {"to_device": 0, "to_host": 0, "synchronised": 0}
        assert step.totals().samples == 5 * 32 and traffic.to_host == before["to_host"] + 1


def test_a_captured_step_and_the_plain_path_give_the_same_bits(a_cuda: CUDA, no_graphs: Callable[[], None]) -> None:
    def trained() -> tuple[bytes, bytes]:
        network = everything().to(a_cuda)
        return losses(network, a_cuda, 33, 6).tobytes(), a_cuda.get(network.params).tobytes()

    captured = trained()
    no_graphs()
    assert trained() == captured


def test_what_changes_between_steps_counts_in_a_captured_one(a_cuda: CUDA) -> None:
    """Rates, values, structure and velocity: as on the CPU."""
    runs = []
    for device in (cpu(), a_cuda):
        network = fully_connected().to(device)
        store, optimizer = Batches(samples(network), (784,), [0.4], [0.3], device), SGD(0.05, 0.9)
        step, found = Step(network, store, optimizer), []
        for number in range(9):
            if number == 3:
                optimizer.lr = 0.01
            if number == 5:
                to_sparsity(network, 0.95, optimizer=optimizer)
            if number == 7:
                device.fill(network.params, np.full(network.params.shape, 0.01, np.float32))
            step.run(number * 30, 30)
            found.append(step.totals().mean_loss)
        runs.append(found)
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-4)


# ------------------------------------------------------------------------------------------ runs, files, pruning


def trainer(network: Network, device: Device, out: Any = None, stop_after: int = 0) -> Trainer:
    """A run of ten steps that prunes from 50% to 80%."""

    class Stop(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if trainer.done == stop_after:
                trainer.stop()

    schedule = gradual(2, 8, 2)
    pruner = Pruner(schedule, sparsity_rule(schedule, 0.8, initial=0.5))
    train, test, shape = samples(network), samples(network, 50), network.layers[0].in_shape
    return Trainer(
        network, Dataset("pictures", "made up", train, test, shape, 10, (0.4,), (0.3,)), SGD(0.05, 0.9), epochs=2,
        batch_size=60, device=device, out=out, callbacks=[pruner, Stop()],
    )  # fmt: skip


def test_runs_go_on_on_another_device(a_cuda: CUDA, tmp_path: Any) -> None:
    def network() -> Network:
        return convolutional(16, (4, 6), 20, 0.5)

    expected = trainer(network(), cpu()).run()
    assert expected is not None
    for number, (first, second) in enumerate([(cpu(), a_cuda), (a_cuda, cpu())]):
        assert trainer(network(), first, tmp_path / str(number), stop_after=6).run() is None
        saved = read(tmp_path / str(number))
        assert saved.network.device is cpu() and isinstance(saved.velocity, np.ndarray)
        going_on = trainer(saved.network, second)
        going_on.restore(saved)
        result = going_on.run()
        assert result is not None and result["device"] == second.name
        assert result["connections"] == expected["connections"]
        assert result["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
        assert result["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)


def test_files_and_copies(a_cuda: CUDA, tmp_path: Any) -> None:
    network = convolutional(16, (4, 6), 20, 0.5).to(a_cuda)
    x = samples(network, 40).x / np.float32(255)
    velocity = a_cuda.put(numbers(network.params.shape, dtype=np.float32))
    expected = network.logits(x)
    save(network, tmp_path / "a.safetensors", velocity=velocity)
    saved = read(tmp_path / "a.safetensors")
    assert np.array_equal(saved.velocity, a_cuda.get(velocity))
    assert np.array_equal(saved.network.params, a_cuda.get(network.params))
    assert np.array_equal(load(tmp_path / "a.safetensors").to(a_cuda).logits(x), expected)
    twin = copy.deepcopy(network)
    assert twin.device is a_cuda and twin.params is not network.params
    assert np.array_equal(twin.logits(x), expected)


def test_pruning_is_the_cpus(a_cuda: CUDA) -> None:
    """The same connections stay, with the same values and the same velocity, whichever way they are chosen."""

    def left(device: Device, prune: Callable[[Network, Batches, SGD], Any]) -> list[Any]:
        network = convolutional(16, (4, 6), 12, 0.3)
        optimizer = SGD(0.05, 0.9)
        optimizer.velocity = np.linspace(-1, 1, network.params.size, dtype=np.float32)
        network.to(device)
        optimizer.to(device)
        prune(network, Batches(samples(network), network.layers[0].in_shape, [0.4], [0.3], device), optimizer)
        patterns = [(p.indptr.tolist(), p.indices.tolist()) for p in network.patterns.values()]
        return [patterns, device.get(network.params).tolist(), device.get(optimizer.velocity).tolist()]

    def by_gradient(network: Network, store: Batches, optimizer: SGD) -> None:
        to_sparsity(network, 0.7, saliencies=gradient(network, store, 100), optimizer=optimizer)

    def by_curvature(network: Network, store: Batches, optimizer: SGD) -> None:
        to_sparsity(network, 0.7, saliencies=curvature(network, store, 100), optimizer=optimizer, globally=True)

    ways: list[Callable[[Network, Batches, SGD], Any]] = [
        lambda net, store, optimizer: to_sparsity(net, 0.8, optimizer=optimizer),
        lambda net, store, optimizer: by_threshold(net, 0.1, optimizer=optimizer),
        by_gradient,
        by_curvature,
        lambda net, store, optimizer: refresh(net, 3, optimizer),
        lambda net, store, optimizer: (
            to_sparsity(net, 0.8, optimizer=optimizer), rewind(net, convolutional(16, (4, 6), 12, 0.3), optimizer)
        ),
    ]  # fmt: skip
    for way in ways:
        assert left(a_cuda, way) == left(cpu(), way)


# ------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize("format", ["csr", "coo"])
@pytest.mark.parametrize(("shape", "kernel"), [((5, 3, 6), (3, 2)), ((5, 4, 6), (3, 2)), ((2, 7, 7), (7, 7))])
def test_a_batch_of_none_has_no_gradient(a_cuda: CUDA, shape: Any, kernel: Any, format: Any) -> None:
    pattern = dense(3, shape[0] * kernel[0] * kernel[1])
    layer = SparseConv2d(pattern, shape, kernel, format=format).to(a_cuda)
    workspace = Workspace(a_cuda)
    for batch in (3, 0):  # the first leaves numbers behind
        _, cache = layer.forward(numbers((batch, *shape), dtype=np.float32), workspace)
        _, grads = layer.backward(np.ones((batch, *layer.out_shape), np.float32), cache, workspace)
    assert not a_cuda.get(grads["weight"]).any() and not a_cuda.get(grads["bias"]).any()


def test_networks_and_layers_move_there_and_back(a_cuda: CUDA) -> None:
    network, x = convolutional(16, (4, 6), 12, 0.3), numbers((20, 1, 16, 16), dtype=np.float32)
    before, expected = network.params.copy(), network.logits(x)
    version = network.version
    assert network.to(a_cuda) is network and network.device is a_cuda and network.version == version + 1
    assert all(a_cuda.owns(array) for layer in network.layers for array in layer.params.values())
    np.testing.assert_allclose(network.logits(x), expected, rtol=1e-4, atol=1e-5)
    assert network.to(a_cuda).version == version + 1
    assert np.array_equal(network.to("cpu").params, before) and np.array_equal(network.logits(x), expected)
    layer = network.layers[0]
    alone = copy.deepcopy(layer).to(a_cuda)
    y, cache = alone.forward(x)
    dx, grads = alone.backward(y, cache)
    on_host, cache = layer.forward(x)
    np.testing.assert_allclose(y, on_host, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, layer.backward(y, cache)[0], rtol=1e-4, atol=1e-4)
    assert a_cuda.owns(grads["weight"])


def test_host_and_device_are_not_mixed(a_cuda: CUDA) -> None:
    network, here = small_network().to(a_cuda), small_network()
    host, there = tiled(numbers((3, 20), dtype=np.float32)), a_cuda.put(np.zeros((1, 20, LANES), np.float32))
    on_device = Tiles(there, 3)
    workspace, device_workspace = Workspace(), Workspace(a_cuda)
    layer = network.layers[0]
    split = Split(np.zeros((40, 20), np.uint8), np.zeros(40, np.int32))
    stores = [Batches(split, (20,), [0.3], [0.25], device) for device in (cpu(), a_cuda)]
    started = SGD(0.1)
    Step(here, stores[0], started).run(0, 5)
    data = layer.params["weight"]
    plan, out = layer.plan, np.zeros((1, 12, LANES), np.float32)
    mixes: dict[str, Callable[[], Any]] = {
        "network, host tiles": lambda: network.forward(host, device_workspace),
        "network, host workspace": lambda: network.forward(on_device, workspace),
        "host network, device tiles": lambda: here.forward(on_device, workspace),
        "layer, host tiles": lambda: layer.forward(host),
        "layer, host workspace": lambda: layer.forward(on_device, workspace),
        "host layer, device tiles": lambda: here.layers[0].forward(on_device),
        "ordinary input there": lambda: here.layers[0].forward(there),
        "ordinary input of a network": lambda: here.predict(there),
        "params": lambda: setattr(network, "params", here.params),
        "optimizer of the host": lambda: Step(network, stores[1], started).run(0, 5),
        "host step": lambda: Step(network, stores[0], SGD(0.1)),
        "host network in a step": lambda: Step(here, stores[1], SGD(0.1)),
        "one layer there": lambda: Network([here.layers[0], network.layers[1], here.layers[2]]),
        "kernel there, host array": lambda: a_cuda.launcher().spmm(plan.forward, plan.grid(1), data, there, None, out),
        "get": lambda: a_cuda.get(out),
    }  # fmt: skip
    for name, mix in mixes.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            mix()
        message = str(caught.value)
        assert "\n" not in message and ("cuda" in message or "NumPy array" in message), name
    assert np.isfinite(network.logits(numbers((3, 20), dtype=np.float32))).all()  # nothing is broken by that


def test_a_second_card() -> None:
    with machine("forward"):
        from sparsecore.runtime.devices import cuda

        second, x = cuda(1), numbers((3, 20), dtype=np.float32)
        network = small_network()
        expected = network.logits(x)
        network.to("cuda:1")
        assert network.device is second and second.name == "cuda:1"
        np.testing.assert_allclose(network.logits(x), expected, rtol=1e-5, atol=1e-6)
        with pytest.raises(TypeError, match=r"cuda:1.*cuda:0"):
            network.forward(Tiles(cuda().put(np.zeros((1, 20, LANES), np.float32)), 3), Workspace(second))
        np.testing.assert_allclose(network.to("cuda").logits(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("asked", "fit"), [("put", 0), ("put", 3), ("empty", 0)])
def test_a_full_card_leaves_the_network_where_it_was(monkeypatch: pytest.MonkeyPatch, asked: str, fit: int) -> None:
    """Whether a layer's array does not fit, or the flat one of all parameters."""
    with machine("forward"):
        from sparsecore.runtime.devices import cuda

        network, x = small_network(), numbers((3, 20), dtype=np.float32)
        expected, given, rest = network.logits(x), network.params, iter(range(fit))
        make = getattr(type(cuda()), asked)

        def short(*arguments: Any) -> Any:
            if next(rest, None) is None:
                raise MemoryError
            return make(*arguments)

        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(type(cuda()), asked, short)
            network.to("cuda")
        assert network.device.name == "cpu" and network.params is given
        assert np.array_equal(network.logits(x), expected)
        given[:] = 0
        assert not network.logits(x).any()  # the layers' parameters are still views of the network's
        assert network.to("cuda").device is cuda()


def test_the_command_line_trains_on_it(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    from sparsecore import evaluate, train

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    np.savez(tmp_path / "own.npz", x=(rng.normal(size=(200, 12)) + 2 * y[:, None]).astype(np.float32), y=y)
    run = ["lenet300", "--random", "--sparsity=0.9", f"--dataset={tmp_path / 'own.npz'}", "--epochs=2", "--quiet"]
    with machine("forward"):
        assert train.main([*run, "--device", "auto", "--out", str(tmp_path / "a")]) == 0
        assert ", on cuda" in capsys.readouterr().out
        assert evaluate.main([str(tmp_path / "a"), "--device", "cuda:1"]) == 0
        there = capsys.readouterr().out
        assert train.main([*run, "--device", "cuda:7"]) == 2
        assert "one of 2 GPUs, from 0, got 7" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == there


# ------------------------------------------------------------------------------------------ what answers


def test_a_compiled_network_answers_as_on_the_cpu(a_cuda: CUDA) -> None:
    """In tiles, whatever their number; and it stays as it was, while the network goes on."""
    net = small_network()
    x = numbers((17, 20), 1, np.float32)
    wanted = net.compile(17)
    net.to(a_cuda)
    compiled = net.compile(17)
    for batch in (1, 8, 17):
        np.testing.assert_allclose(compiled(x[:batch]), wanted(x[:batch]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(net.logits(x[:batch]), wanted(x[:batch]), rtol=1e-5, atol=1e-5)
    net.params = a_cuda.zeros(net.params.shape, net.dtype)
    assert not net.logits(x[:1]).any()
    np.testing.assert_allclose(compiled(x), wanted(x), rtol=1e-5, atol=1e-5)
