"""Plain Python in a recorded step: it runs at every step, and gives what the same thing made of kernels gives."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import numpy as np
import pytest

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import Dropout, Layer, ReLU, SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.runtime.recording import NotRecordedError, recorded
from sparsecore.runtime.tiles import Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.training.losses import CrossEntropy, SquaredError
from sparsecore.training.optimizers import SGD, Optimizer
from sparsecore.training.step import Step

from .small import Array, matrix_of, numbers, tiled, untiled
from .small import network as small_network
from .small import store as small_store

pytestmark = pytest.mark.filterwarnings("ignore:.*is plain Python")

SIZES = (40, 30, 20, 6)


# ---------------------------------------------------------------------------------------------- plain Python


class ByHand(SparseLinear):
    """The sparse layer in NumPy, every result a new array."""

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        y = np.einsum("of,tfl->tol", self.to_scipy().toarray(), x.data) + self.bias[:, None]
        return Tiles(np.maximum(y, 0) if self.relu else y, x.batch, rectified=self.relu), (x, y)

    def backward_tiles(self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True) -> Any:
        x, y = cache
        slope = np.where(y > 0, dy.data, 0) if self.relu and not dy.masked else dy.data
        full = np.einsum("tol,tfl->of", slope, x.data)
        grads = {"weight": full[self.pattern.rows, self.pattern.indices], "bias": slope.sum((0, 2))}
        dx = np.einsum("of,tol->tfl", self.to_scipy().toarray(), slope)
        return (Tiles(dx, dy.batch) if need_dx else None), grads


class Noted(SparseLinear):
    """Overrides one pass, calls the original, and counts."""

    calls = 0

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self.calls += 1
        return super().forward_tiles(x, workspace)


class Wrapped(SparseLinear):
    """functools.wraps copies the mark of what it wraps; the wrapper is plain Python all the same."""

    calls = 0

    @functools.wraps(SparseLinear.backward_tiles)
    def backward_tiles(self, *arguments: Any, **named: Any) -> Any:
        type(self).calls += 1
        return super().backward_tiles(*arguments, **named)


class RootMeanSquare(Layer):
    """y = gain · x / √(mean x² + ε), the mean over a sample's features (Zhang and Sennrich, NeurIPS 2019)."""

    def __init__(self, size: int, dtype: Any = np.float32) -> None:
        self.in_shape = self.out_shape = (size,)
        self.params = {"gain": np.ones(size, dtype)}

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        root = np.sqrt(np.mean(x.data**2, axis=1, keepdims=True) + 1e-6)
        return Tiles(self.params["gain"][:, None] * x.data / root, x.batch), (x.data / root, root)

    def backward_tiles(self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True) -> Any:
        unit, root = cache
        slope = self.params["gain"][:, None] * dy.data
        dx = (slope - unit * np.mean(slope * unit, axis=1, keepdims=True)) / root
        return Tiles(dx, dy.batch), {"gain": np.sum(dy.data * unit, axis=(0, 2))}

    def config(self) -> dict[str, Any]:
        return {"size": self.in_shape[0]}

    @classmethod
    def from_config(cls, config: Any, pattern: Any, params: Any) -> RootMeanSquare:
        return cls(**config)


def cross_entropy(z: Array, labels: Array) -> tuple[float, Array]:
    """The loss as a plain function."""
    powers = np.exp(z - z.max(1, keepdims=True))
    chances = powers / powers.sum(1, keepdims=True)
    rows = np.arange(len(z))
    loss = -np.mean(np.log(chances[rows, labels]))
    chances[rows, labels] -= 1
    return float(loss), chances / len(z)


