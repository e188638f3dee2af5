"""Losses of one's own, and targets of any shape beside samples: what a step makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.workspace import Workspace
from sparsecore.training.losses import CrossEntropy, SquaredError
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import Array, numbers, tiled, untiled
from .small import network as small_network
from .small import store as small_store

pytestmark = pytest.mark.filterwarnings("ignore:.*is plain Python")

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
    split = Split(np.zeros((50, 20), np.float32), np.zeros(50, np.int32))
    with pytest.raises(ValueError, match=r"targets must have shape \(50, outputs\), got \(49, 5\)"):
        Batches(split, (20,), [0], [1], cpu(), targets=targets[1:])


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
                           (lambda z, y: (0.0, z[1:]), r"the gradient must have z's shape \(16, 5\)")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Step(small_network(), small_store(), loss=wrong).run(0, 16)
