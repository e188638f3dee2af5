"""Training with batch normalisation: decay, threads, recorded steps, runs that go on, checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsecore.data import Dataset, Split, load
from sparsecore.layers import (
    BatchNorm,
    Flatten,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.runs.checkpoint import read, save
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD, Adam, AdamW, Optimizer
from sparsecore.training.step import Step

from .small import Array, numbers
from .test_norm import residual_network, samples, whole
from .test_trainer import StopAfter

# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("make", [lambda d: SGD(0.1, weight_decay=d), lambda d: Adam(0.1, weight_decay=d), lambda d: AdamW(0.1, weight_decay=d)], ids=["SGD", "Adam", "AdamW"])  # noqa: E501
def test_weight_decay_leaves_scale_and_shift_alone(make: Callable[[float], Optimizer]) -> None:
    """After one step from the same start they are the same bits with a decay and without; weights are not."""
    found = []
    for decay in (0.0, 0.5):
        net = residual_network(np.float32)
        Step(net, samples(), make(decay)).run(0, 32)
        found.append(whole(net))
    for row in net.table.rows:
        same = np.array_equal(*(values[row.slice] for values in found))
        assert same == (not row.trained or row.path.endswith((".scale", ".shift"))) or row.path.endswith(".bias")


@pytest.mark.parametrize("threads", [2, 3])
def test_training_gives_the_same_bits_on_any_number_of_threads(threads, monkeypatch):
    from sparsecore.kernels.cpu import launch

    monkeypatch.setattr(launch, "WORTH_CUTTING", 1)

    def trained() -> Array:
        net = residual_network(np.float32)
        step = Step(net, samples(120), SGD(0.02, 0.9))
        for start in (0, 40, 80):
            step.run(start, 40)
        return whole(net)

    before = cpu().pool.threads
    try:
        set_threads(1)
        alone = trained()
        set_threads(threads)
        assert trained().tobytes() == alone.tobytes()
    finally:
        set_threads(before)


def test_recorded_steps_are_what_layers_compute_by_themselves():
    """The tape of a step, and the same passes called one by one."""
    net, optimizer = residual_network(np.float32), SGD(0.02)
    twin, batches = copy.deepcopy(net), samples()
    step = Step(net, batches, optimizer)
    workspace = Workspace(training=True, position=batches.position)
    by_hand = Step(twin, batches, SGD(0.02))
    for start in (0, 33):
        step.run(start, 33)
        by_hand.batches.seek(start, 33)
        x, labels = batches.pack(workspace)
        z, caches = twin.forward(x, workspace)
        twin.backward(by_hand.loss(z, labels, workspace), caches, workspace)
        flat = np.zeros_like(twin.params)
        for path, pieces in twin.views(flat).items():
            for name, piece in pieces.items():
                piece[:] = workspace.at(path).find(name)
        by_hand.optimizer.step(twin.params, flat, workspace)
        assert np.array_equal(whole(net), whole(twin))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """500 of the digits that come with the package: four steps an epoch, the last of 116 samples."""
    all_of_them = load("mnist-subset")
    train, test = (
        Split(s.x[: n * 8 : 8].copy(), s.y[: n * 8 : 8].copy()) for s, n in
        ((all_of_them.train, 500), (all_of_them.test, 200))
    )  # fmt: skip
    shape, mean, std = all_of_them.shape, all_of_them.mean, all_of_them.std
    return Dataset("digits", "some digits", train, test, shape, all_of_them.classes, mean, std)


def classifier() -> Network:
    rng = np.random.default_rng(0)
    return Network({
        "conv": SparseConv2d(uniform_random(4, 9, 0.3, rng), (1, 28, 28), 3, stride=4, bias=False, rng=rng),
        "norm": BatchNorm((4, 7, 7), relu=True), "flat": Flatten((4, 7, 7)),
        "hidden": SparseLinear(uniform_random(30, 196, 0.7, rng), bias=False, rng=rng),
        "norm2": BatchNorm((30,), relu=True), "head": SparseLinear(dense(10, 30), rng=rng),
    })  # fmt: skip


def run_of(digits: Dataset, network: Network, **options: Any) -> Trainer:
    return Trainer(network, digits, Adam(0.01, weight_decay=1e-3), epochs=3, batch_size=128, seed=5, **options)


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_resumed_run_is_the_uninterrupted_one(digits: Dataset, tmp_path: Any, steps: int) -> None:
    """Running rows included, and what they make of the test split at the end."""
    uninterrupted = run_of(digits, classifier())
    said = uninterrupted.run()
    stopped = run_of(digits, classifier(), out=tmp_path, callbacks=[StopAfter(steps)])
    assert stopped.run() is None
    saved = read(tmp_path)
    assert whole(saved.network).tobytes() == whole(stopped.network).tobytes()
    resumed = run_of(digits, saved.network, out=tmp_path)
    resumed.restore(saved)
    found = resumed.run()
    assert said is not None and found is not None and said["test_accuracy"] > 0.5
    assert whole(resumed.network).tobytes() == whole(uninterrupted.network).tobytes()
    for name, column in uninterrupted.optimizer.columns.items():
        assert resumed.optimizer.columns[name].tobytes() == column.tobytes()
    assert all(found[key] == said[key] for key in ("test_loss", "test_accuracy"))


def test_a_checkpoint_holds_a_residual_network(tmp_path: Any) -> None:
    net, optimizer = residual_network(np.float32), SGD(0.02, 0.9)
    Step(net, samples(), optimizer).run(0, 32)
    save(net, tmp_path / "m.safetensors", optimizer=optimizer)
    found = read(tmp_path / "m.safetensors").network
    assert [row.path for row in found.table.rows] == [row.path for row in net.table.rows]
    assert whole(found).tobytes() == whole(net).tobytes() and found.table.trained == net.table.trained
    x = numbers((9, 1, 6, 5), dtype=np.float32)
    assert np.array_equal(found.logits(x), net.logits(x))
    for twin, its in ((found, SGD(0.02)), (net, SGD(0.02))):
        Step(twin, samples(), its).run(32, 32)
    assert whole(found).tobytes() == whole(net).tobytes()
