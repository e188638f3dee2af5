"""Training with activations in bfloat16: runs and their files, gradients, memory, and the same bits however it runs."""

from __future__ import annotations

import copy
import json
import pickle
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels.cpu import launch
from sparsecore.models.lenet5 import lenet5
from sparsecore.models.lenet300 import lenet300
from sparsecore.models.resnet import links, resnet

from sparsecore import evaluate, train
from sparsecore.commands.report import halves_line
from sparsecore.data import Dataset, Split
from sparsecore.data.augmentation import Augmentation
from sparsecore.data.batches import Batches
from sparsecore.inspect.dead import remove_dead
from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.dropout import Dropout
from sparsecore.layers.flatten import Flatten
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.norm import BatchNorm
from sparsecore.layers.pooling import AvgPool2d, MaxPool2d
from sparsecore.network import AT_ONCE, Network
from sparsecore.prune.folding import folded
from sparsecore.prune.saliency import curvature, gradient
from sparsecore.runs.config import RunConfig
from sparsecore.runs.kinds import ConfigError
from sparsecore.runs.trainer import Diverged, Trainer
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.runtime.tiles import LANES, Tiles, tiled
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.topology.wiring import Wiring
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step
from tests.command.given import After, bits, one_line

HALF = "bfloat16"
DIGITS = ["lenet300", "--dataset", "mnist-subset", "--epochs", "1", "--quiet", "--no-curves", "--activations", HALF]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = get_threads()
    yield
    set_threads(before)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images(samples: int, shape: tuple[int, ...], seed: int = 0) -> Dataset:
    """Noise in which each class has a brightness of its own."""
    rng = np.random.default_rng(seed)

    def split(count: int) -> Split:
        y = rng.integers(0, 10, count, dtype=np.int32)
        x = rng.integers(0, 120, (count, int(np.prod(shape)))) + 12 * y[:, None]
        return Split(x.astype(np.uint8), y)

    channels = shape[0] if len(shape) == 3 else 1
    return Dataset("noise", "noise", split(samples), split(40), shape, 10, (0.4,) * channels, (0.2,) * channels)


