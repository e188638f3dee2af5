"""Recorded steps against the same calls made one by one: the same bits, whatever happens between two of them."""

import subprocess
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from sparsecore.prune import shrink
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import uniform_random
from sparsecore.training.losses import CrossEntropy
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step, Totals

from .small import matrix_of, network, store


class Eager:
    """A step as a beginner would write it: every kernel called when its turn comes, with fresh arrays."""

    def __init__(self, net, data, optimizer=None):
        self.net, self.data, self.optimizer, self.totals = net, data, optimizer, np.zeros(3)

    def run(self, start, batch):
        workspace = Workspace()
        self.data.seek(start, batch)
        x, labels = self.data.pack(workspace)
        logits, caches = self.net.forward(x, workspace)
        gradient = CrossEntropy()(logits, labels, workspace)
        self.totals += workspace.array("totals", (3,), np.float64)
        if self.optimizer is None:
            return
        self.net.backward(gradient, caches, workspace)
        grads = np.concatenate(
            [workspace.child(k).array(name, array.shape, array.dtype)
             for k, layer in enumerate(self.net.layers) for name, array in layer.params.items()]
        )  # fmt: skip
        self.optimizer.step(self.net.params, grads, workspace)


def sgd():
    return SGD(0.1, 0.9, 1e-3, nesterov=True, clip_norm=1.0)


def both(seed=0, dtype=np.float32, **options):
    """The same network, store and optimizer twice: for a recorded step and for the eager one."""
    return [
        kind(network(seed=seed, dtype=dtype), store(dtype=dtype, **options), sgd()) for kind in (Step, Eager)
    ]  # fmt: skip


def assert_same(step, eager):
    assert np.array_equal(step.network.params, eager.net.params)
    assert np.array_equal(step.optimizer.velocity, eager.optimizer.velocity)
    assert step.totals(reset=False) == Totals(*eager.totals)


# ---------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_replay_is_the_eager_path(kind, dtype):
    step, eager = both(dtype=dtype, kind=kind)
    for epoch in range(3):
        step.store.shuffle(1, epoch), eager.data.shuffle(1, epoch)
        for start in range(0, 64, 32):
            step.run(start, 32), eager.run(start, 32)
            assert_same(step, eager)


def test_batches_of_any_size_take_turns():
    step, eager = both()
    for start, batch in [(0, 16), (16, 16), (0, 70), (69, 1), (0, 16), (5, 33), (0, 70), (30, 16), (0, 1), (5, 33)]:
        step.run(start, batch), eager.run(start, batch)
        assert_same(step, eager)


def test_rates_may_change_between_steps():
    step, eager = both()
    for lr in (0.1, 0.05, 0.0, 0.2):
        step.optimizer.lr = eager.optimizer.lr = lr
        step.run(0, 32), eager.run(0, 32)
        assert_same(step, eager)


def test_values_may_change_in_place_between_steps():
    step, eager = both()
    for scale in (1.0, 0.5, 2.0):
        for net in (step.network, eager.net):
            net.params *= np.float32(scale)
            net.layers[0].weight[3] = scale
        step.run(0, 32), eager.run(0, 32)
        assert_same(step, eager)


def test_a_pattern_may_change_between_steps():
    step, eager = both()
    step.run(0, 32), eager.run(0, 32)
    pruned = uniform_random(12, 20, 0.8, np.random.default_rng(5))
    for net in (step.network, eager.net):
        layer = net.layers[0]
        layer._set(pruned, np.linspace(-1, 1, pruned.nnz, dtype=np.float32), layer.bias.copy())
        net.flatten()
    for start in (0, 32, 0):
        step.run(start, 32), eager.run(start, 32)
        assert_same(step, eager)
    assert step.network.params.size == step.grads.size


