"""Dropout: how much is dropped, that chance depends on nothing but its counters, and that evaluation drops nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sparsecore.kernels import reference

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.layers import KINDS, Dropout, SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .kernel_checks import POOLS, Guarded, Launcher, assert_same_bits, machines
from .small import Array, numbers, tiled


def position(start: int = 0, epoch: int = 0, seed: int = 0) -> Array:
    return np.array([start, epoch, seed], np.int64)


def kept(*, stream: int = 0, rate: float = 0.5, features: int = 500, batch: int = 64, **when: int) -> Array:
    """Whether each number of each sample, shape (batch, features), is kept."""
    workspace = Workspace(training=True, position=position(**when), stream=stream)
    y, _ = Dropout((features,), rate).forward_tiles(tiled(np.ones((batch, features))), workspace)
    return np.moveaxis(y.data, -1, 1).reshape(-1, features)[:batch] > 0


@machines
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.99])
def test_the_kernel_does_what_the_oracle_does(dtype, register_bytes, rate):
    memory = Guarded(1)
    x = memory.put(numbers((3, 7, LANES), dtype=dtype))
    when = memory.put(position(123456789012, 7, -3))
    out, exact = memory.empty(x.shape, dtype), np.empty_like(x)
    Launcher(POOLS[0], register_bytes=register_bytes).dropout(x, when, 5, rate, out)
    memory.assert_intact()
    reference.dropout(x, when, 5, rate, exact)
    assert np.array_equal(out == 0, exact == 0) and np.allclose(out, exact, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_was_asked(rate):
    """Within five standard deviations over all, over each feature's samples and over each sample's features."""
    drawn = kept(rate=rate, features=400, batch=400)
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(drawn.mean() - (1 - rate)) < 5 * deviation / 400
    for axis in (0, 1):
        assert np.all(abs(drawn.mean(axis) - (1 - rate)) < 5 * deviation / 20)


def test_every_counter_matters_and_neighbours_are_independent():
    first = kept()
    others = [kept(seed=1), kept(epoch=1), kept(stream=1), kept(start=64), np.roll(first, 1, 0), np.roll(first, 1, 1)]
    others += [kept(epoch=1, seed=1), ~first]
    for k, other in enumerate(others[:-1]):
        assert abs((first == other).mean() - 0.5) < 0.02, k
    assert np.array_equal(kept(), first)


def test_a_samples_numbers_do_not_depend_on_where_its_batch_begins():
    assert np.array_equal(kept(start=16, batch=48), kept(batch=64)[16:])
    assert np.array_equal(kept(start=5, batch=20), kept(batch=25)[5:])


@pytest.mark.parametrize("rectified", [False, True])
def test_the_way_back_drops_the_same(rectified):
    layer, workspace = Dropout((30,), 0.4), Workspace(training=True, position=position(3, 4, 5))
    x, dy = tiled(numbers((32, 30)), rectified=rectified), tiled(numbers((32, 30), 1), masked=rectified)
    y, cache = layer.forward_tiles(x, workspace)
    dx, grads = layer.backward_tiles(dy, cache, workspace)
    scale = y.data / x.data
    assert np.allclose(scale[scale != 0], 1 / 0.6) and np.allclose(dx.data, dy.data * scale)
    assert grads == {} and (y.rectified, dx.masked) == (rectified, rectified)


def test_outside_training_nothing_happens():
    layer, x = Dropout((3, 4, 5), 0.9), numbers((7, 3, 4, 5))
    y, cache = layer.forward(x)
    assert np.array_equal(y, x) and np.array_equal(layer.backward(y, cache)[0], x)
    tiles = tiled(x)
    assert layer.forward(tiles, Workspace())[0].data is tiles.data


def test_the_same_bits_on_any_number_of_threads():
    layer, x = Dropout((300,), 0.3), tiled(numbers((50, 300)))

    def step(launcher: Launcher) -> list[Array]:
        return [layer.forward_tiles(x, Workspace(cpu(), launcher, training=True, position=position()))[0].data]

    assert_same_bits(step)


def trained(epochs: list[int], network: Network, store: Batches) -> Array:
    step = Step(network, store, SGD(0.1))
    for epoch in epochs:
        store.shuffle(3, epoch)
        for start in (0, 20, 40):
            step.run(start, 20 if start < 40 else 10)
    return network.params.copy()


def small_run() -> tuple[Network, Batches]:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (50, 12)).astype(np.uint8), rng.integers(0, 3, 50).astype(np.int32))
    layers = [
        SparseLinear(dense(40, 12), relu=True, rng=rng), Dropout((40,), 0.5),
        SparseLinear(dense(40, 40), relu=True, rng=rng), Dropout((40,), 0.5), SparseLinear(dense(3, 40), rng=rng),
    ]  # fmt: skip
    return Network(layers), Batches(split, (12,), [0.5], [0.5], cpu())


def test_a_recorded_step_draws_anew_and_a_resumed_run_draws_the_same():
    """A tape is replayed for every batch and epoch; what it draws follows the position that the store keeps."""
    network, store = small_run()
    whole = trained([0, 1, 2], network, store)
    network, store = small_run()
    trained([0], network, store)
    resumed = trained([1, 2], network, Batches(Split(store._x, store._y), (12,), [0.5], [0.5], cpu()))
    assert np.array_equal(whole, resumed)
    step = Step(network, store, SGD(0.0))
    losses = []
    for seed, epoch, start in ((3, 0, 0), (3, 0, 0), (3, 1, 0), (3, 1, 20), (4, 1, 20), (2**64 - 1, 1, 20)):
        store.shuffle(seed, epoch)
        store.order = np.arange(50) % 20
        step.run(start, 20)
        losses.append(step.totals().loss)
    assert losses[0] == losses[1] and len(set(losses)) == 5


def test_layers_of_a_network_drop_differently_and_evaluation_drops_nothing():
    network, store = small_run()
    step, evaluation = Step(network, store, SGD(0.0)), Step(network, store)
    step.run(0, 48)
    workspace = step._workspaces[48]
    one, two = (workspace.child(k).array("y", (3, 40, LANES), np.float32) for k in (1, 3))
    before = workspace.child(0).array("y", (3, 40, LANES), np.float32), workspace.child(2).array("y", (3, 40, LANES), np.float32)  # noqa: E501
    seen = (before[0] > 0) & (before[1] > 0)
    assert abs(((one > 0) == (two > 0))[seen].mean() - 0.5) < 0.1
    evaluation.run(0, 48)
    x = (store._x[:48] / 255 - 0.5) / 0.5
    predicted = network.predict(x)  # before its layers become another network's
    plain = Network([network.layers[k] for k in (0, 2, 4)])
    assert np.array_equal(predicted, plain.predict(x))
    logits = evaluation._workspaces[48].child(4).array("y", (3, 3, LANES), np.float32)
    assert np.allclose(np.moveaxis(logits, -1, 1).reshape(48, 3), plain.logits(x), atol=1e-5)


def test_configuration_and_what_is_refused():
    layer = Dropout((3, 4), 0.25)
    assert KINDS["Dropout"].from_config(layer.config(), None, {}).config() == layer.config() == {"shape": [3, 4], "rate": 0.25}  # noqa: E501
    assert repr(layer) == "Dropout(3×4, 0.25)"
    for rate in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate must be at least 0 and less than 1"):
            Dropout((3,), rate)
