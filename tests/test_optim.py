"""SGD against the same rule written as a loop in float64, and clipping, whatever the norm."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.runtime.workspace import Workspace
from sparsecore.training.optimizers import SGD

from .small import numbers


class ByHand:
    """The rule, one number at a time."""

    def __init__(self, lr, momentum=0.0, weight_decay=0.0, nesterov=False, clip_norm=None):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.nesterov, self.clip_norm, self.velocity = nesterov, clip_norm, {}

    def step(self, w, dw):
        norm, new = math.sqrt(sum(g * g for g in dw)), []
        scale = 1.0 if self.clip_norm is None or norm <= self.clip_norm else self.clip_norm / norm
        for k, (value, slope) in enumerate(zip(w, dw, strict=True)):
            slope = slope * scale + self.weight_decay * value
            self.velocity[k] = self.momentum * self.velocity.get(k, 0.0) + slope
            new.append(
                value - self.lr * (slope + self.momentum * self.velocity[k] if self.nesterov else self.velocity[k])
            )
        return new


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    size=st.integers(0, 70),
    lr=st.floats(0, 1),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.1]),
    clip_norm=st.sampled_from([None, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_the_rule(dtype, size, lr, momentum, nesterov, weight_decay, clip_norm, seed):
    nesterov = nesterov and momentum > 0
    sgd = SGD(lr, momentum, weight_decay, nesterov=nesterov, clip_norm=clip_norm)
    hand = ByHand(lr, momentum, weight_decay, nesterov, clip_norm)
    w = numbers((size,), seed, dtype)
    by_hand, workspace = w.tolist(), Workspace()
    for step in range(5):
        if step == 3:
            sgd.lr = hand.lr = lr / 2  # what a schedule does
        dw = numbers((size,), seed + step + 1, dtype)
        sgd.step(w, dw, workspace)
        by_hand = hand.step(by_hand, dw.tolist())
    error = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(w, by_hand, rtol=error, atol=error)
    np.testing.assert_allclose(sgd.velocity, [hand.velocity[k] for k in range(size)], rtol=error, atol=error)


def test_plain_descent_is_exactly_that():
    w = np.array([1.0, -2.0, 4.0])
    SGD(0.5).step(w, np.array([1.0, 1.0, -1.0]), Workspace())
    assert np.array_equal(w, [0.5, -2.5, 4.5])


def test_large_arrays_are_cut_into_parts():
    w, dw = numbers((600_000,), 1), numbers((600_000,), 2)
    wanted = w - 0.1 * dw
    SGD(0.1).step(w, dw, Workspace())
    np.testing.assert_allclose(w, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("norm, scaled_to", [(3.0, 2.0), (2.0, 2.0), (0.5, 0.5), (0.0, 0.0)])
def test_clipping_scales_only_what_is_longer(norm, scaled_to):
    dw = numbers((50,))
    dw *= norm / np.linalg.norm(dw)
    w = np.zeros(50)
    SGD(1.0, clip_norm=2.0).step(w, dw, Workspace())
    assert np.linalg.norm(w) == pytest.approx(scaled_to)
    if norm:
        assert np.allclose(w, -dw * scaled_to / norm)


def test_a_long_gradient_does_not_shorten_the_next():
    sgd, workspace = SGD(1.0, clip_norm=1.0), Workspace()
    w = np.zeros(2)
    sgd.step(w, np.array([30.0, 40.0]), workspace)
    assert np.allclose(w, [-0.6, -0.8])
    sgd.step(w, np.array([0.25, 0.0]), workspace)
    assert np.allclose(w, [-0.85, -0.8])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_no_number_does_not_pass_for_a_step(bad):
    w = np.ones(8)
    SGD(0.1, clip_norm=1.0).step(w, np.array([1.0] * 7 + [bad]), Workspace())
    assert np.isnan(w).any()


def test_a_norm_beyond_float32_is_still_clipped():
    w, dw = np.zeros(4, np.float32), np.full(4, 3e38, np.float32)
    SGD(1.0, clip_norm=1.0).step(w, dw, Workspace())
    assert np.allclose(w, -0.5)


def test_velocity_is_made_once_and_anew_for_other_parameters():
    sgd, workspace = SGD(0.1, 0.9), Workspace()
    w, dw = np.zeros(5), np.ones(5)
    sgd.step(w, dw, workspace)
    first = sgd.velocity
    sgd.step(w, dw, workspace)
    assert sgd.velocity is first and np.allclose(first, 1.9)
    sgd.step(np.zeros(4), np.ones(4), workspace)
    assert np.array_equal(sgd.velocity, np.ones(4))
    sgd.step(np.zeros(4, np.float32), np.ones(4, np.float32), workspace)
    assert sgd.velocity.dtype == np.float32 and np.array_equal(sgd.velocity, np.ones(4))


def test_gradients_are_not_changed():
    dw = numbers((9,))
    before = dw.copy()
    SGD(0.1, 0.9, 0.1, nesterov=True, clip_norm=0.1).step(np.ones(9), dw, Workspace())
    assert np.array_equal(dw, before)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lr": -0.1}, "SGD: lr must be at least 0 and finite, got -0.1"),
        ({"lr": math.nan}, "SGD: lr must be at least 0 and finite, got nan"),
        ({"lr": math.inf}, "SGD: lr must be at least 0 and finite, got inf"),
        ({"lr": 1, "momentum": 1}, "SGD: momentum must be at least 0 and less than 1, got 1"),
        ({"lr": 1, "momentum": -0.5}, "SGD: momentum must be at least 0 and less than 1, got -0.5"),
        ({"lr": 1, "weight_decay": -1}, "SGD: weight_decay must be at least 0 and finite, got -1"),
        ({"lr": 1, "clip_norm": 0}, "SGD: clip_norm must be more than 0, or None, got 0"),
        ({"lr": 1, "clip_norm": math.nan}, "SGD: clip_norm must be more than 0, or None, got nan"),
        ({"lr": 1, "nesterov": True}, "SGD: nesterov needs momentum > 0, got momentum 0"),
    ],
)
def test_wrong_rates_are_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        SGD(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "w, dw",
    [
        (np.zeros(5), np.zeros(4)),
        (np.zeros(5), np.zeros(5, np.float32)),
        (np.zeros(5), np.zeros(10)[::2]),
        (np.zeros(10)[::2], np.zeros(5)),
        (np.zeros((2, 3)), np.zeros(6)),
        (np.zeros(5, np.int32), np.zeros(5, np.int32)),
        (np.zeros(5, np.float16), np.zeros(5, np.float16)),
    ],
)
def test_arrays_that_a_kernel_would_misread_are_refused(w, dw):
    sgd = SGD(0.1)
    with pytest.raises(ValueError, match=r"^SGD: params and grads must be contiguous floats and alike"):
        sgd.step(w, dw, Workspace())
    assert not w.any()