def test_a_pruned_step_uses_the_buffers_that_still_fit_and_frees_the_others():
    step, _ = both()
    step.run(0, 32), step.run(32, 16)
    output, gone = step.output(32, 0), weakref.ref(step.grads.base)
    shrink(step.network, {0: np.arange(step.network.patterns[0].nnz) % 2 == 0}, step.optimizer)
    step.run(0, 32)
    assert step.output(32, 0) is output
    assert step.output(16, 0) is None, "another batch's arrays of the old size do not stay"
    assert gone() is None


def test_a_version_of_the_same_size_is_recorded_anew_too():
    step, eager = both()
    step.run(0, 32), eager.run(0, 32)
    for net in (step.network, eager.net):
        net.flatten()
    step.run(0, 32), eager.run(0, 32)
    assert_same(step, eager)


def test_a_velocity_put_in_later_is_used():
    """As when a run is taken up where it was: a recorded step must not go on with the array it was recorded with."""
    step, eager = both()
    step.run(0, 32), eager.run(0, 32)
    for optimizer in (step.optimizer, eager.optimizer):
        optimizer.velocity = np.full_like(optimizer.velocity, 0.01)
    for start, batch in [(32, 32), (0, 16), (32, 32)]:
        step.run(start, batch), eager.run(start, batch)
        assert_same(step, eager)


def test_evaluation_changes_nothing_and_counts_as_training_does():
    net, data = network(), store()
    before = net.params.copy()
    step, eager = Step(net, data), Eager(network(), store())
    for start, batch in [(0, 32), (32, 32), (64, 6)]:
        step.run(start, batch), eager.run(start, batch)
    totals = step.totals()
    assert np.array_equal(net.params, before) and totals == Totals(*eager.totals) and totals.samples == 70
    assert step.totals() == Totals(0, 0, 0)
    scale = (data._x.astype(np.float64) / 255 - 0.3) / 0.25
    for layer in net.layers:
        scale = scale @ matrix_of(layer).T + layer.bias
        scale = np.maximum(scale, 0) if layer.relu else scale
    assert totals.correct == np.sum(scale.argmax(axis=1) == data._y)
    shifted = scale - scale.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(70), data._y]
    assert totals.mean_loss == pytest.approx(losses.mean(), rel=1e-4)
    assert totals.accuracy == pytest.approx(totals.correct / 70)


def test_two_steps_share_a_network():
    """Training and evaluation in turns, as a trainer does it."""
    net = network()
    train, test = Step(net, store(seed=1), SGD(0.1, 0.9)), Step(net, store(seed=2))
    losses = []
    for _ in range(30):
        train.run(0, 64)
        test.run(0, 70)
        losses.append(train.totals().mean_loss)
    assert losses[-1] < 0.7 * losses[0]
    fresh = Step(net, store(seed=2))
    fresh.run(0, 70)
    test.totals()
    test.run(0, 70)
    assert test.totals() == fresh.totals()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    def train():
        net, data = network((800, 700, 600, 10), seed=3), store(256, 800, 10)
        step = Step(net, data, sgd())
        for start in (0, 128, 0):
            step.run(start, 128)
        return net.params.copy(), step.totals()

    before = get_threads()
    try:
        set_threads(1)
        alone = train()
        set_threads(threads)
        together = train()
    finally:
        set_threads(before)
    assert np.array_equal(alone[0], together[0]) and alone[1] == together[1]


def test_networks_train_side_by_side_in_python_threads():
    def train(seed, results):
        net, data = network((300, 200, 100, 10), seed=seed), store(256, 300, 10, seed=seed)
        step = Step(net, data, sgd())
        for epoch in range(5):
            data.shuffle(seed, epoch)
            for start in (0, 128):
                step.run(start, 128)
        results[seed] = net.params.copy(), step.totals()

    alone, together = {}, {}
    for seed in range(3):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        assert np.array_equal(alone[seed][0], together[seed][0]) and alone[seed][1] == together[seed][1]


SCRIPT = """
from tests.test_step import both
import hashlib
step, _ = both(seed=4)
for start in (0, 16, 32):
    step.run(start, 16)
print(hashlib.sha256(step.network.params.tobytes()).hexdigest(), step.totals())
"""


