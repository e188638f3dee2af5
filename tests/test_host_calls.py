"""Plain Python in a recorded step: it runs at every step, and gives what the same thing made of kernels gives."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import KINDS, Dropout, Layer, ReLU, Residual, Sequential, SparseLinear
from sparsecore.network import Network
from sparsecore.runs.checkpoint import load, save
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.runtime.recording import recorded
from sparsecore.runtime.tiles import Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.training.losses import CrossEntropy
from sparsecore.training.optimizers import SGD, AdamW, Optimizer
from sparsecore.training.step import Step

from .small import Array, matrix_of, numbers

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
        layer = cls(**config)
        layer.params = params
        return layer


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


class Copied(SparseLinear):
    """Marked, with a host call of its own in the middle."""

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        y, cache = super().forward_tiles(x, workspace)
        copied = workspace.array("copied", y.data.shape, y.data.dtype)
        workspace.kernels.host("copy", lambda x, out: np.copyto(out, x), {"x": y.data}, {"out": copied})
        return Tiles(copied, x.batch, rectified=self.relu), cache


class Anew(SGD):
    """Puts a new array in the place of its column at every step."""

    def step(self, params: Any, grads: Any, workspace: Workspace, runs: Any = None) -> None:
        slope = grads * min(1.0, 5.0 / float(np.sqrt(np.sum(grads**2)))) + self.weight_decay * params
        self.velocity = 0.9 * self.velocity + slope
        params -= self.lr * self.velocity


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
        "a marked layer that calls the host": {"kinds": (SparseLinear, Copied, Copied)},
        "a function as loss": {"loss": cross_entropy},
        "an overridden loss": {"loss": OwnCrossEntropy()},
        "reduce": {"reduce": unchanged},
        "a rule": {"optimizer": momentum},
        "an overridden step": {"optimizer": lambda: OwnStep(0.05, 0.9, 1e-3, clip_norm=5.0)},
        "a column put anew": {"optimizer": lambda: Anew(0.05, 0.9, 1e-3)},
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


@pytest.mark.parametrize(
    "case",
    ["an overridden layer", "a marked layer that calls the host", "an overridden loss", "an overridden step", "reduce"],
)
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
    assert step.host_calls == ("Sign.step",)
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

    ours, eager = network(), network()
    batches, optimizer = samples(cpu()), SGD(0.05, 0.9)
    step = Step(ours, batches, SGD(0.05, 0.9))
    losses = []
    for number in range(60):
        step.run(33 * (number % 3), 33)
        losses.append(step.totals().mean_loss)
        optimizer.step(eager.params, eager_gradients(eager, batches), Workspace())
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(ours.params, eager.params, rtol=1e-9, atol=1e-11)


def eager_gradients(network: Network, batches: Batches) -> Array:
    """By the same layers called one by one, each gradient where the layer left it."""
    workspace = Workspace(training=True, position=batches.position)
    x, labels = batches.pack(workspace)
    z, caches = network.forward(x, workspace)
    _, grads = network.root.backward_tiles(CrossEntropy()(z, labels, workspace), caches, workspace, need_dx=False)
    return np.concatenate([grads[row.path] for row in network.table.rows if row.trained])


class BatchRootMeanSquare(Layer):
    """y = gain · x / √(s + ε), s the mean of x² over the batch; outside training, the mean that was kept of s."""

    undecayed = frozenset({"gain"})

    def __init__(self, size: int, dtype: Any = np.float32) -> None:
        self.in_shape = self.out_shape = (size,)
        self.params, self.kept = {"gain": np.ones(size, dtype)}, {"square": np.ones(size, dtype)}

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        square = self.kept["square"]
        if workspace.training:
            square = np.sum(x.data**2, axis=(0, 2)) / x.batch
            self.kept["square"][...] = 0.9 * self.kept["square"] + 0.1 * square
        root = np.sqrt(square + 1e-6)[:, None]
        return Tiles(self.params["gain"][:, None] * x.data / root, x.batch), (x.data / root, root)

    def backward_tiles(self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True) -> Any:
        unit, root = cache
        slope = self.params["gain"][:, None] * dy.data
        if workspace.training:
            slope = slope - unit * (np.sum(slope * unit, axis=(0, 2)) / dy.batch)[:, None]
        return Tiles(slope / root, dy.batch), {"gain": np.sum(dy.data * unit, axis=(0, 2))}

    def config(self) -> dict[str, Any]:
        return {"size": self.in_shape[0]}

    @classmethod
    def from_config(cls, config: Any, pattern: Any, params: Any) -> BatchRootMeanSquare:
        layer = cls(**config)
        layer.params, layer.kept = {"gain": params["gain"]}, {"square": params["square"]}
        return layer


def normalised() -> Network:
    rng = np.random.default_rng(0)
    return Network({
        "first": SparseLinear(uniform_random(30, 40, 0.5, rng), rng=rng, dtype=np.float64),
        "norm": BatchRootMeanSquare(30, np.float64),
        "rest": Sequential({
            "relu": ReLU((30,)),
            "around": Residual(Sequential([
                SparseLinear(dense(30, 30), relu=True, rng=rng, dtype=np.float64), BatchRootMeanSquare(30, np.float64)
            ])),
            "head": SparseLinear(dense(6, 30), rng=rng, dtype=np.float64),
        }),
    })  # fmt: skip


def test_a_normalisation_with_a_kept_mean_needs_one_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, knows training from evaluation, does not decay, keeps its means in a file and comes back with them."""
    network, batches = normalised(), samples(cpu())
    gradient = eager_gradients(network, batches)
    direction = numbers(gradient.shape, 5)
    ends = []
    for sign in (1e-6, -1e-6):
        moved = normalised()
        moved.params += sign * direction
        step = Step(moved, batches, SGD(0.0))
        step.run(0, 100)
        ends.append(step.totals().mean_loss)
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(np.dot(gradient, direction), rel=1e-6)

    step = Step(network, batches, AdamW(0.01, weight_decay=0.1))
    evaluation = Step(network, batches)
    for number in range(60):
        step.run(33 * (number % 3), 33)
    kept = network["norm"].kept["square"]
    assert not np.allclose(kept, 1) and np.shares_memory(kept, network.table.values)
    before = kept.copy()
    evaluation.run(0, 100)
    assert np.array_equal(kept, before), "evaluation changes nothing"
    assert evaluation.totals().mean_loss < 1.0
    monkeypatch.setitem(KINDS, "BatchRootMeanSquare", BatchRootMeanSquare)
    save(network, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert np.array_equal(again.table.values, network.table.values)
    assert np.array_equal(again.logits(numbers((5, 40))), network.logits(numbers((5, 40))))


def test_a_layer_that_holds_layers_may_be_plain_python_too() -> None:
    class Doubled(Sequential):
        """2 · what its layers give."""

        def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
            y, cache = super().forward_tiles(x, workspace)
            return Tiles(2 * y.data, y.batch), cache

        def backward_tiles(self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True) -> Any:
            return super().backward_tiles(Tiles(2 * dy.data, dy.batch), cache, workspace, need_dx=need_dx)

    def network() -> Network:
        rng = np.random.default_rng(0)
        inner = [ByHand(dense(20, 30), rng=rng, dtype=np.float64), RootMeanSquare(20, np.float64)]
        first = SparseLinear(dense(30, 40), rng=rng, dtype=np.float64)
        return Network([first, Doubled(inner), SparseLinear(dense(6, 20), rng=rng, dtype=np.float64)])

    ours, eager, batches, optimizer = network(), network(), samples(cpu()), SGD(0.05, 0.9)
    step = Step(ours, batches, SGD(0.05, 0.9))
    for number in range(6):
        step.run(33 * (number % 3), 33)
        optimizer.step(eager.params, eager_gradients(eager, batches), Workspace())
    assert step.host_calls == tuple(f"Doubled(30→20, 2 layers) {way}" for way in ("forward", "backward"))
    np.testing.assert_allclose(ours.params, eager.params, rtol=1e-10, atol=1e-12)


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
    network = net((SparseLinear, ByHand, SparseLinear))
    step = Step(network, samples(cpu()), momentum(), loss=cross_entropy, reduce=unchanged)
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
    assert len(said) == 1
    assert "SparseLinear(30→20) is plain Python and runs as such at every step" in str(said[0].message)


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
