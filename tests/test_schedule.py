"""Learning-rate schedules, value by value."""

import math

import pytest

from sparsecore.training.schedules import constant, cosine, step_decay, warm_up


def test_constant():
    assert [constant()(step) for step in (0, 1, 10**9)] == [1, 1, 1]


def test_step_decay():
    schedule = step_decay(3, 0.5)
    assert [schedule(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert step_decay(1)(2) == pytest.approx(0.01)


def test_cosine():
    schedule = cosine(4)
    assert [schedule(step) for step in range(4)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    assert schedule(0) == 1 and schedule(4) == 0 and schedule(100) == 0
    assert [cosine(2, final=0.2)(step) for step in (0, 1, 2, 3)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_warm_up():
    schedule = warm_up(4, cosine(10))
    assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [schedule(4 + step) for step in range(12)] == [cosine(10)(step) for step in range(12)]
    assert warm_up(0, constant())(0) == 1
    rates = [schedule(step) for step in range(5)]
    assert rates == sorted(rates) and rates[0] > 0, "the first step already learns"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: step_decay(0), "step_decay: every must be at least 1, got 0"),
        (lambda: cosine(0), "cosine: steps must be at least 1, got 0"),
        (lambda: warm_up(-1, constant()), "warm_up: steps must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
