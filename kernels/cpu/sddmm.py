"""sddmm: grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ for each connection, and db[i] = Σ dy[i]."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ..compile import njit
from ..layout import LANES, Grid, kept_size
from ..tuning import (
    BAND_POSITIONS,
    FAR_CACHE,
    FEWEST_POSITIONS,
    IMAGE_CACHE,
    LEAST_GROUP_PANEL,
    LEAST_PANEL,
    NEAR_CACHE,
    SAMPLE_BLOCK,
)
from .call import arguments, kernel, share
from .ir.sample import sample, sample_alone, total
from .ir.vector import advance, floats, ints
from .spmm import equal_work, fetch_planes

SDDMM = arguments(
    "indptr", "rows", "starts", "runs", "cuts", "work", "offsets", "groups", "blocks",
    "dy", "x", "grad", "db",
    "outer", "x_outer", "dy_outer", "ys", "x_y", "dy_y", "lines", "x_line", "dy_line", "dy_row",
    "together", "high", "panel", "pieces", "planes", "plane", "ahead", "fresh", "apart", "more",
    "partial", "stride", "connections", "bands",
)  # fmt: skip


class Sweep(NamedTuple):
    """What sddmm takes of the positions, and of each row's connections, before it goes on to the next.

    Attributes
    ----------
    together, high, panel : int
        Tiles, image rows and lines whose products are summed in registers.
    pieces : int
        Pieces of a row's connections that are walked one after another: what one of them reads of x, with the same
        piece of all other rows, stays in the cache.
    """

    together: int
    high: int
    panel: int
    pieces: int


def sweep(grid: Grid, most_group: int) -> Sweep:
    """How sddmm walks a grid, on which the order of sums depends; `pieces` does not change it.

    Images: as many image rows as the second-level cache holds of x, and some positions at least; of the smallest
    images, several. It is the same for rows alone and for groups, so that a connection's gradient has the same bits
    whatever other connections there are.

    A fully connected layer, for groups of rows: as many lines of x as the second-level cache holds. A row alone waits
    for every line of x. Its panels are what the first level holds, four lines at least, so that the next row still
    finds them near.
    """
    if grid.outer == 1 and grid.ys == 1:
        cache, least = (FAR_CACHE, LEAST_GROUP_PANEL) if most_group > 1 else (NEAR_CACHE, LEAST_PANEL)
        return Sweep(1, 1, max(least, cache // max(grid.x_line * 4, 1) // least * least), 1)
    lines, ys, tiles = max(grid.lines, 1), max(grid.ys, 1), max(grid.outer, 1)
    row = max(grid.x_outer // ys * 4, 1)
    high = min(ys, max(-(-BAND_POSITIONS // lines), IMAGE_CACHE // row))
    high = -(-ys // -(-ys // high))  # all bands about equally high
    together = max(1, min(tiles, FEWEST_POSITIONS // (ys * lines)))
    return Sweep(together, high, lines, max(1, together * high * row // FAR_CACHE))


@njit
def piece_of(count: int, piece: int, pieces: int) -> tuple[int, int]:
    """The range of a row's connections that is one of so many pieces, cut where blocks of them begin."""
    first, last = share(count, piece, piece + 1, pieces)
    return first // SAMPLE_BLOCK * SAMPLE_BLOCK, count if piece == pieces - 1 else last // SAMPLE_BLOCK * SAMPLE_BLOCK


