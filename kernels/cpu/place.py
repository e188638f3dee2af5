"""Images copied to where something else reads them: into a border of zeros, among more channels, every second pixel."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray

from ..layout import LANES
from .call import arguments, kernel, share
from .ir.pairs import lower, upper, write
from .ir.vector import advance, copy_line, floats
from .relu import where_positive

PLACE = arguments(
    "x", "mask", "out", "tiles", "channels", "rows", "columns", "x_tile", "x_plane", "x_row", "x_column",
    "mask_tile", "mask_plane", "mask_row", "mask_column", "out_tile", "out_plane", "out_row", "out_column",
)  # fmt: skip


@cache
def place_kernel(size: int) -> Any:
    """out = x, or zero where `mask` is not positive; all three may be views, whose steps are in elements."""

    def place(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, PLACE)[0]
        first, last = share(c.tiles * c.channels, part, until, parts)
        # Read once: for all that LLVM knows, what is written to `out` could change them.
        from_x, from_mask, to, masked = floats(c.x, size), floats(c.mask, size), floats(c.out, size), c.mask != 0
        channels, rows, columns = c.channels, c.rows, c.columns
        x_tile, x_plane, x_row, x_column = c.x_tile, c.x_plane, c.x_row, c.x_column
        mask_tile, mask_plane, mask_row, mask_column = c.mask_tile, c.mask_plane, c.mask_row, c.mask_column
        out_tile, out_plane, out_row, out_column = c.out_tile, c.out_plane, c.out_row, c.out_column
        for plane in range(first, last):
            tile, channel = plane // channels, plane % channels
            for row in range(rows):
                x = advance(from_x, tile * x_tile + channel * x_plane + row * x_row)
                out = advance(to, tile * out_tile + channel * out_plane + row * out_row)
                mask = advance(from_mask, tile * mask_tile + channel * mask_plane + row * mask_row)
                if not masked:
                    for k in range(columns):
                        copy_line(advance(x, k * x_column), advance(out, k * out_column))
                elif x_column == LANES and out_column == LANES and mask_column == LANES:
                    for k in range(columns * LANES):
                        low = where_positive(lower(x, k), lower(mask, k))
                        write(out, k, low, where_positive(upper(x, k), upper(mask, k)))
                else:
                    for k in range(columns):
                        here, there = advance(x, k * x_column), advance(out, k * out_column)
                        seen = advance(mask, k * mask_column)
                        for lane in range(LANES):
                            low = where_positive(lower(here, lane), lower(seen, lane))
                            write(there, lane, low, where_positive(upper(here, lane), upper(seen, lane)))

    return kernel(place)