# -- the same bits ---------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
NETWORKS: dict[str, tuple[Callable[[], Network], tuple[int, ...]]] = {
    "dense LeNet-300-100": (lambda: lenet300(seed=1), (784,)),
    "sparse LeNet-5": (
        lambda: lenet5([uniform_random(50, 500, 0.9, np.random.default_rng(2)),
                        uniform_random(500, 800, 0.9, np.random.default_rng(3))], seed=1), (1, 28, 28)
    ),
    "ResNet-8": (lambda: resnet(8, width=0.5, in_shape=(3, 16, 16), seed=1), (3, 16, 16)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_number_of_threads_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "WORTH_CUTTING", 1)
    make, shape = NETWORKS[name]
    data, found = images(120, shape), []
    augment = Augmentation(shape, 2, True) if len(shape) == 3 else None
    for count in (1, 2, 3, 5):
        set_threads(count)
        network = make().to(activations=HALF)
        trainer = Trainer(network, data, SGD(0.02, 0.9), epochs=1, batch_size=50, augment=augment)
        trainer.run()
        assert network.activations == HALF
        loss = [record["train_loss"] for record in trainer.metrics if record["event"] == "epoch"]
        found.append((network.params.tobytes(), network.table.values.tobytes(), loss))
    assert all(each == found[0] for each in found[1:])
    exact = make()
    Trainer(exact, data, SGD(0.02, 0.9), epochs=1, batch_size=50, augment=augment).run()
    assert exact.params.tobytes() != found[0][0]
    moved = [np.linalg.norm(each - make().params) for each in (exact.params, network.params)]
    assert np.linalg.norm(exact.params - network.params) < 0.2 * moved[0] < 0.4 * moved[1]


@pytest.mark.parametrize("way", [
    "--dense --prune gradual --prune-to 0.9 --prune-start 5 --prune-end 25 --prune-every 5",
    "--random --sparsity 0.9 --rewire set --every 7", "--random --sparsity 0.9 --rewire rigl --every 7",
    "--random --sparsity 0.9 --rewire regrow --start-sparsity 0.5 --every 7",
])  # fmt: skip
def test_a_run_that_goes_on_keeps_its_bits(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections go and move as they do in float32."""
    line = [*DIGITS, *way.split(), "--batch-size", "100"]
    assert train.main([*line, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        After(patch, 20, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*line, "--out", "cut", "--threads", "2"]) == 130
    assert train.main(["--resume", "--out", "cut", "--quiet", "--no-curves"]) == 0
    assert bits("cut") == bits("whole")
    assert json.loads(Path("cut/config.json").read_text())["options"]["activations"] == HALF
    events = {record["event"] for record in map(json.loads, Path("cut/metrics.jsonl").read_text().splitlines())}
    assert ("prune" if "--prune" in way else "rewire") in events


def test_a_run_may_go_on_in_the_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*DIGITS[:-2], "--radix", "10,10"]
    with monkeypatch.context() as patch:
        After(patch, 20, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*line, "--out", "run"]) == 130
    assert train.main(["--resume", "--out", "run", "--activations", HALF, "--no-curves"]) == 0
    said = capsys.readouterr().out
    assert "activations in bfloat16: a batch of" in said
    assert json.loads(Path("run/config.json").read_text())["options"]["activations"] == HALF
    assert train.main([*line, "--out", "exact"]) == 0
    assert bits("run")[0] != bits("exact")[0]


# -- the commands ----------------------------------------------------------------------------------------------------


def test_evaluate_does_as_the_run_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*DIGITS, "--radix", "10,10", "--out", "run"]) == 0
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    capsys.readouterr()
    losses = []
    for more in ([], ["--activations", HALF], ["--activations", "float32"]):
        assert evaluate.main(["run", "--json", *more]) == 0
        losses.append(json.loads(capsys.readouterr().out)["test_loss"])
    assert losses[0] == losses[1] == last["test_loss"] != losses[2]
    assert abs(losses[2] - losses[0]) < 0.01 * losses[0]


def test_a_batch_that_pads_is_said() -> None:
    assert halves_line(100).endswith("a batch of 100 fills 4 tiles of 32: 128")
    assert halves_line(128).endswith("a batch of 128 fills 4 tiles of 32")
    assert halves_line(10).endswith("a batch of 10 fills 1 tile of 32: 32")


@pytest.mark.parametrize("command", [train, evaluate])
@pytest.mark.parametrize(("asked", "problem"), [
    ("float16", "--activations: cannot be float16, whose smallest normal number is 6e-5: gradients vanish; bfloat16 "
                "has the range of float32"),
    ("int8", "--activations: expected float32 or bfloat16, got 'int8'"),
])  # fmt: skip
def test_what_cannot_be_is_refused(
    command: Any, asked: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["lenet300", "--out", "run"] if command is train else ["run"]
    assert command.main([*first, "--activations", asked]) == 2
    assert problem in one_line(capsys, f"python -m {command.__name__}")
    assert not Path("run").exists()
    with pytest.raises(ConfigError, match=problem.removeprefix("--").split(",")[0]):
        RunConfig(model="lenet300", activations=asked)  # type: ignore[arg-type]


# -- gradients -------------------------------------------------------------------------------------------------------


def drawn(data: st.DataObject) -> tuple[Callable[[Any], Network], tuple[int, ...]]:
    """A random network, in either dtype, and the shape of its samples.

    Biases keep every ReLU off its kink: past it a gradient is another one, and no rounding of it.
    """
    seed, sparsity = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.0, 0.5, 0.9]))
    channels, height, width = shape = tuple(data.draw(st.integers(*ends)) for ends in ((1, 3), (4, 9), (4, 9)))
    filters, norm, convolved = data.draw(st.integers(1, 6)), data.draw(st.booleans()), data.draw(st.booleans())
    sizes = data.draw(st.lists(st.integers(1, 40), max_size=3))

    def make(dtype: Any) -> Network:
        rng = np.random.default_rng(seed)  # of connections, not of values, which are other ones in float64
        options: Any = {"rng": np.random.default_rng(seed), "dtype": dtype}
        layers: list[Any] = []
        features = channels * height * width
        if convolved:
            pattern = uniform_random(filters, channels * 9, sparsity, rng)
            bias = False if norm else None
            conv = SparseConv2d(pattern, shape, 3, padding=1, bias=bias, relu=not norm, **options)
            pool = AvgPool2d(conv.out_shape, 2)
            norms = [BatchNorm(conv.out_shape, relu=True, dtype=dtype)] if norm else []
            layers, features = [conv, *norms, pool, Flatten(pool.out_shape)], int(np.prod(pool.out_shape))
        for into, out in pairwise([features, *sizes]):
            layers.append(SparseLinear(uniform_random(out, into, sparsity, rng), relu=True, **options))
        network = Network([*layers, SparseLinear(dense(10, sizes[-1] if sizes else features), **options)])
        biases = [layer.params[name] for _, layer in network.walk() for name in {"bias", "shift"} & layer.params.keys()]
        for k, values in enumerate(biases):  # each far from what the one before lets come
            values[:] = 9 * 10**k * rng.choice([-1, 1], values.shape)
        return network

    return make, shape if convolved else (channels * height * width,)


def gradients(network: Network, x: Any, dz: Any) -> list[Any]:
    """Of Σ dz · z with respect to every parameter: a softmax would make more of what is rounded than there is."""
    shape = network.layers[0].in_shape
    store = Batches(Split(x, np.zeros(len(x), np.int32)), shape, [0.0], [1.0], cpu(), network.dtype)
    workspace = Workspace(cpu(), training=True)
    store.seek(0, len(x))
    packed, _ = store.pack(workspace, halves=network.activations == HALF)
    z, caches = network.forward(packed, workspace)
    assert z.data.dtype == network.dtype
    network.backward(Tiles(tiled(dz, network.dtype), len(x)), caches, workspace)
    return [
        workspace.at(path).array(name, value.shape, value.dtype).astype(np.float64)
        for path, layer in network.walk() if not layer.children for name, value in sorted(layer.params.items())
    ]  # fmt: skip


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_gradients_are_those_of_float64_within_bfloat16s_bounds(data: st.DataObject) -> None:
    make, shape = drawn(data)
    batch = data.draw(st.sampled_from([2, 16, 31, 33, 64, 100]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.uniform(-1, 1, (batch, int(np.prod(shape)))).astype(np.float32)
    dz = rng.standard_normal((batch, 10)).astype(np.float32)
    network, exact = make(np.float32).to(activations=HALF), make(np.float64)
    exact.params = network.params.astype(np.float64)
    found, right = gradients(network, x, dz), gradients(exact, x, dz)
    whole = np.linalg.norm(np.concatenate([each.ravel() for each in right]))
    # What is stored is off by 2⁻⁹ of itself at most: x, each y and each dy on the way.
    bound = 2.0**-9 * 2 * len(network.layers)
    for mine, wanted in zip(found, right, strict=True):
        # Where a batch norm takes a mean away, what is left of a gradient may be small beside what was rounded.
        assert np.linalg.norm(mine - wanted) <= bound * max(np.linalg.norm(wanted), 0.1 * whole)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_the_activations_of_a_step_take_half_the_memory() -> None:
    """A step of ResNet-20, recorded and not run: what it keeps beside parameters and their gradients."""
    wired = Wiring("random", sparsity=0.9).patterns(links(20, (3, 32, 32)), 0)[0]
    data, kept = images(32, (3, 32, 32)), []
    for activations in ("float32", HALF):
        network = resnet(20, wired).to(activations=activations)
        store = Batches(data.train, (3, 32, 32), data.mean, data.std, cpu())
        step = Step(network, store, SGD(0.1))
        step.prepare(32)
        kept.append(step._workspaces[32].nbytes - step.grads.nbytes)
    assert kept[0] > 25e6 and 0.49 < kept[1] / kept[0] < 0.51, kept


def test_twice_as_many_samples_are_evaluated_at_once() -> None:
    network = resnet(8, in_shape=(3, 32, 32))
    exact = network.samples_at_once(10**6)
    numbers = sum(int(np.prod(layer.out_shape)) for _, layer in network.walk() if not layer.children)
    assert exact == AT_ONCE // (4 * numbers) // LANES * LANES
    halves = network.to(activations=HALF).samples_at_once(10**6)
    assert halves == AT_ONCE // (64 * numbers) * 32 and exact < 2 * exact - 32 <= halves <= 2 * exact + 32
    assert network.samples_at_once(1) == 32 and network.samples_at_once(100) == 100


# -- networks --------------------------------------------------------------------------------------------------------


def small() -> Network:
    rng = np.random.default_rng(0)
    conv = SparseConv2d(uniform_random(6, 27, 0.5, rng), (3, 8, 8), 3, padding=1, bias=False, rng=rng)
    return Network([
        conv, BatchNorm((6, 8, 8), relu=True), MaxPool2d((6, 8, 8), 2), Dropout((6, 4, 4), 0.3), Flatten((6, 4, 4)),
        SparseLinear(uniform_random(40, 96, 0.8, rng), relu=True, rng=rng), SparseLinear(dense(10, 40), rng=rng),
    ]).to(activations=HALF)  # fmt: skip


def test_copies_keep_it_and_answer_alike() -> None:
    network = small()
    x = np.random.default_rng(1).standard_normal((50, 192)).astype(np.float32)
    answers = network.logits(x)
    for other in (copy.copy(network), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.activations == HALF and np.array_equal(other.logits(x), answers)
    assert folded(network).activations == remove_dead(network).activations == HALF
    assert not np.array_equal(copy.deepcopy(network).to(activations="float32").logits(x), answers)


def test_a_compiled_network_stores_them_as_the_network_did() -> None:
    network = small()
    x = np.random.default_rng(1).standard_normal((50, 192)).astype(np.float32)
    halves, exact = network.compile(50), copy.deepcopy(network).to(activations="float32").compile(50)
    network.to(activations="float32")
    found, right = halves(x), exact(x)
    assert found.dtype == np.float32 and not np.array_equal(found, right)
    assert np.abs(found - right).max() < 0.05 * np.abs(right).max()
    assert np.array_equal(pickle.loads(pickle.dumps(halves))(x), found)
    del vars(halves)["_halves"]  # as an earlier version pickled it
    assert np.array_equal(pickle.loads(pickle.dumps(halves))(x), right)


def test_dropout_and_augmentation_draw_what_they_draw_in_float32() -> None:
    """They ask for the sample, which lies elsewhere in its tile."""
    shape = (1, 8, 8)
    kept = []
    for activations in ("float32", HALF):
        network = Network([Dropout((64,), 0.5), SparseLinear(dense(10, 64), rng=np.random.default_rng(0))])
        network.to(activations=activations)
        data = images(70, shape)
        store = Batches(data.train, (64,), data.mean, data.std, cpu(), augment=Augmentation(shape, 2, True))
        store.shuffle(3, 1)
        step = Step(network, store, SGD(0.0))
        step.run(0, 70)
        y = step.output(70, "0")
        kept.append(np.moveaxis(y, -1, 1).reshape(len(y) * LANES, -1)[:70])
    # A pixel that is dropped is zero; so is none that is kept, normalised by a mean that no pixel has.
    assert np.array_equal(kept[0] == 0, kept[1] == 0) and 0.4 < (kept[0] == 0).mean() < 0.6
    np.testing.assert_allclose(kept[1], kept[0], rtol=2.0**-7)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_divergence_names_the_layer_in_whose_outputs_it_began(layer: int) -> None:
    network = lenet300(seed=3).to(activations=HALF)
    network.layers[layer].params["weight"][:] = 3e38
    trainer = Trainer(network, images(100, (784,)), SGD(0.1), epochs=1, batch_size=50, check_every_step=True)
    with pytest.raises(Diverged, match=f"not finite: began in the outputs of layer {layer}, SparseLinear"):
        trainer.run()


def test_saliencies_are_those_of_float32() -> None:
    network, data = lenet300(seed=3), images(100, (784,))
    store = Batches(data.train, (784,), data.mean, data.std, cpu())
    right = [look(network, store, 100) for look in (gradient, curvature)]
    network.to(activations=HALF)
    for saliency, wanted in zip((gradient, curvature), right, strict=True):
        for path, found in saliency(network, store, 100).items():
            assert np.array_equal(found, wanted[path])


def test_gradients_of_connections_that_are_not_there() -> None:
    """What RigL looks at: from operands in bfloat16, in float32."""
    data, found = images(96, (784,)), []
    wired = [uniform_random(300, 784, 0.9, np.random.default_rng(0)), uniform_random(100, 300, 0.9, RNG)]
    for activations in ("float32", HALF):
        network = lenet300(wired, seed=3).to(activations=activations)
        step = Step(network, Batches(data.train, (784,), data.mean, data.std, cpu()), SGD(0.0))
        step.run(0, 96)
        found.append(np.array(step.gradient_at("1", dense(100, 300))))
        own = step.gradient_at("1", wired[1])
        assert np.array_equal(own, network.views(step.grads)["1"]["weight"])
    assert np.linalg.norm(found[1] - found[0]) < 0.05 * np.linalg.norm(found[0]) > 0
