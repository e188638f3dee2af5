"""ReLU as a layer of its own; sparse layers apply theirs while the sums are still in registers."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from .call import arguments, kernel, share
from .ir.vector import floats

RELU = arguments("x", "out", "count")
MASK = arguments("dy", "y", "out", "count")


@cache
def relu_kernel(size: int) -> Any:
    """out = max(x, 0); NaN stays NaN."""

    def relu(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, RELU)[0]
        x, out = floats(c.x, size), floats(c.out, size)
        first, last = share(c.count, part, until, parts)
        for k in range(first, last):
            out[k] = 0 if x[k] < 0 else x[k]

    return kernel(relu)


@cache
def mask_kernel(size: int) -> Any:
    """out = dy where y > 0, and 0 elsewhere."""

    def mask(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, MASK)[0]
        dy, y, out = floats(c.dy, size), floats(c.y, size), floats(c.out, size)
        first, last = share(c.count, part, until, parts)
        for k in range(first, last):
            out[k] = dy[k] if y[k] > 0 else 0

    return kernel(mask)