@cache
def sddmm_kernel(size: int, most_group: int, width: int) -> Any:
    """The kernel of fully connected layers, for elements of `size` bytes and groups of up to `most_group` rows."""

    kept = kept_size(size)

    def sddmm(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SDDMM)[0]
        dy, x, grad, db = floats(c.dy, size), floats(c.x, size), floats(c.grad, kept), floats(c.db, kept)
        indptr, rows, offsets = ints(c.indptr, 8), ints(c.rows, 4), ints(c.offsets, 4)
        starts, runs, cuts = ints(c.starts, 4), ints(c.runs, 8), ints(c.cuts, 4)
        first, last = equal_work(ints(c.work, 8), c.groups, part, until, parts)
        for line in range(0, c.lines, c.panel):
            lines = min(c.panel, c.lines - line)
            x_here, dy_here = advance(x, line * c.x_line), advance(dy, line * c.dy_line)
            later = np.int64(line > 0) | c.more  # the first positions write, all others add
            for block in range(c.blocks):
                for g in range(first, last):
                    a = np.int64(cuts[block * c.groups + g])
                    count = np.int64(cuts[(block + 1) * c.groups + g]) - a
                    start = np.int64(starts[g])
                    group = np.int64(starts[g + 1]) - start
                    here, columns, out = advance(rows, start), advance(offsets, runs[g] + a), advance(grad, a)
                    if group == 1:
                        sample_alone(
                            width, dy_here, c.dy_row, 0, c.dy_line, x_here, 0, c.x_line, 1, lines, here, columns,
                            count, indptr, out, later,
                        )  # fmt: skip
                    else:
                        sample(
                            width, most_group, group, dy_here, c.dy_row, 0, 0, c.dy_line, x_here, 0, 0, c.x_line, 1, 1,
                            lines, here, columns, count, indptr, out, later,
                        )  # fmt: skip
            if c.db != 0:
                for k in range(np.int64(starts[first]), np.int64(starts[last])):
                    row = np.int64(rows[k])
                    s = total(width, advance(dy_here, row * c.dy_row), 0, c.dy_line, 1, lines)
                    db[row] = s if later == 0 else db[row] + s
        if c.lines == 0 and c.more == 0:
            _nothing(starts, first, last, rows, indptr, grad, c.db != 0, db)

    return kernel(sddmm)


@njit
def _nothing(starts: Any, first: int, last: int, rows: Any, indptr: Any, grad: Any, biased: bool, db: Any) -> None:
    """The sums of no positions."""
    for k in range(np.int64(starts[first]), np.int64(starts[last])):
        row = np.int64(rows[k])
        for p in range(indptr[row], indptr[row + 1]):
            grad[p] = 0
        if biased:
            db[row] = 0


