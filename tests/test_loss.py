"""Softmax cross-entropy and the labels it takes: values, gradients, totals, and labels that no kernel may see."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.runtime.tiles import LANES, Labels, Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.training.losses import CrossEntropy

from .small import BATCHES, numbers, refused, tiled, untiled

loss = CrossEntropy()


def by_hand(z, labels):
    """Losses and the gradient of their mean, in float64, one sample at a time."""
    z = z.astype(np.float64)
    losses, gradient = np.empty(len(z)), np.empty(z.shape)
    for k, (logits, label) in enumerate(zip(z, labels, strict=True)):
        shifted = logits - logits.max()
        losses[k] = math.log(sum(math.exp(v) for v in shifted)) - shifted[label]
        gradient[k] = np.exp(shifted) / np.exp(shifted).sum()
        gradient[k, label] -= 1
    return losses, gradient / len(z)


@given(
    batch=st.sampled_from([1, 2, 15, 16, 17, 33, 100]),
    classes=st.integers(1, 40),
    scale=st.sampled_from([0.1, 1, 30, 1e4]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32),
)
def test_losses_gradient_and_answers(batch, classes, scale, dtype, seed):
    rng = np.random.default_rng(seed)
    z, labels = (rng.standard_normal((batch, classes)) * scale).astype(dtype), rng.integers(0, classes, batch)
    workspace = Workspace()
    dz = loss(tiled(z), Labels.pack(labels, classes), workspace)
    losses, gradient = by_hand(z, labels)
    near = {"rtol": 1e-5, "atol": 1e-6 * scale} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13 * scale}
    np.testing.assert_allclose(workspace.array("losses", (len(dz.data) * LANES,), np.float64)[:batch], losses, **near)
    np.testing.assert_allclose(untiled(dz), gradient, rtol=near["rtol"], atol=1e-6 if dtype == np.float32 else 1e-13)
    assert np.abs(untiled(dz).sum(axis=1)).max() < (1e-5 if dtype == np.float32 else 1e-14), "probabilities sum to one"
    total, correct, samples = workspace.array("totals", (3,), np.float64)
    assert total == pytest.approx(losses.sum(), rel=1e-5, abs=1e-5 * scale)
    assert (correct, samples) == (np.sum(z.argmax(axis=1) == labels), batch)


@pytest.mark.parametrize("batch", BATCHES)
def test_padding_reaches_nothing(batch):
    z, labels = numbers((batch, 6)), np.arange(batch) % 6
    outcomes = []
    for padding in (0.0, np.nan, np.inf):
        workspace = Workspace()
        packed = Labels.pack(labels, 6)
        packed.data[batch:] = 2**31 - 1
        dz = loss(tiled(z, padding), packed, workspace)
        assert not dz.data[-1, :, (batch - 1) % LANES + 1 :].any()
        outcomes.append((untiled(dz), workspace.array("totals", (3,), np.float64)))
    for dz, totals in outcomes[1:]:
        assert np.array_equal(dz, outcomes[0][0]) and np.array_equal(totals, outcomes[0][1])


def test_totals_begin_at_zero_and_add_up():
    workspace = Workspace()
    for batch in (3, 20, 3):
        loss(tiled(np.zeros((batch, 4))), Labels.pack(np.zeros(batch, int), 4), workspace)
    total, correct, samples = workspace.array("totals", (3,), np.float64)
    assert total == pytest.approx(26 * math.log(4)) and (correct, samples) == (26, 26)


def test_no_logit_is_too_large():
    z = np.array([[1e300, -1e300, 0.0], [-1e300, 1e300, 0.0], [5.0, 5.0, 5.0]])
    workspace = Workspace()
    dz = loss(tiled(z), Labels.pack([0, 0, 2], 3), workspace)
    losses = workspace.array("losses", (LANES,), np.float64)
    assert losses[0] == 0 and losses[1] == 2e300 and losses[2] == pytest.approx(math.log(3))
    assert np.allclose(untiled(dz) * 3, [[0, 0, 0], [-1, 1, 0], [1 / 3, 1 / 3, -2 / 3]])
    assert list(workspace.array("correct", (LANES,), np.int32)[:3]) == [1, 0, 0], (
        "the first of equal logits is the answer"
    )


def test_nan_spoils_its_sample_only():
    z, labels = numbers((20, 5)), np.arange(20) % 5
    clean = untiled(loss(tiled(z), Labels.pack(labels, 5), Workspace()))
    for bad in (np.nan, np.inf):
        z[7, 2] = bad
        workspace = Workspace()
        dz = untiled(loss(tiled(z), Labels.pack(labels, 5), workspace))
        assert np.isnan(dz[7]).any() and np.array_equal(np.delete(dz, 7, axis=0), np.delete(clean, 7, axis=0))
        assert np.isnan(workspace.array("totals", (3,), np.float64)[0])


def test_an_empty_batch_adds_nothing():
    workspace = Workspace()
    dz = loss(tiled(np.empty((0, 4))), Labels.pack([], 4), workspace)
    assert dz.data.shape == (0, 4, LANES) and not workspace.array("totals", (3,), np.float64).any()


def test_buffers_are_reused():
    workspace, z, labels = Workspace(), tiled(numbers((20, 5))), Labels.pack(np.zeros(20, int), 5)
    first, size = loss(z, labels, workspace).data, workspace.nbytes
    assert loss(z, labels, workspace).data is first and workspace.nbytes == size


# ---------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, list, tuple])
def test_labels_are_packed_one_a_lane(kind):
    given_labels = kind([3, 0, 9]) if kind in (list, tuple) else np.array([3, 0, 9], kind)
    labels = Labels.pack(given_labels, 10)
    assert labels.data.dtype == np.int32 and labels.data.shape == (LANES,) and (labels.batch, labels.classes) == (3, 10)
    assert list(labels.data) == [3, 0, 9] + [-1] * 13


@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([0, 1, 10, 11], ValueError, "labels must be at least 0 and below 10, got 10 at position 2"),
        ([0, -1], ValueError, "labels must be at least 0 and below 10, got -1 at position 1"),
        ([2**40], ValueError, "labels must be at least 0 and below 10, got 1099511627776 at position 0"),
        (
            np.array([2**64 - 1], np.uint64),
            ValueError,
            f"labels must be at least 0 and below 10, got {2**64 - 1} at position 0",
        ),
        ([[1], [2]], ValueError, "labels must have shape (batch,), got (2, 1)"),
        (3, ValueError, "labels must have shape (batch,), got ()"),
        ([1.0], TypeError, "labels must be integers, got float64"),
        ([True], TypeError, "labels must be integers, got bool"),
        (["3"], TypeError, "labels must be integers, got <U1"),
        (None, TypeError, "labels must be integers, got object"),
    ],
)
def test_labels_that_no_kernel_may_see(labels, error, message):
    with pytest.raises(error) as caught:
        Labels.pack(labels, 10)
    assert str(caught.value) == message


def test_labels_and_logits_must_go_together():
    z = tiled(numbers((20, 5)))
    for batch, classes in [(20, 6), (33, 5), (19, 5), (0, 5)]:
        labels = Labels.pack(np.zeros(batch, int), classes)
        message = "logits of 20 samples and 5 classes do not go with labels of {} samples and {} classes"
        refused(ValueError, message.format(batch, classes), lambda labels=labels: loss(z, labels, Workspace()))
    loss(z, Labels.pack(np.zeros(20, int), 3), Workspace())  # fewer classes than logits are no danger
    five = Labels.pack(np.zeros(20, int), 5)
    for data in (np.zeros((2, 10, LANES))[:, ::2], np.zeros((2, 5, 1, 1, LANES))):
        with pytest.raises(ValueError, match="logits must be contiguous, of shape"):
            loss(Tiles(data, 20), five, Workspace())
