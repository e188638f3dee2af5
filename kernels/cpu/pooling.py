"""Pooling: the largest or the mean of each window of an image, and the way back."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from ..layout import LANES
from .call import arguments, kernel, share
from .ir.vector import advance, floats, stored
from .ir.windows import TO_ALL, TO_LARGEST, visit

POOLING = arguments(
    "x", "y", "index", "planes", "x_plane", "x_row", "y_rows", "y_columns", "high", "wide", "row_step", "column_step"
)

@cache
def pooling_kernel(what: int, size: int, width: int) -> Any:
    """Visit the windows of every image: y from x, or backward x from y.

    - LARGEST: y is the window's largest x, and `index` which of its pixels that was.
    - TO_LARGEST: x is the sum of the y of those windows whose `index` says so.
    - MEAN: y is the mean of the window's x.
    - TO_ALL: x is the sum of its windows' y, divided by their pixels.
    """
    backward = what in (TO_LARGEST, TO_ALL)
    each = 2 if size == 2 else 1  # a number of `index` for each sample

    def pooling(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, POOLING)[0]
        x, y, index = floats(c.x, size), floats(c.y, size), stored(c.index, 1)
        first, last = share(c.planes, part, until, parts)
        for plane in range(first, last):
            image = advance(x, plane * c.x_plane)
            if backward:  # the image stays in the first-level cache until its windows are through
                for k in range(c.x_plane):
                    image[k] = 0
            for row in range(c.y_rows):
                for column in range(c.y_columns):
                    at = ((plane * c.y_rows + row) * c.y_columns + column) * LANES
                    window = advance(image, row * c.row_step + column * c.column_step)
                    visit(what, width, window, c.x_row, c.high, c.wide, advance(y, at), advance(index, at * each))

    return kernel(pooling)
