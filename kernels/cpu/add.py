"""The sum of two, which is where a way around a layer meets what came through it."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from ..layout import LANES
from .call import arguments, kernel, share
from .ir.pairs import lower, upper, write
from .ir.vector import advance, floats
from .relu import rectified, where_positive

ADD = arguments(
    "a", "b", "out", "mask", "relu", "tiles", "channels", "rows", "length", "a_tile", "a_plane", "a_row",
    "b_tile", "b_plane", "b_row", "out_tile", "out_plane", "out_row", "mask_tile", "mask_plane", "mask_row",
    "columns", "a_column", "b_column", "out_column", "mask_column",
)  # fmt: skip


@cache
def add_kernel(size: int, onto: bool = False, apart: bool = False) -> Any:
    """out = a + b, then ReLU, or zero where `mask` is not positive; NaN stays NaN behind a ReLU.

    All may be images within a border, whose rows lie apart. With `apart`, pixels of a row lie apart too, such as every
    second one, and each is a column; otherwise a row is one column. With `onto`, a is out: LLVM would ask whether the
    two overlap, and add one number after another if they do.
    """

    def add(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, ADD)[0]
        from_a, from_b, from_mask, to = floats(c.a, size), floats(c.b, size), floats(c.mask, size), floats(c.out, size)
        # Read once: for all that LLVM knows, what is written to `out` could change them.
        channels, rows, length, masked, relu = c.channels, c.rows, c.length, c.mask != 0, c.relu != 0
        columns, a_column, b_column = c.columns, c.a_column, c.b_column
        out_column, mask_column = c.out_column, c.mask_column
        a_tile, a_plane, a_row, b_tile, b_plane, b_row = c.a_tile, c.a_plane, c.a_row, c.b_tile, c.b_plane, c.b_row
        out_tile, out_plane, out_row = c.out_tile, c.out_plane, c.out_row
        mask_tile, mask_plane, mask_row = c.mask_tile, c.mask_plane, c.mask_row
        first, last = share(c.tiles * channels * rows, part, until, parts)
        for which in range(first, last):
            plane, row = which // rows, which % rows
            tile, channel = plane // channels, plane % channels
            for column in range(columns):
                out = advance(to, tile * out_tile + channel * out_plane + row * out_row + column * out_column)
                a = out
                if not onto:
                    a = advance(from_a, tile * a_tile + channel * a_plane + row * a_row + column * a_column)
                b = advance(from_b, tile * b_tile + channel * b_plane + row * b_row + column * b_column)
                if masked:
                    at = tile * mask_tile + channel * mask_plane + row * mask_row + column * mask_column
                    mask = advance(from_mask, at)
                    for k in range(LANES if apart else length):
                        low = where_positive(lower(a, k) + lower(b, k), lower(mask, k))
                        write(out, k, low, where_positive(upper(a, k) + upper(b, k), upper(mask, k)))
                elif relu:
                    for k in range(LANES if apart else length):
                        low = rectified(lower(a, k) + lower(b, k))
                        write(out, k, low, rectified(upper(a, k) + upper(b, k)))
                else:
                    for k in range(LANES if apart else length):
                        write(out, k, lower(a, k) + lower(b, k), upper(a, k) + upper(b, k))

    return kernel(add)