class OwnCrossEntropy(CrossEntropy):
    """Overrides a loss and calls the original."""

    def __call__(self, z: Tiles, wanted: Any, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
        return super().__call__(z, wanted, workspace, divisor=divisor)


class Momentum(Optimizer):
    """SGD's rule in NumPy."""

    names = ("speed",)

    def rule(self, kernels: Any, w: Any, dw: Any, columns: Any, *, decays: bool) -> None:
        speed = columns["speed"]
        speed *= 0.9
        speed += dw + (self.weight_decay * w if decays else 0)
        w -= self.lr * speed


class OwnStep(SGD):
    """Overrides an optimizer's step, which counts and calls the original."""

    calls = 0

    def step(self, params: Any, grads: Any, workspace: Workspace, runs: Any = None) -> None:
        self.calls += 1
        super().step(params, grads, workspace, runs)


# ---------------------------------------------------------------------------------------------- the same numbers


def net(kinds: tuple[type, ...] = (SparseLinear,) * 3, dtype: Any = np.float64, sizes: Any = SIZES) -> Network:
    layers: list[Layer] = []
    for k, kind in enumerate(kinds):
        rng = np.random.default_rng(k)
        pattern = uniform_random(sizes[k + 1], sizes[k], 0.5, rng)
        layers.append(kind(pattern, relu=k < len(kinds) - 1, rng=rng, dtype=dtype))
        if k == 0:
            layers.append(Dropout((sizes[1],), 0.2))
    return Network(layers)


def samples(device: Device, dtype: Any = np.float64, features: int = SIZES[0], count: int = 100, **options: Any) -> Any:
    rng = np.random.default_rng(7)
    x, y = rng.integers(0, 256, (count, features)).astype(np.uint8), rng.integers(0, SIZES[-1], count, np.int32)
    return Batches(Split(x, y), (features,), [0.5], [0.3], device, dtype, **options)


def trained(network: Network, optimizer: Any, device: Device, **options: Any) -> tuple[Array, list[Any], Step]:
    """Parameters and totals after steps of several batch sizes."""
    network.to(device)
    step = Step(network, samples(device, network.dtype), optimizer, **options)
    found = []
    for epoch in range(2):
        step.batches.shuffle(1, epoch)
        for start, batch in ((0, 16), (16, 33), (49, 1), (50, 33), (83, 16)):
            step.run(start, batch)
            found.append(step.totals())
    return device.get(network.params).copy(), found, step


def sgd() -> SGD:
    return SGD(0.05, 0.9, 1e-3, clip_norm=5.0)


def momentum() -> Momentum:
    return Momentum(0.05, 1e-3, clip_norm=5.0)


def unchanged(grads: Array) -> None:
    """A reduction among one machine."""
    grads *= 1.0


def host_cases() -> dict[str, dict[str, Any]]:
    return {
        "a layer": {"kinds": (SparseLinear, ByHand, SparseLinear)},
        "the first layer": {"kinds": (ByHand, SparseLinear, SparseLinear)},
        "the last layer": {"kinds": (SparseLinear, SparseLinear, ByHand)},
        "an overridden layer": {"kinds": (SparseLinear, Noted, Wrapped)},
        "a function as loss": {"loss": cross_entropy},
        "an overridden loss": {"loss": OwnCrossEntropy()},
        "reduce": {"reduce": unchanged},
        "a rule": {"optimizer": momentum},
        "an overridden step": {"optimizer": lambda: OwnStep(0.05, 0.9, 1e-3, clip_norm=5.0)},
        "all of it": {
            "kinds": (ByHand, ByHand, ByHand), "loss": cross_entropy, "reduce": unchanged, "optimizer": momentum,
        },
    }  # fmt: skip


def assert_as_recorded(device: Device, case: str, tolerance: float, dtype: Any) -> None:
    options = dict(host_cases()[case])
    kinds, optimizer = options.pop("kinds", (SparseLinear,) * 3), options.pop("optimizer", sgd)
    expected, losses, _ = trained(net(dtype=dtype), sgd(), device)
    found, own_losses, step = trained(net(kinds, dtype), optimizer(), device, **options)
    assert step.host_calls
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(own_losses, losses, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=10 * tolerance)
        assert (one.correct, one.samples) == (other.correct, other.samples)


@pytest.mark.parametrize("case", host_cases())
def test_results_are_those_of_recorded_parts(case: str) -> None:
    assert_as_recorded(cpu(), case, 1e-11, np.float64)


@pytest.mark.parametrize("case", ["an overridden layer", "an overridden loss", "an overridden step", "reduce"])
def test_what_calls_the_original_gives_its_bits(case: str) -> None:
    assert_as_recorded(cpu(), case, 0, np.float32)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    outcomes, before = [], get_threads()
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            network = net((SparseLinear, ByHand, SparseLinear), np.float32, (900, 800, 60, 6))
            step = Step(network, samples(cpu(), np.float32, 900), sgd(), reduce=unchanged)
            for start in (0, 40, 0):
                step.run(start, 60)
            outcomes.append((network.params.tobytes(), step.totals()))
    finally:
        set_threads(before)
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_evaluation_has_the_layer_too_and_padding_reaches_nothing() -> None:
    plain, own = net(), net((SparseLinear, ByHand, SparseLinear))
    steps = [Step(each, samples(cpu())) for each in (plain, own)]
    for step in steps:
        step.run(0, 33), step.run(33, 67)
    one, other = (step.totals() for step in steps)
    assert other.loss == pytest.approx(one.loss, rel=1e-12) and other.correct == one.correct
    output = steps[1].output(33, 2)
    np.testing.assert_allclose(output, steps[0].output(33, 2), rtol=1e-12, atol=1e-12)
    assert not output[-1, :, 1:].any(), "lanes past the batch are zero"


def test_a_plain_layer_runs_at_every_step() -> None:
    network = net((Noted, SparseLinear, Wrapped))
    step = Step(network, samples(cpu()), sgd())
    for _ in range(20):
        step.run(0, 32)
    assert network.layers[0].calls == 20  # type: ignore[attr-defined]
    assert Wrapped.calls >= 20


def test_a_recording_of_another_structure_calls_it_again() -> None:
    network = net((SparseLinear, ByHand, SparseLinear))
    step = Step(network, samples(cpu()), sgd())
    step.run(0, 32)
    network.flatten()
    step.run(0, 32)
    expected = net()
    other = Step(expected, samples(cpu()), sgd())
    other.run(0, 32), other.run(0, 32)
    np.testing.assert_allclose(network.params, expected.params, rtol=1e-11, atol=1e-12)


# ---------------------------------------------------------------------------------------------- what was lost before


def test_an_optimizer_that_overrides_step_runs_at_every_one() -> None:
    """It ran while a step was recorded, twice of 189 steps, and never again."""

    class Adam(SGD):
        def __init__(self, lr: float) -> None:
            super().__init__(lr)
            self.ran, self.m, self.v = 0, 0.0, 0.0

        def step(self, params: Any, grads: Any, workspace: Workspace) -> None:  # type: ignore[override]
            self.ran += 1
            self.m = 0.9 * self.m + 0.1 * grads
            self.v = 0.999 * self.v + 0.001 * grads**2
            mean, square = self.m / (1 - 0.9**self.ran), self.v / (1 - 0.999**self.ran)
            params -= self.lr * mean / (np.sqrt(square) + 1e-8)

    from sparsecore import Adam as Own

    networks, optimizers = [net(), net()], [Adam(1e-3), Own(1e-3)]
    steps = [
        Step(each, samples(cpu()), optimizer) for each, optimizer in zip(networks, optimizers, strict=True)
    ]  # fmt: skip
    for number in range(189):
        for step in steps:
            step.run(number % 5 * 16, 16 if number % 5 < 4 else 7)
    assert optimizers[0].ran == 189 and optimizers[1].steps == 189  # type: ignore[union-attr]
    np.testing.assert_allclose(networks[0].params, networks[1].params, rtol=1e-9, atol=1e-11)


def test_any_object_with_a_step_may_be_the_optimizer() -> None:
    class Sign:
        lr = 0.01

        def step(self, params: Any, grads: Any, workspace: Workspace) -> None:
            params -= self.lr * np.sign(grads)

    network = net()
    before = network.params.copy()
    step = Step(network, samples(cpu()), Sign())
    for _ in range(7):
        step.run(0, 64)
    assert step.host_calls == ("Sign.step",) or step.host_calls[0].endswith("Sign.step")
    assert 0.03 < np.abs(network.params - before).max() < 0.0701


# ---------------------------------------------------------------------------------------------- examples


def test_root_mean_square_normalisation_is_a_layer_in_one_file() -> None:
    gradcheck(RootMeanSquare(9), numbers((5, 9)))

    def network() -> Network:
        rng = np.random.default_rng(0)
        first = SparseLinear(uniform_random(30, 40, 0.5, rng), rng=rng, dtype=np.float64)
        return Network([
            first, RootMeanSquare(30, np.float64), ReLU((30,)), SparseLinear(dense(6, 30), rng=rng, dtype=np.float64)
        ])  # fmt: skip

    recorded_net, eager = network(), network()
    batches, optimizer = samples(cpu()), SGD(0.05, 0.9)
    step = Step(recorded_net, batches, SGD(0.05, 0.9))
    losses = []
    for number in range(60):
        start, batch = 33 * (number % 3), 33
        step.run(start, batch)
        losses.append(step.totals().mean_loss)
        workspace = Workspace(training=True, position=batches.position)
        x, labels = batches.pack(workspace)
        z, caches = eager.forward(x, workspace)
        eager.backward(CrossEntropy()(z, labels, workspace), caches, workspace)
        grads = [
            workspace.child(k).find(name) if workspace.child(k).find(name) is not None else None
            for k, layer in enumerate(eager.layers) for name in layer.params
        ]  # fmt: skip
        gain = step._workspaces[batch].child(1).find("gain")
        grads[2] = gain  # the layer gives a new array, which only a step copies
        optimizer.step(eager.params, np.concatenate(grads), workspace)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(recorded_net.params, eager.params, rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------------------------------------- losses


def batches_with_targets(device: Device, dtype: Any, count: int = 50, outputs: int = 5) -> tuple[Batches, Array]:
    x, targets = numbers((count, 20), dtype=np.float32), numbers((count, outputs), 1, dtype)
    split = Split(x, np.zeros(count, np.int32))
    return Batches(split, (20,), [0.0], [1.0], device, dtype, targets=targets), targets


def squared(z: Array, targets: Array) -> tuple[float, Array]:
    return 0.5 * float(np.sum((z - targets) ** 2)) / max(len(z), 1), (z - targets) / max(len(z), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_squared_error_is_half_the_mean_of_squares(dtype: Any) -> None:
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    networks = [small_network(dtype=dtype) for _ in range(2)]
    steps = []
    for each, loss in zip(networks, (SquaredError(), squared), strict=True):
        step = Step(each, batches_with_targets(cpu(), dtype)[0], SGD(0.01, 0.9), loss=loss)
        step.batches.shuffle(3, 0)
        for start, batch in ((0, 17), (17, 16), (33, 17), (0, 1), (0, 17)):
            step.run(start, batch)
        steps.append(step)
    np.testing.assert_allclose(networks[0].params, networks[1].params, **near)
    one, other = (step.totals() for step in steps)
    assert one.loss == pytest.approx(other.loss, rel=1e-4) and (one.correct, one.samples) == (0, 68)
    assert [name for name in steps[0].host_calls if name != "pack targets"] == []


def test_targets_are_those_of_the_order() -> None:
    for dtype in (np.float32, np.float64):
        batches, targets = batches_with_targets(cpu(), dtype)
        batches.shuffle(5, 1)
        for start, batch in ((0, 16), (3, 33), (50, 0)):
            batches.seek(start, batch)
            _, packed = batches.pack(Workspace())
            rows = np.moveaxis(packed.data, -1, 1).reshape(-1, 5)
            assert np.array_equal(rows[:batch], targets[batches.order[start : start + batch]])
            assert not rows[batch:].any()
    with pytest.raises(ValueError, match=r"targets must have shape \(50, outputs\), got \(49, 5\)"):
        Batches(Split(np.zeros((50, 20), np.float32), np.zeros(50, np.int32)), (20,), [0], [1], cpu(), targets=targets[1:])


def test_a_loss_divides_by_what_it_is_told() -> None:
    """Two halves of a batch, each divided by the whole, give the whole's gradient."""
    z, labels, targets = numbers((32, 6)), np.arange(32) % 6, numbers((32, 6), 1)
    from sparsecore.runtime.tiles import Labels, Targets

    for loss, pack in ((CrossEntropy(), lambda rows: Labels.pack(labels[rows], 6)),
                       (SquaredError(), lambda rows: Targets.pack(targets[rows]))):  # fmt: skip
        whole = untiled(loss(tiled(z), pack(slice(None)), Workspace()))
        halves = [
            untiled(loss(tiled(z[rows]), pack(rows), Workspace(), divisor=32)) for rows in (slice(16), slice(16, 32))
        ]
        np.testing.assert_allclose(np.concatenate(halves), whole, rtol=1e-13)
        with pytest.raises(ValueError, match="the divisor of a loss must be at least 1, got 0"):
            loss(tiled(z), pack(slice(None)), Workspace(), divisor=0)


def test_losses_and_samples_must_go_together() -> None:
    with pytest.raises(TypeError, match="a squared error needs targets, and the samples have labels"):
        Step(small_network(), small_store(), loss=SquaredError()).run(0, 16)
    batches, _ = batches_with_targets(cpu(), np.float32)
    with pytest.raises(TypeError, match="cross-entropy needs labels, and the samples have targets"):
        Step(small_network(), batches).run(0, 16)
    batches, _ = batches_with_targets(cpu(), np.float32, outputs=4)
    with pytest.raises(ValueError, match="outputs of 16 samples, 5 of float32 each, do not go with targets of 16 samp"):
        Step(small_network(), batches, loss=SquaredError()).run(0, 16)
    for wrong, message in ((lambda z, y: 1.0, "its mean over the batch"), (lambda z, y: (z, z), "its mean over"),
                           (lambda z, y: (0.0, z[1:]), r"the gradient must have z's shape \(16, 5\), got")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Step(small_network(), small_store(), loss=wrong).run(0, 16)


# ---------------------------------------------------------------------------------------------- host calls themselves


def test_a_host_call_runs_at_once_or_when_its_turn_comes() -> None:
    a, b = np.arange(4.0), np.zeros(4)

    def double(x: Array, out: Array) -> None:
        out[...] = 2 * x

    cpu().launcher().host("double", double, inputs={"x": a}, outputs={"out": b})
    assert np.array_equal(b, 2 * a)
    kernels, tape = cpu().recorder()
    kernels.relu(a, a)
    kernels.host("double", double, inputs={"x": a}, outputs={"out": b})
    kernels.host("again", double, inputs={"x": b}, outputs={"out": a})
    kernels.relu(a, b)
    assert np.array_equal(b, 2 * np.arange(4.0)), "recording runs nothing"
    for k in range(1, 3):
        a[:] = [-k, k, 2, 3]
        cpu().launcher().replay(tape)
        assert np.array_equal(a, [0, 4 * k, 8, 12]) and np.array_equal(a, b)
    assert [(at, call.name) for at, call in tape.hosts] == [(1, "double"), (1, "again")]


def test_inputs_cannot_be_written_and_an_error_comes_through() -> None:
    def wrong(x: Array, out: Array) -> None:
        x += 1

    with pytest.raises(ValueError, match="read-only"):
        cpu().launcher().host("wrong", wrong, inputs={"x": np.zeros(3)}, outputs={"out": np.zeros(3)})

    def broken(z: Array, labels: Array) -> Any:
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        Step(net(), samples(cpu()), sgd(), loss=broken).run(0, 16)


def test_a_step_says_what_it_does() -> None:
    step = Step(net((SparseLinear, ByHand, SparseLinear)), samples(cpu()), momentum(), loss=cross_entropy, reduce=unchanged)
    step.prepare(16)
    assert step.host_calls == (
        "SparseLinear(30→20) forward", "cross_entropy", "SparseLinear(30→20) backward", "unchanged", "Momentum.step",
    )  # fmt: skip
    assert step.describe().splitlines()[1] == "forward    3 kernel calls; in Python: SparseLinear(30→20) forward"
    assert [line.split()[0] for line in step.describe().splitlines()] == [
        "pack", "forward", "loss", "backward", "reduce", "update"
    ]  # fmt: skip
    plain = Step(net(), samples(cpu()))
    plain.prepare(16)
    assert plain.host_calls == () and [line.split()[0] for line in plain.describe().splitlines()] == [
        "pack", "forward", "loss"
    ]  # fmt: skip


def test_it_is_said_once_that_plain_python_is_slower() -> None:
    class Quiet(Noted):
        pass

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            Step(net((SparseLinear, Quiet, SparseLinear)), samples(cpu()), sgd()).run(0, 16)
    assert len(said) == 1 and "SparseLinear(30→20) is plain Python and runs as such at every step" in str(said[0].message)


# ---------------------------------------------------------------------------------------------- refusals


class Marked(ReLU):
    """What a marked layer does besides, given as a function of x, a buffer of its shape and the workspace."""

    besides: Any = None

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        y, cache = super().forward_tiles(x, workspace)
        found = type(self).besides(x.data, y.data, workspace)
        return (y if found is None else Tiles(found, x.batch)), cache


def in_place(x: Any, y: Any, workspace: Workspace) -> None:
    y += 1


WRONG = {
    "in place": in_place,
    "assignment": lambda x, y, workspace: y.__setitem__(..., 0),
    "fill": lambda x, y, workspace: y.fill(0),
    "out=": lambda x, y, workspace: (np.exp(y, out=y), None)[1],
    "copyto": lambda x, y, workspace: np.copyto(y, 1),
    "copyto through asarray": lambda x, y, workspace: np.copyto(np.asarray(y), 1),
    "random numbers in place": lambda x, y, workspace: (np.random.default_rng(0).random(out=np.asarray(y)), None)[1],
    "arithmetic": lambda x, y, workspace: (y * 2, None)[1],
    "a result": lambda x, y, workspace: np.asarray(y) * 2,
    "a mean": lambda x, y, workspace: (y.mean(), None)[1],
    "einsum": lambda x, y, workspace: (np.einsum("abc->b", y), None)[1],
    "an element": lambda x, y, workspace: None if float(y[0, 0, 0]) > 0 else None,
    "control flow": lambda x, y, workspace: None if (y > 0).all() else None,
    "a copy": lambda x, y, workspace: y.copy(),
    "the input": lambda x, y, workspace: x.__setitem__(0, 0),
    "the position": lambda x, y, workspace: (int(workspace.position[0]), None)[1],
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_marked_layer_that_computes_is_refused(what: str) -> None:
    class Own(Marked):
        besides = staticmethod(WRONG[what])

    network = Network([SparseLinear(dense(8, 20), dtype=np.float64), Own((8,)), SparseLinear(dense(5, 8), dtype=np.float64)])
    with pytest.raises(NotRecordedError) as caught:
        Step(network, small_store(dtype=np.float64), SGD(0.1)).run(0, 16)
    message = str(caught.value)
    assert message.startswith("ReLU(8): forward_tiles is marked as recorded, but ") and "\n" not in message
    assert "take the mark @recorded away, or call it through kernels.host" in message
    workspace = Workspace(position=np.zeros(3, np.int64))
    y, _ = Own((8,)).forward(numbers((3, 8)), workspace)  # alone it may do as it likes
    assert y.shape == (3, 8)


def test_marked_parameters_optimizers_and_losses_are_refused_too() -> None:
    class Scaled(SparseLinear):
        @recorded
        def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
            self.params["weight"] *= 0.9
            return super().forward_tiles(x, workspace)

    class Decayed(SGD):
        @recorded
        def rule(self, kernels: Any, w: Any, dw: Any, columns: Any, *, decays: bool) -> None:
            w *= 0.9
            super().rule(kernels, w, dw, columns, decays=decays)

    class Late(SGD):
        @recorded
        def begin(self, kernels: Any) -> None:
            self.lr = 0.5

    class Smoothed(CrossEntropy):
        @recorded
        def __call__(self, z: Tiles, wanted: Any, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
            dz = super().__call__(z, wanted, workspace)
            dz.data[:, 0] = 0
            return dz

    before = small_network().params
    for layer, optimizer, loss, name in (
        (Scaled, SGD(0.1), None, r"SparseLinear\(20→12\): forward_tiles"), (SparseLinear, Decayed(0.1), None, "Decayed"),
        (SparseLinear, Late(0.1), None, "Late"), (SparseLinear, SGD(0.1), Smoothed(), r"Smoothed\(\): __call__"),
    ):  # fmt: skip
        network = small_network()
        network.layers[0].__class__ = layer
        with pytest.raises(NotRecordedError, match=name):
            Step(network, small_store(), optimizer, loss=loss).run(0, 16)
        assert np.array_equal(network.params, before), "and nothing has changed"


def test_a_marked_layer_of_kernels_alone_is_recorded() -> None:
    class Own(Marked):
        besides = staticmethod(lambda x, y, workspace: workspace.kernels.relu(y, y))

    network = Network([SparseLinear(dense(8, 20)), Own((8,)), SparseLinear(dense(5, 8))])
    step = Step(network, small_store(), SGD(0.1))
    step.run(0, 16)
    assert step.host_calls == () and math.isfinite(step.totals().loss)


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (lambda self, x, w: (x.data, None), None, "forward_tiles must give Tiles of shape"),
        (lambda self, x, w: (Tiles(x.data[:, 1:], x.batch), None), None, "forward_tiles must give Tiles of shape"),
        (None, lambda self, dy, c, w, need_dx: (None, {}), "backward_tiles must give Tiles of shape"),
        (None, lambda self, dy, c, w, need_dx: (dy, {}), r"backward_tiles must give a gradient of gain, of shape \(9,\)"),
    ],
)
def test_a_plain_layer_that_gives_something_else_is_refused(forward: Any, backward: Any, message: str) -> None:
    class Own(RootMeanSquare):
        pass

    if forward:
        Own.forward_tiles = forward  # type: ignore[method-assign]
    if backward:
        Own.backward_tiles = backward  # type: ignore[method-assign]
    network = Network([SparseLinear(dense(9, 20)), Own(9), SparseLinear(dense(5, 9))])
    with pytest.raises(ValueError, match=message):
        Step(network, small_store(), SGD(0.1)).run(0, 16)


def test_a_replay_on_other_arrays_takes_no_host_calls() -> None:
    from sparsecore.runtime.replay import Replay

    kernels, tape = cpu().recorder()
    kernels.host("mine", lambda x: None, {"x": np.zeros(3)}, {})
    with pytest.raises(ValueError, match="mine is plain Python"):
        Replay(tape, [np.zeros(3)])


def test_the_layer_by_hand_is_the_layer() -> None:
    """What the comparisons above rest on."""
    layer = ByHand(uniform_random(7, 9, 0.5, np.random.default_rng(0)), dtype=np.float64)
    x = numbers((5, 9))
    np.testing.assert_allclose(layer.forward(x)[0], x @ matrix_of(layer).T + layer.bias, atol=1e-12)