@cache
def sddmm_images_kernel(size: int, most_group: int, width: int) -> Any:
    """The kernel of convolutions: sums stay in registers over a band of image rows.

    With `partial`, each band has a row of sums there, which `join` adds up: then threads take bands, and read only
    theirs of x and dy. Without, they take rows of the operator, and each reads all of x.
    """

    kept = kept_size(size)

    def sddmm(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SDDMM)[0]
        dy, x, grad, db = floats(c.dy, size), floats(c.x, size), floats(c.grad, kept), floats(c.db, kept)
        indptr, rows, offsets = ints(c.indptr, 8), ints(c.rows, 4), ints(c.offsets, 4)
        starts, runs, cuts, work = ints(c.starts, 4), ints(c.runs, 8), ints(c.cuts, 4), ints(c.work, 8)
        bands_high = (c.ys + c.high - 1) // c.high
        bands = (c.outer + c.together - 1) // c.together * bands_high if c.lines != 0 else 0
        shares = (parts + bands - 1) // bands if c.partial != 0 else 1  # of a band
        begin, end = share(bands * shares, part, until, parts)
        if c.partial == 0:
            begin, end = 0, bands
        for band in range(begin // shares, (end + shares - 1) // shares):
            if c.partial != 0:
                sums = advance(floats(c.partial, kept), band * c.stride)
                totals, later = advance(sums, c.connections), np.int64(0)
                first_share, last_share = max(begin - band * shares, 0), min(end - band * shares, shares)
                first, last = equal_work(work, c.groups, first_share, last_share, shares)
            else:  # the first positions write, all others add
                sums, totals, later = grad, db, np.int64(band > 0) | c.more
                first, last = equal_work(work, c.groups, part, until, parts)
            outer, y = band // bands_high * c.together, band % bands_high * c.high
            tiles, high = min(c.together, c.outer - outer), min(c.high, c.ys - y)
            x_here = advance(x, outer * c.x_outer + y * c.x_y)
            dy_here = advance(dy, outer * c.dy_outer + y * c.dy_y)
            same_image = np.int64(y + c.high < c.ys)
            if same_image:  # filters have read the next band's first image rows already
                x_next, dy_next = x_here, advance(dy_here, c.high * c.dy_y)
                whole_lines, first_row = np.int64(0), c.high - 1
            else:
                x_next = advance(x, (outer + c.together) * c.x_outer)
                dy_next = advance(dy, (outer + c.together) * c.dy_outer)
                whole_lines, first_row = c.ahead // LANES if c.apart == LANES else c.fresh, np.int64(0)
            for piece in range(c.pieces):
                for g in range(first, last):
                    a, count = np.int64(0), np.int64(cuts[c.blocks * c.groups + g])
                    if c.pieces > 1:
                        skip, stop = piece_of(count, piece, c.pieces)
                        a, count = a + skip, stop - skip
                    start = np.int64(starts[g])
                    if c.planes != 0 and piece == c.pieces - 1:  # the next band, a share for each group
                        p, q = share(c.planes, g - first, g - first + 1, last - first)
                        fetch_planes(advance(x_next, p * c.plane), q - p, c.plane, 0, whole_lines, c.apart)
                        for r in range(first_row, first_row + c.high - 1 + same_image):
                            soon = advance(x_next, c.ahead + r * c.x_y + p * c.plane)
                            fetch_planes(soon, q - p, c.plane, 0, c.fresh, c.apart)
                        for r in range(start, np.int64(starts[g + 1])):
                            soon = advance(dy_next, np.int64(rows[r]) * c.dy_row)
                            fetch_planes(soon, 1, 0, 0, c.high * c.lines, LANES)
                    sample(
                        width, most_group, np.int64(starts[g + 1]) - start, dy_here, c.dy_row, c.dy_outer, c.dy_y,
                        c.dy_line, x_here, c.x_outer, c.x_y, c.x_line, tiles, high, c.lines, advance(rows, start),
                        advance(offsets, runs[g] + a), count, indptr, advance(sums, a), later,
                    )  # fmt: skip
            if c.db != 0:
                for k in range(np.int64(starts[first]), np.int64(starts[last])):
                    row = np.int64(rows[k])
                    for tile in range(tiles):
                        here = advance(dy_here, tile * c.dy_outer + row * c.dy_row)
                        s = total(width, here, c.dy_y, c.dy_line, high, c.lines)
                        totals[row] = s if later == 0 and tile == 0 else totals[row] + s
        if bands == 0 and c.more == 0:
            first, last = equal_work(work, c.groups, part, until, parts)
            _nothing(starts, first, last, rows, indptr, grad, c.db != 0, db)

    return kernel(sddmm)


def bands_of(grid: Grid, walk: Sweep) -> int:
    """Of a grid of images: how many sums a connection's gradient is made of."""
    return -(-grid.outer // walk.together) * -(-grid.ys // walk.high) if grid.lines else 0


@cache
def join_kernel(size: int) -> Any:
    """sddmm's second call: grad and db are the sums of all bands, in order."""

    def join(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SDDMM)[0]
        partial = floats(c.partial, size)
        first, last = share(c.connections, part, until, parts)
        _add_up(partial, c.stride, c.bands, first, last, floats(c.grad, size), c.more)
        if c.db != 0:
            first, last = share(c.stride - c.connections, part, until, parts)
            _add_up(advance(partial, c.connections), c.stride, c.bands, first, last, floats(c.db, size), c.more)

    return kernel(join)


@njit
def _add_up(partial: Any, stride: int, bands: int, first: int, last: int, out: Any, more: int) -> None:
    """out[p] = the sum of all bands' partial[p], to which that of the first is the beginning, or with `more` out[p]."""
    for p in range(first, last):
        out[p] = out[p] + partial[p] if more != 0 else partial[p]
    for band in range(1, bands):
        here = advance(partial, band * stride)
        for p in range(first, last):
            out[p] += here[p]
