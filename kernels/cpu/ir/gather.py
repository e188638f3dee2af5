"""The gather micro-kernel: a row's sums stay in registers for all its connections.

Plain Numba loops store and reload their sums on every connection; keeping them is most of what separates the engine
from a loop. Everything here works on raw pointers and element strides; shapes and loops live in `spmm.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...layout import LANES
from .pairs import lines_of
from .vector import I64, Builder, Lines, Value, choose, count_loop, literals, not_null, switch


@intrinsic(prefer_literal=True)
def gather(  # type: ignore[no-untyped-def]
    _, widths, groups, most_lines, placed, group, lines, data, indptr, rows, offsets, count, x, x_line,
    bias, accumulate, relu, mask, out, out_row, out_line, places,
):  # fmt: skip
    """out[row, line] = bias[row] + Σ_p data[row, p] · x[offsets[p], line], then ReLU or a mask.

    For `group` rows that share their columns (1 to `groups`) and `lines` lines (a power of two up to `most_lines`) at
    once: group · lines sums stay in registers for the whole loop over `count` connections, and every loaded line of x
    feeds `group` multiply-adds.

    `rows` points at the group's row numbers, `indptr[row]` is where a row's values start. Null `bias` means none; with
    `accumulate`, sums continue from `out` instead. Null `mask` means none; otherwise elements whose mask is not
    positive become zero (the backward pass of a ReLU). ReLU lets NaN through. With `placed` 1, a row's outputs begin at
    `places[row]`, and not at row · out_row.
    """
    literal = literals(widths, groups, most_lines, placed)
    if literal is None:
        return None
    width, group_n, lines_n, placed_n = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        v = lines_of(b, signature.args[11].dtype, width)
        call = _Gather(v, bool(placed_n), *args[6:])

        def one_group(group: int) -> Callable[[], None]:
            return lambda: switch(b, {n: partial(call.emit, group, n) for n in line_counts(lines_n)}, args[5])

        switch(b, {n: one_group(n) for n in range(group_n, 0, -1)}, args[4])
        return context.get_dummy_value()

    i = types.int64
    kinds = (i, i, data, indptr, rows, offsets, i, x, i, bias, i, i, mask, out, i, i, places)
    return types.void(widths, groups, most_lines, placed, *kinds), emit


class _Gather:
    """The arguments of one gather; `emit` writes the loop for a number of rows and lines."""

    def __init__(self, v, placed, data, indptr, rows, offsets, count, x, x_line, bias, accumulate, relu, mask, out, out_row, out_line, places):  # type: ignore[no-untyped-def] # noqa: E501
        self.placed, self.places = placed, places
        self.v, self.data, self.indptr, self.rows, self.offsets, self.count = v, data, indptr, rows, offsets, count
        self.x, self.x_line, self.bias, self.accumulate, self.relu, self.mask = x, x_line, bias, accumulate, relu, mask
        self.out, self.out_row, self.out_line = out, out_row, out_line

    def emit(self, group: int, lines: int) -> None:
        v, b = self.v, self.v.b
        numbers = [b.sext(b.load(b.gep(self.rows, [I64(r)])), I64) for r in range(group)]
        values = [b.gep(self.data, [b.load(b.gep(self.indptr, [number]))]) for number in numbers]
        x_bases = [b.gep(self.x, [b.mul(self.x_line, I64(k))]) for k in range(lines)]

        def connection(p: Value, sums: list[Value]) -> list[Value]:
            line = b.mul(b.sext(b.load(b.gep(self.offsets, [p])), I64), I64(LANES))
            xs = [v.load(b.gep(base, [line]), r) for base in x_bases for r in range(v.registers)]
            weights = [v.broadcast(b.load(b.gep(base, [p]))) for base in values]
            return [v.fma(w, xs[k], sums[r * len(xs) + k]) for r, w in enumerate(weights) for k in range(len(xs))]

        begins = [
            b.load(b.gep(self.places, [number])) if self.placed else b.mul(number, self.out_row) for number in numbers
        ]
        targets = [b.add(begin, b.mul(self.out_line, I64(k))) for begin in begins for k in range(lines)]
        sums = choose(
            b, b.icmp_signed("!=", self.accumulate, I64(0)),
            lambda: v.load_all(self.out, targets),
            lambda: biases(v, self.bias, numbers, lines),
        )  # fmt: skip
        sums = count_loop(b, I64(0), self.count, 1, sums, connection)
        v.store_all(finish(v, sums, self.relu, self.mask, targets), self.out, targets)


def line_counts(most: int) -> list[int]:
    """The numbers of lines that there is code for: `most`, a power of two, its half, and so on down to 1."""
    return [most >> k for k in range(most.bit_length())]


def biases(v: Lines, bias: Value, numbers: list[Value], lines: int) -> list[Value]:
    """What each row's sums begin with, for `lines` lines: its bias, or zero if `bias` is null."""
    b = v.b
    nothing = cgutils.alloca_once_value(b, ir.Constant(v.scalar, 0.0))
    present = not_null(b, bias)
    starts = [b.load(b.select(present, b.gep(bias, [number]), nothing)) for number in numbers]
    return [vector for start in starts for vector in [v.broadcast(start)] * (lines * v.registers)]


def finish(v: Lines, sums: list[Value], relu: Value, mask: Value, targets: list[Value]) -> list[Value]:
    """ReLU if asked, and zero where there is a mask that is not positive."""
    b = v.b
    sums = choose(
        b, b.icmp_signed("!=", relu, I64(0)),
        lambda: [b.select(b.fcmp_ordered("<", s, v.zero), v.zero, s) for s in sums],
        lambda: sums,
    )  # fmt: skip

    def masked() -> list[Value]:
        seen = v.load_all(mask, targets)
        return [b.select(b.fcmp_ordered(">", m, v.zero), s, v.zero) for m, s in zip(seen, sums, strict=True)]

    return choose(b, not_null(b, mask), masked, lambda: sums)
