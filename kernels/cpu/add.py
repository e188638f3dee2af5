"""The sum of two, which is where a way around a layer meets what came through it."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from .call import arguments, kernel, share
from .ir.vector import floats

ADD = arguments("a", "b", "out", "count", "relu", "mask")


@cache
def add_kernel(size: int) -> Any:
    """out = a + b, then ReLU, or zero where `mask` is not positive; NaN stays NaN behind a ReLU."""

    def add(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, ADD)[0]
        a, b, out = floats(c.a, size), floats(c.b, size), floats(c.out, size)
        first, last = share(c.count, part, parts)
        if c.mask != 0:
            mask = floats(c.mask, size)
            for k in range(first, last):
                out[k] = a[k] + b[k] if mask[k] > 0 else 0
        elif c.relu != 0:
            for k in range(first, last):
                total = a[k] + b[k]
                out[k] = 0 if total < 0 else total
        else:
            for k in range(first, last):
                out[k] = a[k] + b[k]

    return kernel(add)
