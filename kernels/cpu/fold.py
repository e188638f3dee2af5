"""A small batch's images cut into strips, which lie beside one another in the lanes that the batch leaves empty.

A convolution of strips is one of lower images: every lane of a line is of use again.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..layout import LANES
from .call import arguments, kernel, share
from .ir.lanes import clear_lanes, copy_lanes, join_lanes
from .ir.vector import advance, floats

FOLD = arguments(
    "x", "mask", "out", "channels", "x_rows", "out_rows", "columns", "step", "top",
    "x_plane", "x_row", "mask_plane", "mask_row", "out_plane", "out_row",
)  # fmt: skip


@cache
def fold_kernel(size: int, batch: int) -> Any:
    """The strips of images: row r of strip k is row k · step + r − top of the images, zero beyond their edges."""
    strips, rest = LANES // batch, LANES % batch
    past = max(1, rest)  # lanes past the last strip, of which there must be code even where there are none

    def fold(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, FOLD)[0]
        first, last = share(c.channels, part, until, parts)
        from_x, from_mask, to, columns = floats(c.x, size), floats(c.mask, size), floats(c.out, size), c.columns
        for item in range(first * c.out_rows, last * c.out_rows):
            channel, row = item // c.out_rows, item % c.out_rows
            line = advance(to, channel * c.out_plane + row * c.out_row)
            for strip in range(strips):
                out, here = advance(line, strip * batch), strip * c.step + row - c.top
                if 0 <= here < c.x_rows:
                    x = advance(from_x, channel * c.x_plane + here * c.x_row)
                    if c.mask != 0:
                        mask = advance(from_mask, channel * c.mask_plane + here * c.mask_row)
                        for k in range(0, columns * LANES, LANES):
                            copy_lanes(batch, advance(x, k), advance(mask, k), advance(out, k))
                    else:
                        for k in range(0, columns * LANES, LANES):
                            copy_lanes(batch, advance(x, k), floats(0, size), advance(out, k))
                else:
                    for k in range(0, columns * LANES, LANES):
                        clear_lanes(batch, advance(out, k))
            if rest > 0:
                for k in range(strips * batch, columns * LANES, LANES):
                    clear_lanes(past, advance(line, k))

    return kernel(fold)


@cache
def unfold_kernel(size: int, batch: int) -> Any:
    """Images of their strips: what several strips have of a row is added up, and a row of none is zero."""
    strips = LANES // batch

    def unfold(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, FOLD)[0]
        first, last = share(c.channels, part, until, parts)
        from_x, from_mask, to, columns = floats(c.x, size), floats(c.mask, size), floats(c.out, size), c.columns
        for item in range(first * c.out_rows, last * c.out_rows):
            channel, row = item // c.out_rows, item % c.out_rows
            line = advance(to, channel * c.out_plane + row * c.out_row)
            here = row + c.top  # of the first strip; `step` less of each that follows
            begin = max(np.int64(0), (here - c.x_rows + c.step) // c.step)
            count = min(np.int64(strips), here // c.step + 1) - begin
            x = advance(from_x, channel * c.x_plane + (here - begin * c.step) * c.x_row + begin * batch)
            step = batch - c.step * c.x_row
            if c.mask != 0:
                mask = advance(from_mask, channel * c.mask_plane + row * c.mask_row)
                for k in range(0, columns * LANES, LANES):
                    join_lanes(batch, advance(x, k), step, count, advance(mask, k), advance(line, k))
            else:
                for k in range(0, columns * LANES, LANES):
                    join_lanes(batch, advance(x, k), step, count, floats(0, size), advance(line, k))

    return kernel(unfold)
