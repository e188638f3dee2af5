"""Learning rates over a run: a factor of the base rate for each step."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..scalars import number
from ..scalars import steps as steps_of

Schedule = Callable[[int], float]
"""Factor of the base learning rate at a step, from 0."""


def constant() -> Schedule:
    """Always 1."""
    return lambda step: 1.0


def step_decay(every: int, factor: float = 0.1) -> Schedule:
    """`factor` once more after each `every` steps."""
    if steps_of("step_decay: every", every) < 1:
        raise ValueError(f"step_decay: every must be at least 1, got {every}")
    factor = _factor("step_decay: factor", factor)
    return lambda step: factor ** (step // every)


def cosine(steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to `final` after `steps` steps (Loshchilov and Hutter, SGDR, 2017)."""
    if steps_of("cosine: steps", steps) < 1:
        raise ValueError(f"cosine: steps must be at least 1, got {steps}")
    final = _factor("cosine: final", final)
    return lambda step: final + (1 - final) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def warm_up(steps: int, after: Schedule) -> Schedule:
    """Rise evenly to the full rate over the first `steps` steps, then follow `after` from its beginning."""
    if steps_of("warm_up: steps", steps) < 0:
        raise ValueError(f"warm_up: steps must be at least 0, got {steps}")
    return lambda step: (step + 1) / (steps + 1) if step < steps else after(step - steps)


def _factor(name: str, value: float) -> float:
    if not 0 <= number(name, value) < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    return float(value)
