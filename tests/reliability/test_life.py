"""A network's life in any order: trained, pruned, saved, loaded, moved, copied, resumed; Hypothesis chooses what next.

Two networks live it side by side. One only trains and is pruned. The other is also written to a file and read back,
copied, pickled, gathered anew, used by other threads' numbers, asked in between and moved to a GPU, emulated, where it
lives on as it would here; none of it may change a bit. Where it is trained on the GPU, the first goes there for that.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sparsecore.kernels.cpu import launch

from sparsecore.data.batches import Batches
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import SparseLinear
from sparsecore.network import Network
from sparsecore.prune.shrink import PruneError, by_quality, by_threshold, to_sparsity
from sparsecore.runs.checkpoint import Checkpoint, read, save
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step
from tests.cuda.emulator import build
from tests.cuda.machines import machine
from tests.reliability.runs import KINDS, network, samples
from tests.test_rewire import some

BATCHES = (1, 16, 27, 40)


class Being:
    """A network, what trains it, and what it learns from; numbers as the host sees them."""

    def __init__(self, network: Network, velocity: Any = None) -> None:
        self.network, self.optimizer = network, SGD(0.05, 0.9, 1e-4, clip_norm=2.0)
        if velocity is not None:
            self.optimizer.to(network.device)
            self.optimizer.velocity = self.network.device.put(velocity)
        self._settle()

    def _settle(self) -> None:
        network, shape = self.network, self.network.layers[0].in_shape
        data = samples(80, shape=(2, 8, 8) if len(shape) == 3 else (24,))
        self.store = Batches(data.train, shape, data.mean, data.std, network.device, network.dtype)
        self.step = Step(network, self.store, self.optimizer)

    @property
    def params(self) -> Any:
        return self.network.device.get(self.network.params)

    @property
    def velocity(self) -> Any:
        velocity = self.optimizer.velocity
        return None if velocity is None else self.network.device.get(velocity)

    def go_to(self, device: Device) -> None:
        if self.network.device is not device:
            self.network.to(device)
            self.optimizer.to(device)
            self._settle()

    def train(self, epoch: int, start: int, batch: int) -> None:
        self.store.shuffle(7, epoch)
        self.step.run(start, batch)


class Life(RuleBasedStateMachine):
    places: Sequence[Device] = (cpu(),)
    plain: Being
    other: Being

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "model.safetensors"
        self.epoch = 0
        self.saved: tuple[Checkpoint, int] | None = None

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize(kind=st.sampled_from(KINDS))
    def born(self, kind: str) -> None:
        self.plain, self.other = Being(network(kind)), Being(network(kind))

    # -- what both go through ------------------------------------------------------------------------------------------

    @rule(start=st.integers(0, 40), batch=st.sampled_from(BATCHES), steps=st.integers(1, 3), threads=st.integers(1, 3))
    def train(self, start: int, batch: int, steps: int, threads: int) -> None:
        start = min(start, 40 - batch)
        self.plain.go_to(self.other.network.device)
        for _ in range(steps):
            self.epoch += 1
            set_threads(1)
            self.plain.train(self.epoch, start, batch)
            set_threads(threads)
            self.other.train(self.epoch, start, batch)
        self.plain.go_to(cpu())

    @rule(sparsity=st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.95, 1.0]), globally=st.booleans(), empty=st.booleans())
    def prune_to(self, sparsity: float, globally: bool, empty: bool) -> None:
        self._prune(to_sparsity, sparsity, globally=globally, allow_empty=empty)

    @rule(threshold=st.sampled_from([1e-3, 0.05, 0.2, 10.0]), empty=st.booleans())
    def prune_below(self, threshold: float, empty: bool) -> None:
        self._prune(by_threshold, threshold, allow_empty=empty)

    @rule(quality=st.sampled_from([0.1, 0.5, 2.0]), empty=st.booleans())
    def prune_by_quality(self, quality: float, empty: bool) -> None:
        self._prune(by_quality, quality, allow_empty=empty)

    def _prune(self, how: Any, *arguments: Any, **options: Any) -> None:
        before, results = self.plain.params.copy(), []
        for being in (self.plain, self.other):
            try:
                how(being.network, *arguments, optimizer=being.optimizer, **options)
                results.append("pruned")
            except PruneError as refusal:
                results.append(str(refusal))
        assert results[0] == results[1]
        if results[0] != "pruned":
            assert np.array_equal(self.plain.network.params, before), "refused, and yet changed"

    @rule(seed=st.integers(0, 2**32 - 1), equal=st.booleans(), fill=st.sampled_from([0.0, 0.1]))
    def be_rewired(self, seed: int, equal: bool, fill: float) -> None:
        """Connections go and come: as many as there were, or not."""
        rng = np.random.default_rng(seed)
        patterns = self.plain.network.patterns
        chosen = [path for path in patterns if rng.random() < 0.6]
        new = {path: some(patterns[path].shape, rng, patterns[path].nnz if equal else None) for path in chosen}
        for being in (self.plain, self.other):
            being.optimizer.attach(being.network)
            being.network.rewire(new, fill=fill)

    @rule(lr=st.sampled_from([0.0, 0.01, 0.1]), factor=st.sampled_from([0.5, 1.0, -1.0]))
    def be_meddled_with(self, lr: float, factor: float) -> None:
        """By their user: another learning rate, other values."""
        for being in (self.plain, self.other):
            being.optimizer.lr = lr
            being.network.params = being.network.device.put(being.params * being.network.dtype.type(factor))

    # -- what only the other goes through ------------------------------------------------------------------------------

    def _go_on(self, network: Network, velocity: Any) -> None:
        lr = self.other.optimizer.lr
        self.other = Being(network, velocity)
        self.other.optimizer.lr = lr

    @rule()
    def save(self) -> None:
        save(self.other.network, self.path, velocity=self.other.optimizer.velocity, state={"epoch": self.epoch})
        self.saved = read(self.path), self.epoch
        assert self.saved[0].state == {"epoch": self.epoch}

    @precondition(lambda self: self.saved is not None and self.saved[1] == self.epoch and self._is_saved())
    @rule()
    def resume(self) -> None:
        found = read(self.path)
        self._go_on(found.network, found.velocity)

    def _is_saved(self) -> bool:
        """Whether nothing has happened since that the file does not know."""
        assert self.saved is not None
        kept, now = self.saved[0].network, self.other.network
        return kept.patterns == now.patterns and kept.params.tobytes() == self.other.params.tobytes()

    @rule()
    def save_and_resume(self) -> None:
        save(self.other.network, self.path, velocity=self.other.optimizer.velocity)
        found = read(self.path)
        self._go_on(found.network, found.velocity)

    @precondition(lambda self: len(self.places) > 1)
    @rule(number=st.integers(0, 1))
    def move(self, number: int) -> None:
        self.other.go_to(self.places[number])

    @rule(how=st.sampled_from(["copy", "pickle"]))
    def be_copied(self, how: str) -> None:
        velocity, network = self.other.velocity, self.other.network
        twin = copy.deepcopy(network) if how == "copy" else pickle.loads(pickle.dumps(network))
        assert twin is not network and twin.device is network.device
        self._go_on(twin, velocity)
        network.params.fill(np.nan)  # which is none of the twin's business

    @rule()
    def gather(self) -> None:
        self.other.network.flatten()

    @rule(batch=st.integers(1, 50))
    def be_asked(self, batch: int) -> None:
        network = self.other.network
        x = np.random.default_rng(batch).standard_normal((batch, *network.layers[0].in_shape))
        y, same = network.logits(x), self.plain.network.logits(x, batch_size=7)
        assert np.array_equal(y, same) or network.device is not cpu()
        np.testing.assert_allclose(y, same, rtol=1e-3, atol=1e-4 * max(np.abs(same).max(), 1))
        if all(isinstance(layer, SparseLinear) for layer in network.layers):
            h: Any = x.reshape(batch, -1)
            for layer in network.layers:
                h = h @ layer.to_scipy().toarray().T.astype(np.float64) + network.device.get(layer.bias)
                h = np.maximum(h, 0) if layer.relu else h
            np.testing.assert_allclose(y, h, rtol=1e-3, atol=1e-4 * max(np.abs(h).max(), 1))

    @rule(seed=st.integers(0, 9))
    def be_checked(self, seed: int) -> None:
        """The gradients of its structure are right at every age; at values that keep ReLUs off their kinks, where a
        neuron that was pruned to a bias of zero would stand."""
        network, rng = copy.deepcopy(self.other.network), np.random.default_rng(seed)
        network.params = network.device.put(rng.standard_normal(network.params.shape).astype(network.dtype))
        x = rng.standard_normal((3, *network.layers[0].in_shape))
        gradcheck(network, x, labels=np.arange(3) % 5, samples=3, seed=seed)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def they_are_the_same(self) -> None:
        if not hasattr(self, "plain"):
            return
        plain, other = self.plain.network, self.other.network
        assert plain.patterns == other.patterns
        assert self.plain.params.tobytes() == self.other.params.tobytes()
        for one, two in zip(plain.layers, other.layers, strict=True):
            assert repr(one) == repr(two) and one.config() == two.config()
        first, second = self.plain.velocity, self.other.velocity
        assert first is None or second is None or first.tobytes() == second.tobytes()

    @invariant()
    def they_are_whole(self) -> None:
        if not hasattr(self, "plain"):
            return
        for being in (self.plain, self.other):
            network = being.network
            assert np.isfinite(being.params).all()
            assert network.connections == sum(pattern.nnz for pattern in network.patterns.values())
            for layer in network.layers:
                for array in layer.params.values():
                    assert network.device.owns(array)
                    assert network.device is not cpu() or np.shares_memory(array, network.params) or not array.size


@pytest.fixture(autouse=True)
def cut_everything(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(launch, "WORTH_CUTTING", 1)
    before = get_threads()
    yield
    set_threads(before)


@pytest.fixture(autouse=True)
def two_places(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The processor, and an emulated GPU where there is a compiler for it."""
    if build.why_not():
        yield
        return
    with machine("forward") as device:
        monkeypatch.setattr(Life, "places", (cpu(), device))
        yield


class TestLife(Life.TestCase):
    settings = settings(max_examples=12, stateful_step_count=20, deadline=None)


@pytest.mark.slow
class TestLongLife(Life.TestCase):
    settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
