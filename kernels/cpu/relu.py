"""ReLU as a layer of its own; sparse layers apply theirs while the sums are still in registers."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from ..compile import njit
from .call import arguments, kernel, share
from .ir.pairs import lower, upper, write
from .ir.vector import floats

RELU = arguments("x", "out", "count")
MASK = arguments("dy", "y", "out", "count")


@njit
def rectified(value: Any) -> Any:
    """max(value, 0); NaN stays NaN."""
    return 0.0 if value < 0 else value


@njit
def where_positive(value: Any, seen: Any) -> Any:
    """The value, or zero where what is seen is not positive."""
    return value if seen > 0 else 0.0


@cache
def relu_kernel(size: int) -> Any:
    """out = max(x, 0); NaN stays NaN."""

    def relu(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, RELU)[0]
        x, out = floats(c.x, size), floats(c.out, size)
        first, last = share(c.count, part, until, parts)
        for k in range(first, last):
            write(out, k, rectified(lower(x, k)), rectified(upper(x, k)))

    return kernel(relu)


@cache
def mask_kernel(size: int) -> Any:
    """out = dy where y > 0, and 0 elsewhere."""

    def mask(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, MASK)[0]
        dy, y, out = floats(c.dy, size), floats(c.y, size), floats(c.out, size)
        first, last = share(c.count, part, until, parts)
        for k in range(first, last):
            low = where_positive(lower(dy, k), lower(y, k))
            write(out, k, low, where_positive(upper(dy, k), upper(y, k)))

    return kernel(mask)
