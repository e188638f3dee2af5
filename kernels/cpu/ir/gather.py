"""The gather micro-kernel: a row's sums stay in registers for all its connections.

Plain Numba loops store and reload their sums on every connection; keeping them is most of what separates the engine
from a loop. Everything here works on raw pointers and element strides; shapes and loops live in `spmm.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...layout import LANES
from ...tuning import gather_passes
from .pairs import lines_of
from .vector import I64, Builder, Lines, Value, choose, count_loop, literals, not_null, switch


@intrinsic(prefer_literal=True)
def gather(  # type: ignore[no-untyped-def]
    _, widths, groups, most_lines, placed, capped, group, lines, data, indptr, rows, offsets, count, x, x_line,
    bias, accumulate, relu, mask, out, out_row, out_line, places, ceiling,
):  # fmt: skip
    """out[row, line] = bias[row] + Σ_p data[row, p] · x[offsets[p], line], then ReLU or a mask.

    For `group` rows that share their columns (1 to `groups`) and `lines` lines (a power of two up to `most_lines`) at
    once: group · lines sums stay in registers for the whole loop over `count` connections, and every loaded line of x
    feeds `group` multiply-adds.

    `rows` points at the group's row numbers, `indptr[row]` is where a row's values start. Null `bias` means none; with
    `accumulate`, sums continue from `out` instead. Null `mask` means none; otherwise elements whose mask is not
    positive become zero (the backward pass of a ReLU). ReLU lets NaN through. With `placed` 1, a row's outputs begin at
    `places[row]`, and not at row · out_row. With `capped` 1, `relu` stands for min(max(sum + bias, 0), ceiling[0]),
    where a sum of zero takes no bias and stays zero.
    """
    literal = literals(widths, groups, most_lines, placed, capped)
    if literal is None:
        return None
    width, group_n, lines_n, placed_n, capped_n = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        v = lines_of(b, signature.args[12].dtype, width)
        call = _Gather(v, bool(placed_n), bool(capped_n), *args[7:])

        def one_group(group: int) -> Callable[[], None]:
            return lambda: switch(b, {n: partial(call.emit, group, n) for n in line_counts(lines_n)}, args[6])

        switch(b, {n: one_group(n) for n in range(group_n, 0, -1)}, args[5])
        return context.get_dummy_value()

    i = types.int64
    kinds = (i, i, data, indptr, rows, offsets, i, x, i, bias, i, i, mask, out, i, i, places, ceiling)
    return types.void(widths, groups, most_lines, placed, capped, *kinds), emit


class _Gather:
    """The arguments of one gather; `emit` writes the loop for a number of rows and lines."""

    def __init__(self, v, placed, capped, data, indptr, rows, offsets, count, x, x_line, bias, accumulate, relu, mask, out, out_row, out_line, places, ceiling):  # type: ignore[no-untyped-def] # noqa: E501
        self.placed, self.places, self.capped, self.ceiling = placed, places, capped, ceiling
        self.v, self.data, self.indptr, self.rows, self.offsets, self.count = v, data, indptr, rows, offsets, count
        self.x, self.x_line, self.bias, self.accumulate, self.relu, self.mask = x, x_line, bias, accumulate, relu, mask
        self.out, self.out_row, self.out_line = out, out_row, out_line

    def emit(self, group: int, lines: int) -> None:
        v = self.v
        for part in v.parts(gather_passes(group, v.width * v.size, v.registers)):
            self._emit(part, group, lines)

    def _emit(self, v: Lines, group: int, lines: int) -> None:
        b = v.b
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
        shifts = shifts_of(v, self.bias, numbers)
        sums = choose(
            b, b.icmp_signed("!=", self.accumulate, I64(0)),
            lambda: v.load_all(self.out, targets),
            lambda: spread(v, below(v, shifts) if self.capped else shifts, lines),
        )  # fmt: skip
        # A row alone waits for its sums or for x: unrolled, it would only pay for a second loop to begin and end.
        sums = count_loop(b, I64(0), self.count, 1, sums, connection, unrolled=group > 1)
        if self.capped:
            sums = cap(v, sums, shifts, self.relu, self.ceiling)
        v.store_all(finish(v, sums, self.relu, self.mask, targets), self.out, targets)


def line_counts(most: int) -> list[int]:
    """The numbers of lines that there is code for: `most`, a power of two, its half, and so on down to 1."""
    return [most >> k for k in range(most.bit_length())]


def biases(v: Lines, bias: Value, numbers: list[Value], lines: int) -> list[Value]:
    """What each row's sums begin with, for `lines` lines: its bias, or zero if `bias` is null."""
    return spread(v, shifts_of(v, bias, numbers), lines)


def shifts_of(v: Lines, bias: Value, numbers: list[Value]) -> list[Value]:
    """Each row's bias, or zero if `bias` is null."""
    b = v.b
    nothing = cgutils.alloca_once_value(b, ir.Constant(v.scalar, 0.0))
    present = not_null(b, bias)
    return [b.load(b.select(present, b.gep(bias, [number]), nothing)) for number in numbers]


def spread(v: Lines, starts: list[Value], lines: int) -> list[Value]:
    """A number a row, as the registers of `lines` lines."""
    return [vector for start in starts for vector in [v.broadcast(start)] * (lines * v.registers)]


def below(v: Lines, shifts: list[Value]) -> list[Value]:
    """What sums under a ceiling begin with: a bias that is not positive, since it leaves a sum of zero at zero."""
    b, zero = v.b, ir.Constant(v.scalar, 0.0)
    return [b.select(b.fcmp_ordered(">", shift, zero), zero, shift) for shift in shifts]


def cap(v: Lines, sums: list[Value], shifts: list[Value], relu: Value, ceiling: Value) -> list[Value]:
    """If asked, each sum with its row's bias where that is positive and the sum is not zero; and no more than
    ceiling[0]. NaN stays NaN."""
    b, zero = v.b, ir.Constant(v.scalar, 0.0)
    late = [b.fcmp_ordered(">", shift, zero) for shift in shifts]
    several = len(sums) // len(shifts)

    def added() -> list[Value]:
        found = []
        for k, shift in enumerate(shifts):
            ours = v.broadcast(b.select(late[k], shift, zero))
            for total in sums[k * several : (k + 1) * several]:
                found.append(b.select(b.fcmp_unordered("!=", total, v.zero), b.fadd(total, ours), v.zero))
        return found

    def capped() -> list[Value]:
        most = v.broadcast(b.load(ceiling))
        found = choose(b, reduce(b.or_, late), added, lambda: sums)
        return [b.select(b.fcmp_ordered(">", s, most), most, s) for s in found]

    return choose(b, b.icmp_signed("!=", relu, I64(0)), capped, lambda: sums)


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
