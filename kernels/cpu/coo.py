"""spmm and sddmm over segments of connections, for layers whose rows are nearly empty or very unequal.

A row that is longer than a segment begins in one and goes on in the next. The segment that it begins in writes it; what
later segments add goes to lines of their own, the *carries*, and a second call adds these in order. Where segments end
does not depend on the number of threads, and so neither does a bit of the result.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..layout import LANES, kept_size, registers_of_line, samples_of_tile
from ..tuning import SAMPLE_BLOCK, linear_lines
from .call import arguments, kernel, share
from .ir.runs import gather_runs, settle
from .ir.sample import sample_across, total
from .ir.vector import advance, floats, ints
from .spmm import units_of

SPMM_COO = arguments(
    "rows", "offsets", "edges", "empty", "connections", "segments", "empties",
    "data", "x", "bias", "out", "mask", "relu", "carries",
    "outer", "x_outer", "out_outer", "ys", "x_y", "out_y", "lines", "x_line", "out_line", "out_row",
)  # fmt: skip
SDDMM_COO = arguments(
    "rows", "offsets", "connections", "count", "dy", "x", "grad", "db",
    "outer", "x_outer", "dy_outer", "ys", "x_y", "dy_y", "lines", "x_line", "dy_line", "dy_row", "more",
)  # fmt: skip


@cache
def spmm_coo_kernel(size: int, width: int, ahead: int) -> Any:
    """The kernel for elements of `size` bytes, `width` to a register, that fetches x `ahead` connections early."""
    most_lines = linear_lines(1, kept_size(size) * width, registers_of_line(size, width))
    kept, part_size = kept_size(size), samples_of_tile(size)

    def spmm_coo(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SPMM_COO)[0]
        data, bias, carries, none = floats(c.data, kept), floats(c.bias, kept), floats(c.carries, kept), floats(0, kept)
        x, out, mask, null = floats(c.x, size), floats(c.out, size), floats(c.mask, size), floats(0, size)
        rows, offsets, edges, empty = ints(c.rows, 4), ints(c.offsets, 4), ints(c.edges, 8), ints(c.empty, 4)
        images = c.outer * c.ys != 1
        units, pieces = units_of(c.outer, c.ys, c.lines, most_lines, parts)
        item, final_item = share(units * pieces, part, until, parts)
        while item < final_item:
            unit = item // pieces
            stop = min(final_item, (unit + 1) * pieces)
            first, last = share(c.segments, item - unit * pieces, stop - unit * pieces, pieces)
            first_empty, last_empty = share(c.empties, item - unit * pieces, stop - unit * pieces, pieces)
            item = stop
            outer, y = np.int64(0), np.int64(0)
            line, last_line = unit * most_lines, min(c.lines, (unit + 1) * most_lines)
            if images:
                outer, y, line, last_line = unit // c.ys, unit % c.ys, np.int64(0), c.lines
            x_at, out_at = outer * c.x_outer + y * c.x_y, outer * c.out_outer + y * c.out_y
            while line < last_line:
                lines = most_lines
                while lines > last_line - line:
                    lines //= 2
                x_here, here = advance(x, x_at + line * c.x_line), out_at + line * c.out_line
                out_here, mask_here = advance(out, here), advance(mask, here) if c.mask != 0 else null
                carries_here = advance(carries, ((outer * c.ys + y) * c.lines + line) * c.segments * part_size)
                begun_here = advance(carries_here, c.outer * c.ys * c.lines * c.segments * part_size)
                for k in range(first_empty, last_empty):
                    settle(
                        width, most_lines, lines, np.int64(empty[k]), bias, none, none, 0, c.relu, mask_here,
                        out_here, c.out_row, c.out_line,
                    )  # fmt: skip
                for s in range(first, last):
                    begin = edges[3 * s]
                    for stretch in range(3):  # of a row from before; of whole rows; of a row that goes on
                        end = edges[3 * s + stretch + 1]
                        if begin < end:
                            before, whole = stretch == 0, stretch == 1
                            first_bias, relu = none if before else bias, c.relu if whole else 0
                            seen = mask_here if whole else null
                            if size != 2:
                                gather_runs(
                                    width, most_lines, ahead, lines, data, rows, offsets, begin, end, c.connections,
                                    x_here, c.x_line, first_bias, relu, seen,
                                    advance(carries_here, s * LANES) if before else out_here,
                                    0 if before else c.out_row, c.segments * LANES if before else c.out_line,
                                )  # fmt: skip
                            elif whole:
                                gather_runs(
                                    width, most_lines, ahead, lines, data, rows, offsets, begin, end, c.connections,
                                    x_here, c.x_line, first_bias, relu, seen, out_here, c.out_row, c.out_line,
                                )  # fmt: skip
                            else:  # what y would round waits in float32
                                waiting = advance(carries_here if before else begun_here, s * part_size)
                                gather_runs(
                                    width, most_lines, ahead, lines, data, rows, offsets, begin, end, c.connections,
                                    x_here, c.x_line, first_bias, relu, seen, waiting, 0, c.segments * part_size,
                                )  # fmt: skip
                        begin = end
                line += lines

    return kernel(spmm_coo)


@cache
def carry_kernel(size: int, width: int) -> Any:
    """spmm's second call: out[row] += its carries, in order, then ReLU or a mask, for rows longer than a segment."""

    kept, part_size = kept_size(size), samples_of_tile(size)

    def carry(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SPMM_COO)[0]
        out, mask, null = floats(c.out, size), floats(c.mask, size), floats(0, size)
        carries, none = floats(c.carries, kept), floats(0, kept)
        rows, edges = ints(c.rows, 4), ints(c.edges, 8)
        positions = c.outer * c.ys * c.lines
        first, last = share(positions, part, until, parts)
        for position in range(first, last):
            outer, y, line = position // (c.ys * c.lines), position // c.lines % c.ys, position % c.lines
            here = outer * c.out_outer + y * c.out_y + line * c.out_line
            s = 0
            while s < c.segments:
                begun, row = s, np.int64(rows[edges[3 * s]])
                while s < c.segments and edges[3 * s] < edges[3 * s + 1] and rows[edges[3 * s]] == row:
                    s += 1
                if begun < s:
                    carry = advance(carries, (position * c.segments + begun) * part_size)
                    if size == 2:
                        beginning = advance(carry, (positions * c.segments - 1) * part_size)  # the segment before
                    else:
                        beginning = advance(out, here + row * c.out_row)
                    settle(
                        width, 1, 1, row, none, beginning, carry, s - begun,
                        c.relu, advance(mask, here) if c.mask != 0 else null, advance(out, here), c.out_row, 0,
                    )  # fmt: skip
                else:
                    s += 1

    return kernel(carry)


