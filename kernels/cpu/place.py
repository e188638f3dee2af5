"""Images copied into a border of zeros, which a convolution reads where its filters reach over an edge."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from ..layout import LANES
from .call import arguments, kernel, share
from .ir.vector import advance, copy_line, floats

PLACE = arguments("x", "mask", "out", "planes", "rows", "length", "out_plane", "out_row")


@cache
def place_kernel(size: int) -> Any:
    """out = x, or zero where `mask` is not positive. Rows have `length` elements, a multiple of LANES; in `out`
    they are `out_row` elements apart, and planes `out_plane`."""

    def place(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, PLACE)[0]
        first, last = share(c.planes, part, parts)
        # Read once: for all that LLVM knows, what is written to `out` could change them.
        from_x, from_mask, to, masked = floats(c.x, size), floats(c.mask, size), floats(c.out, size), c.mask != 0
        rows, length, out_plane, out_row = c.rows, c.length, c.out_plane, c.out_row
        for plane in range(first, last):
            for row in range(rows):
                at = (plane * rows + row) * length
                x, out = advance(from_x, at), advance(to, plane * out_plane + row * out_row)
                if masked:
                    mask = advance(from_mask, at)
                    for k in range(length):
                        out[k] = x[k] if mask[k] > 0 else 0
                else:
                    for k in range(0, length, LANES):
                        copy_line(advance(x, k), advance(out, k))

    return kernel(place)
