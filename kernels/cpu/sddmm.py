"""sddmm: grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ for each connection, and db[i] = Σ dy[i]."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..layout import Grid
from ..tuning import FAR_CACHE, LEAST_GROUP_PANEL, LEAST_PANEL, NEAR_CACHE
from .call import arguments, kernel
from .ir.sample import sample, total
from .ir.vector import advance, floats, ints
from .spmm import equal_work

SDDMM = arguments(
    "indptr", "rows", "starts", "runs", "cuts", "work", "offsets", "groups", "blocks",
    "dy", "x", "grad", "db",
    "outer", "x_outer", "dy_outer", "ys", "x_y", "dy_y", "lines", "x_line", "dy_line", "dy_row",
    "panel",
)  # fmt: skip


def panel(grid: Grid, most_group: int) -> int:
    """Lines that sddmm takes before it goes over the connections again.

    For groups of rows, as many lines of x as the second-level cache holds: their sums stay in registers over all of
    them. A row alone waits for every line of x. Its panels are what the first level holds, four lines at least, so that
    the next row still finds them near.
    """
    if grid.outer > 1 or grid.ys > 1:
        return max(grid.lines, 1)  # an image is walked whole, tile by tile
    cache, least = (FAR_CACHE, LEAST_GROUP_PANEL) if most_group > 1 else (NEAR_CACHE, LEAST_PANEL)
    return max(least, cache // max(grid.x_line * 4, 1) // least * least)


@cache
def sddmm_kernel(size: int, most_group: int, width: int) -> Any:
    """The kernel for elements of `size` bytes and groups of up to `most_group` rows."""

    def sddmm(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SDDMM)[0]
        dy, x, grad, db = floats(c.dy, size), floats(c.x, size), floats(c.grad, size), floats(c.db, size)
        indptr, rows, offsets = ints(c.indptr, 8), ints(c.rows, 4), ints(c.offsets, 4)
        starts, runs, cuts = ints(c.starts, 4), ints(c.runs, 8), ints(c.cuts, 4)
        first, last = equal_work(ints(c.work, 8), c.groups, part, parts)
        later = np.int64(0)  # 0: the first positions write, all others add
        for outer in range(c.outer):
            for line in range(0, c.lines, c.panel):
                lines = min(c.panel, c.lines - line)
                x_here = advance(x, outer * c.x_outer + line * c.x_line)
                dy_here = advance(dy, outer * c.dy_outer + line * c.dy_line)
                for block in range(c.blocks):
                    for g in range(first, last):
                        a = np.int64(cuts[block * c.groups + g])
                        e = np.int64(cuts[(block + 1) * c.groups + g])
                        start = np.int64(starts[g])
                        sample(
                            width, most_group, np.int64(starts[g + 1]) - start, dy_here, c.dy_row, c.dy_y, c.dy_line,
                            x_here, c.x_y, c.x_line, c.ys, lines, advance(rows, start),
                            advance(offsets, runs[g] + a), e - a, indptr, advance(grad, a), later,
                        )  # fmt: skip
                if c.db != 0:
                    for k in range(np.int64(starts[first]), np.int64(starts[last])):
                        row = np.int64(rows[k])
                        s = total(width, advance(dy_here, row * c.dy_row), c.dy_y, c.dy_line, c.ys, lines)
                        db[row] = s if later == 0 else db[row] + s
                later = np.int64(1)
        if later == 0:  # no positions: the sums of nothing
            for k in range(np.int64(starts[first]), np.int64(starts[last])):
                row = np.int64(rows[k])
                for p in range(indptr[row], indptr[row + 1]):
                    grad[p] = 0
                if c.db != 0:
                    db[row] = 0

    return kernel(sddmm)