@cache
def sddmm_coo_kernel(size: int, width: int, ahead: int) -> Any:
    """The kernel for elements of `size` bytes, `width` to a register, that fetches x `ahead` connections early."""

    kept = kept_size(size)

    def sddmm_coo(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SDDMM_COO)[0]
        dy, x, grad, db = floats(c.dy, size), floats(c.x, size), floats(c.grad, kept), floats(c.db, kept)
        first, last = share((c.connections + SAMPLE_BLOCK - 1) // SAMPLE_BLOCK, part, until, parts)
        first, last = first * SAMPLE_BLOCK, min(last * SAMPLE_BLOCK, c.connections)
        rows, offsets = advance(ints(c.rows, 4), first), advance(ints(c.offsets, 4), first)
        first_row, last_row = share(c.count, part, until, parts)
        if c.outer * c.ys * c.lines == 0 and c.more == 0:  # the sums of nothing
            for p in range(first, last):
                grad[p] = 0
            for row in range(first_row, last_row if c.db != 0 else first_row):
                db[row] = 0
        later = np.int64(c.more)  # 0: the first positions write, all others add
        for outer in range(c.outer):
            x_here, dy_here = advance(x, outer * c.x_outer), advance(dy, outer * c.dy_outer)
            sample_across(
                width, ahead, dy_here, c.dy_row, c.dy_y, c.dy_line, x_here, c.x_y, c.x_line, c.ys, c.lines,
                rows, offsets, last - first, advance(grad, first), later,
            )  # fmt: skip
            if c.db != 0:
                for row in range(first_row, last_row):
                    s = total(width, advance(dy_here, row * c.dy_row), c.dy_y, c.dy_line, c.ys, c.lines)
                    db[row] = s if later == 0 else db[row] + s
            later = np.int64(1)

    return kernel(sddmm_coo)