def test_every_process_computes_the_same_bits():
    outputs = {
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(outputs) == 1 and "Totals" in outputs.pop()


# ---------------------------------------------------------------------------------------------- a step's own


def test_prepare_runs_nothing():
    step, eager = both()
    before = step.network.params.copy()
    step.prepare(32)
    assert np.array_equal(step.network.params, before) and step.totals() == Totals(0, 0, 0)
    step.run(0, 32), eager.run(0, 32)
    assert_same(step, eager)


def test_totals_can_be_taken_up_where_they_were():
    step, _ = both()
    step.run(0, 32)
    kept = step.totals(reset=False)
    step.run(32, 32)
    wanted = step.totals()
    other, _ = both()
    other.run(0, 32)
    other.totals()
    other.count_from(kept)
    other.run(32, 32)
    assert other.totals() == wanted


def test_gradients_are_overwritten():
    step = Step(network(), store(), SGD(0.0))
    step.run(0, 32)
    once = step.grads.copy()
    step.grads.fill(np.nan)
    step.run(0, 32)
    assert np.array_equal(step.grads, once) and once.any()


def test_a_recorded_step_allocates_nothing():
    step, _ = both(samples=70)
    for batch in (32, 6):
        step.run(0, batch)
    tracemalloc.start()
    try:
        for _ in range(3):
            step.run(0, 32), step.run(64, 6)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            step.run(0, 32), step.run(64, 6)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1000 and peak - before < 5000


def test_padding_of_an_earlier_batch_does_not_matter():
    """The buffers of a batch size are used again; NaN in lanes that hold no sample stays there."""
    step, eager = both()
    step.run(0, 33), eager.run(0, 33)
    workspaces = [step._workspaces[33], *step._workspaces[33]._children.values()]
    flat = step.grads, step._totals
    for workspace in workspaces:
        for array in workspace._arrays.values():
            if array.dtype.kind == "f" and not any(np.shares_memory(array, kept) for kept in flat):
                array.fill(np.nan)
    step.run(33, 33), eager.run(33, 33)
    assert_same(step, eager)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("start, batch", [(40, 32), (-1, 8), (70, 1), (0, 71), (0, -1)])
def test_a_batch_outside_the_store_is_refused_and_changes_nothing(start, batch):
    step, eager = both()
    step.run(0, 32), eager.run(0, 32)
    with pytest.raises(ValueError, match=f"a batch must lie within the 70 samples, got {batch} from"):
        step.run(start, batch)
    assert_same(step, eager)
    step.run(0, 32), eager.run(0, 32)
    assert_same(step, eager)


def test_an_empty_batch_changes_no_total():
    step = Step(network(), store())
    step.run(0, 0)
    assert step.totals() == Totals(0, 0, 0) and step.totals().mean_loss == 0 and step.totals().accuracy == 0


def test_labels_beyond_the_networks_classes_are_refused():
    step = Step(network(), store(classes=9), sgd())
    before = step.network.params.copy()
    with pytest.raises(
        ValueError, match=r"^logits of 32 samples and 5 classes do not go with labels of 32 samples and 9 classes$"
    ):
        step.run(0, 32)
    assert np.array_equal(step.network.params, before)


def test_a_store_that_does_not_fit_the_network_is_refused():
    with pytest.raises(
        ValueError, match=r"^SparseLinear\(20→12\): x must have 20 features of float32, got 21 of float32$"
    ):
        Step(network(), store(features=21), sgd()).run(0, 32)
    with pytest.raises(
        ValueError, match=r"^SparseLinear\(20→12\): x must have 20 features of float32, got 20 of float64$"
    ):
        Step(network(), store(dtype=np.float64), sgd()).run(0, 32)


def test_nan_is_counted_as_nan():
    step, _ = both()
    step.network.params[0] = np.nan
    step.run(0, 32)
    assert np.isnan(step.totals().loss)


def test_the_device_is_the_processor_if_not_given():
    assert Step(network(), store()).device is cpu()
