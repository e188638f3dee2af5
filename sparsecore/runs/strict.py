"""JSON as every reader takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np


def strict(value: Any) -> Any:
    """A value in which each NaN and infinity is None, since JSON has neither and most readers refuse them, and NumPy's
    numbers are Python's, since what is given as a seed or a rate may be one."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: strict(each) for name, each in value.items()}
    return list(map(strict, value)) if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """What `json.dumps(…, default=plain)` writes of a NumPy number."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected what JSON has, such as a number or a word, got {type(value).__name__}")


def as_line(value: Any) -> str:
    """A value as JSON; None, which is `null`, for numbers that are not finite."""
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):
        return json.dumps(strict(value), allow_nan=False)
