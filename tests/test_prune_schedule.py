"""When a run prunes and how far."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsecore.prune import PruningSchedule, gradual, iterative, one_time
from sparsecore.prune.schedule import by_rounds, polynomial

from .small import refused

sparsities = st.floats(0, 1)
starts, lengths, strides = st.integers(0, 50), st.integers(0, 300), st.integers(1, 80)


def test_gradual_values_of_zhu_and_gupta():
    """s_f + (s_i − s_f)(1 − (t − t₀)/(nΔt))³, at t₀, t₀ + Δt, …, t₀ + nΔt."""
    schedule = gradual(100, 500, 100)
    assert schedule.steps() == [100, 200, 300, 400, 500]
    found = [schedule.sparsity(step, 0.9, 0.1) for step in schedule.steps()]
    assert found == pytest.approx([0.1, 0.9 - 0.8 * 0.421875, 0.9 - 0.8 * 0.125, 0.9 - 0.8 * 0.015625, 0.9])
    assert found[-1] == 0.9  # exactly


def test_an_exponent_of_one_is_even_and_a_larger_one_is_sooner():
    assert gradual(0, 10, 1, exponent=1).sparsity(5, 0.8) == pytest.approx(0.4)
    assert gradual(0, 10, 1, exponent=5).sparsity(5, 0.8) > gradual(0, 10, 1).sparsity(5, 0.8) > 0.4


def test_one_time_goes_all_the_way_at_once():
    schedule = one_time(70)
    assert schedule.steps() == [70]
    assert [step for step in range(200) if schedule.due(step)] == [70]
    assert schedule.sparsity(70, 0.99) == 0.99


def test_iterative_removes_the_same_fraction_of_what_is_left_in_every_round():
    schedule = iterative(10, 50, rounds=5)
    assert schedule.steps() == [10, 20, 30, 40, 50]
    left = [1.0, *(1 - schedule.sparsity(step, 0.9) for step in schedule.steps())]
    assert [after / before for before, after in itertools.pairwise(left)] == pytest.approx([0.1**0.2] * 5)
    assert iterative(10, 50, rounds=1).steps() == [50]
    uneven = iterative(10, 52, rounds=5)  # begins and ends where it was asked to, as evenly as steps allow
    assert uneven.steps() == [10, 20, 31, 41, 52]
    assert [uneven.sparsity(step, 0.9) for step in uneven.steps()] == [
        schedule.sparsity(step, 0.9) for step in schedule.steps()
    ]


def test_any_monotone_curve():
    def sine(progress: float, initial: float, final: float) -> float:
        return initial + (final - initial) * math.sin(progress * math.pi / 2)

    schedule = PruningSchedule(0, 100, 50, sine)
    assert schedule.sparsity(50, 0.9, 0.3) == pytest.approx(0.3 + 0.6 * math.sqrt(0.5))


@given(starts, lengths, strides, sparsities, sparsities, st.sampled_from([polynomial(), polynomial(0.5), by_rounds]))
@example(0, 1, 1, 2.8050692803126906e-09, 2.8050692803126906e-09, by_rounds)
def test_sparsity_never_falls_and_ends_at_its_target(start, length, every, low, high, curve):
    initial, final = sorted((low, high))
    schedule = PruningSchedule(start, start + length, every, curve, before=every)
    found = [schedule.sparsity(step, final, initial) for step in schedule.steps()]
    assert found == sorted(found) and found[-1] == final and found[0] >= initial - 1e-12


@given(starts, lengths, strides)
def test_prunings_are_due_where_the_list_says(start, length, every):
    schedule = gradual(start, start + length, every)
    steps = schedule.steps()
    assert steps == sorted(set(steps)) and steps[-1] == start + length
    assert steps == [step for step in range(start + length + every + 5) if schedule.due(step)]


def test_what_makes_no_schedule_is_refused():
    message = "pruning must go from a step of at least 0 to one that is not before it, in strides of at least 1, got "
    for start, end, every in ((-1, 5, 1), (5, 4, 1), (0, 5, 0)):
        refused(
            ValueError, f"{message}{start} to {end} every {every}", lambda s=start, e=end, n=every: gradual(s, e, n)
        )
    falls = "a pruning curve must rise from its initial to its final value and never fall"
    refused(ValueError, falls, lambda: PruningSchedule(0, 10, 2, lambda p, i, f: i + (f - i) * (1.5 - p)))
    refused(ValueError, falls, lambda: PruningSchedule(0, 10, 2, lambda p, i, f: -p))
    refused(ValueError, "the exponent must be more than 0, got 0", lambda: gradual(0, 1, 1, exponent=0))
    for rounds, start, end in ((0, 0, 10), (5, 0, 3)):
        message = f"there must be at least 1 round and a step between two, got {rounds} from {start} to {end}"
        refused(ValueError, message, lambda r=rounds, s=start, e=end: iterative(s, e, r))
