"""JSON as every reader takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def strict(value: Any) -> Any:
    """A value in which each NaN and infinity is None, since JSON has neither and most readers refuse them."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: strict(each) for name, each in value.items()}
    return list(map(strict, value)) if isinstance(value, list | tuple) else value


def as_line(value: Any) -> str:
    """A value as JSON; None, which is `null`, for numbers that are not finite."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(strict(value), allow_nan=False)
