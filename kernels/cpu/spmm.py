"""spmm: out[i] = Σ_p data[p] · x[offset[p]], the forward pass of every layer and, transposed, its dX."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..compile import njit
from ..layout import LANES, kept_size, registers_of_line
from ..tuning import LONG_ROW, gather_lines, linear_lines
from .call import arguments, kernel, share
from .ir.gather import gather
from .ir.vector import advance, fetch, floats, ints

SPMM = arguments(
    "indptr", "rows", "starts", "runs", "cuts", "work", "offsets", "groups", "blocks",
    "data", "x", "bias", "out", "mask", "relu", "more",
    "outer", "x_outer", "out_outer", "ys", "x_y", "out_y", "lines", "x_line", "out_line", "out_row",
    "bands", "planes", "plane", "ahead", "fresh", "apart", "places", "ceiling",
)  # fmt: skip


@njit
def equal_work(work: Any, groups: int, part: int, until: int, parts: int) -> tuple[int, int]:
    """The range of groups that falls to the parts from `part` to before `until`, cut where connections are about
    equal."""
    edges = (0, 0)
    for which in range(2):
        goal = work[groups] * (until if which else part) // parts
        low, high = 0, groups
        while low < high:
            middle = (low + high) // 2
            if work[middle] < goal:
                low = middle + 1
            else:
                high = middle
        edges = (edges[1], low)
    # Empty rows at the end hold no work, but have an output like any other.
    return edges[0], groups if until == parts else edges[1]


@njit
def units_of(outer: int, ys: int, lines: int, panel: int, parts: int) -> tuple[int, int]:
    """Into how many units a grid's positions are cut, rows of images or panels of lines, and each unit's rows of the
    operator into how many pieces, so that there is something for each of `parts`."""
    units = outer * ys if outer * ys != 1 else (lines + panel - 1) // panel
    return units, 1 if units >= parts or units == 0 else (parts + units - 1) // units


@njit
def fetch_planes(x: Any, planes: int, plane: int, begin: int, end: int, step: int) -> None:
    """Begin to bring lines `begin` to `end` of each of so many planes into the cache; lines lie `step` apart.

    A panel reads a few lines of each of many planes: too many stretches, and too short ones, for the processor to see
    what comes next.
    """
    for k in range(planes):
        for line in range(begin, end):
            fetch(advance(x, k * plane + line * step))


@cache
def spmm_kernel(size: int, most_group: int, width: int, placed: int = 0, capped: int = 0) -> Any:
    """The kernel for elements of `size` bytes and groups of up to `most_group` rows.

    `width` is how many elements a register holds; `placed` is 1 for grids that say where each row's outputs begin,
    `capped` where sums have a ceiling.
    """
    kept, registers = kept_size(size), registers_of_line(size, width)
    most_lines = gather_lines(most_group, kept * width, registers)
    few_lines, long_lines = (linear_lines(most_group, kept * width, registers, each) for each in (0, LONG_ROW))

    def spmm(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SPMM)[0]
        data, bias = floats(c.data, kept), floats(c.bias, kept)
        x, out, mask = floats(c.x, size), floats(c.out, size), floats(c.mask, size)
        indptr, rows, offsets = ints(c.indptr, 8), ints(c.rows, 4), ints(c.offsets, 4)
        starts, runs, cuts, bands = ints(c.starts, 4), ints(c.runs, 8), ints(c.cuts, 4), ints(c.bands, 4)
        count, places, ceiling = np.int64(starts[c.groups]), ints(c.places, 8), floats(c.ceiling, kept)
        # LLVM must take it that a kernel's output may lie over the call itself: what rows need is read once.
        groups, relu, more = c.groups, c.relu, c.more
        x_line, out_row, out_line, masked = c.x_line, c.out_row, c.out_line, c.mask != 0
        images = c.outer * c.ys != 1
        long = ints(c.work, 8)[c.groups] >= LONG_ROW * count
        panel = most_lines if images else long_lines if long else few_lines
        units, pieces = units_of(c.outer, c.ys, c.lines, panel, parts)
        item, final_item = share(units * pieces, part, until, parts)
        while item < final_item:
            unit = item // pieces
            stop = min(final_item, (unit + 1) * pieces)
            first, last = equal_work(ints(c.work, 8), c.groups, item - unit * pieces, stop - unit * pieces, pieces)
            item = stop
            outer, y, line, last_line = np.int64(0), np.int64(0), unit * panel, min(c.lines, (unit + 1) * panel)
            if images:
                outer, y, line, last_line = unit // c.ys, unit % c.ys, np.int64(0), c.lines
            x_at, out_at = outer * c.x_outer + y * c.x_y, outer * c.out_outer + y * c.out_y
            x_next, out_next, fresh = x_at + c.ahead, out_at + c.out_y, c.fresh
            if y + 1 == c.ys:  # the next image, of which nothing has been read yet
                x_next, out_next = (outer + 1) * c.x_outer, (outer + 1) * c.out_outer
                fresh = c.ahead // LANES if c.apart == LANES else fresh
            first_block, last_block = np.int64(0), c.blocks
            if c.bands != 0:
                first_block, last_block = np.int64(bands[2 * y]), np.int64(bands[2 * y + 1])
            # Sums that go on in another block are rounded between the two where y is bfloat16.
            whole = size == 2 or c.bands != 0
            while line < last_line:
                lines = panel
                while lines > last_line - line:
                    lines //= 2
                x_here = advance(x, x_at + line * x_line)
                here = out_at + line * out_line
                # A cache holds two blocks of half a panel. One of a line alone: longer rows wait for their one sum.
                twice = np.int64(not images and lines > 1 and 2 * lines == panel)
                step = last_block - first_block if whole else 1 + twice
                begin, end = line * fresh // c.lines, (line + lines) * fresh // c.lines
                block = first_block
                while True:
                    final = block + step >= last_block
                    begins, ends = advance(cuts, block * groups), advance(cuts, min(block + step, last_block) * groups)
                    again, rectify = np.int64(block > first_block) | more, relu * np.int64(final)
                    seen = advance(mask, here) if final and masked else floats(0, size)
                    for g in range(first, last):
                        a, e, start = np.int64(begins[g]), np.int64(ends[g]), np.int64(starts[g])
                        # A share of what the next image row reads and writes: all at once would have to wait.
                        if c.planes != 0 and block == first_block:
                            p, q = share(c.planes, g - first, g - first + 1, last - first)
                            fetch_planes(advance(x, x_next + p * c.plane), q - p, c.plane, begin, end, c.apart)
                            for k in range(start, np.int64(starts[g + 1])):
                                row = np.int64(rows[k])
                                at = out_next + (places[row] if placed == 1 else row * out_row)
                                fetch_planes(advance(out, at), 1, 0, line, line + lines, out_line)
                                if masked:
                                    fetch_planes(advance(mask, at), 1, 0, line, line + lines, out_line)
                        gather(
                            width, most_group, most_lines, placed, capped, np.int64(starts[g + 1]) - start, lines,
                            advance(data, a), indptr, advance(rows, start), advance(offsets, runs[g] + a), e - a,
                            x_here, x_line, bias, again, rectify, seen, advance(out, here), out_row, out_line, places,
                            ceiling,
                        )  # fmt: skip
                    block += step
                    if final:
                        break
                line += lines

    return kernel(spmm)
