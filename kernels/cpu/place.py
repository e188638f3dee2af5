"""Images put into a border of zeros, which a convolution reads where its filters stand out over an edge."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from .call import arguments, kernel, share
from .vector import advance, floats

PLACE = arguments("x", "mask", "out", "planes", "rows", "length", "out_plane", "out_row")


@cache
def place_kernel(size: int) -> Any:
    """out = x, or zero where `mask` is not positive. Rows of `length` elements; in `out` there is room between them."""

    def place(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, PLACE)[0]
        first, last = share(c.planes, part, parts)
        for plane in range(first, last):
            for row in range(c.rows):
                at = (plane * c.rows + row) * c.length
                x = advance(floats(c.x, size), at)
                out = advance(floats(c.out, size), plane * c.out_plane + row * c.out_row)
                if c.mask == 0:
                    for k in range(c.length):
                        out[k] = x[k]
                else:
                    mask = advance(floats(c.mask, size), at)
                    for k in range(c.length):
                        out[k] = x[k] if mask[k] > 0 else 0

    return kernel(place)
