"""Single numbers that callers give: whole or real ones, of any library's kind, or one line that says what they are not.

They raise ValueError, whose message begins with `name`; what is a number and out of range is the caller's to refuse.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import one_line

LARGEST_SEED = (1 << 64) - 1


def whole(name: str, value: Any) -> int:
    """A whole number; truths are none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {one_line(repr(value), 60)}") from None


def steps(name: str, value: Any) -> float:
    """A number of steps, which may be a whole float, as 0.75 · 1000 is."""
    found = number(name, value)
    if not found.is_integer():
        raise ValueError(f"{name} must be a whole number, got {one_line(repr(value), 60)}")
    return found


def number(name: str, value: Any) -> float:
    """A number, which may be infinite or NaN; words and truths are none."""
    try:
        if isinstance(value, bool | np.bool_ | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, got {one_line(repr(value), 60)}") from None


def seed_of(value: Any) -> int:
    """A seed, of which a random stream can be drawn."""
    if not 0 <= (seed := whole("seed", value)) <= LARGEST_SEED:
        raise ValueError(f"seed must be at least 0 and less than 2**64, got {value}")
    return seed
