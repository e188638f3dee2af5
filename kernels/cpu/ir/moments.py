"""Two sums over the lines of a plane, in float64 and for each lane apart: what batch normalisation is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...layout import LANES
from .pairs import lines_of
from .vector import I32, I64, Builder, Value, broadcast, count_loop

DOUBLES = ir.VectorType(ir.DoubleType(), LANES)

AT_ONCE = 2
"""Lines whose sums stand side by side, so that an addition need not wait for the one before it; of lines with two
numbers in each word, the two halves of one."""


@intrinsic
def spread(_, x, rows, length, x_row, used, middle, sums):  # type: ignore[no-untyped-def]
    """sums[0] += Σ (x − middle) and sums[1] += Σ (x − middle)² over rows of `length` elements, `x_row` apart.

    Of each line the first `used` lanes count: of words that hold two numbers, the lower ones come first.
    """

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        x, rows, length, x_row, used, middle, sums = args
        words = _Words(b, signature.args[0].dtype)
        centre = broadcast(b, middle, DOUBLES)

        def of_line(row: Value, at: Value, half: int, first: Value, second: Value) -> tuple[Value, Value]:
            apart = b.fsub(words.load(x, b.add(b.mul(row, x_row), at), half), centre)
            return b.fadd(first, apart), words.fma(apart, apart, second)

        words.sum_up(rows, length, used, sums, of_line)
        return context.get_dummy_value()

    i = types.int64
    return types.void(x, i, i, i, i, types.float64, sums), emit


@intrinsic
def slope(  # type: ignore[no-untyped-def]
    _, dy, x, rows, length, dy_row, x_row, used, middle, relu, mean, rate, shift, sums,
):  # fmt: skip
    """sums[0] += Σ dy and sums[1] += Σ dy · (x − middle), likewise.

    With `relu`, dy is zero where (x − mean) · rate + shift is not positive.
    """

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        dy, x, rows, length, dy_row, x_row, used, middle, relu, mean, rate, shift, sums = args
        words = _Words(b, signature.args[0].dtype)
        centre = broadcast(b, middle, DOUBLES)
        always = broadcast(b, b.icmp_signed("==", relu, I64(0)), ir.VectorType(ir.IntType(1), LANES))
        level, factor, offset = (broadcast(b, value, words.lines.vector) for value in (mean, rate, shift))

        def of_line(row: Value, at: Value, half: int, first: Value, second: Value) -> tuple[Value, Value]:
            value = words.lines.load(b.gep(x, [b.add(b.mul(row, x_row), at)]), half)
            given = words.lines.load(b.gep(dy, [b.add(b.mul(row, dy_row), at)]), half)
            became = b.fadd(b.fmul(b.fsub(value, level), factor), offset)
            passes = b.or_(always, b.fcmp_ordered(">", became, words.lines.zero))
            given = words.widen(b.select(passes, given, words.lines.zero))
            apart = b.fsub(words.widen(value), centre)
            return b.fadd(first, given), words.fma(given, apart, second)

        words.sum_up(rows, length, used, sums, of_line)
        return context.get_dummy_value()

    i = types.int64
    return types.void(dy, x, i, i, i, i, i, types.float64, i, mean, rate, shift, sums), emit


class _Words:
    """Emits loads of lines as float64, and loops that sum them."""

    def __init__(self, b: Builder, kind: Any) -> None:
        self.b, self.lines = b, lines_of(b, kind, LANES)
        self.halves = self.lines.registers
        function = ir.FunctionType(DOUBLES, [DOUBLES] * 3)
        self._fma = cgutils.get_or_insert_function(b.module, function, f"llvm.fma.v{LANES}f64")

    def fma(self, a: Value, x: Value, total: Value) -> Value:
        return self.b.call(self._fma, [a, x, total])

    def load(self, base: Value, start: Value, half: int) -> Value:
        """The line that begins at an element, or one half of its numbers."""
        return self.widen(self.lines.load(self.b.gep(base, [start]), half))

    def widen(self, value: Value) -> Value:
        """Numbers of a line as float64."""
        return value if self.lines.size == 8 else self.b.fpext(value, DOUBLES)

    def sum_up(
        self, rows: Value, length: Value, used: Value, sums: Value, of_line: Callable[..., tuple[Value, Value]]
    ) -> None:
        """sums[0] and sums[1] grow by what `of_line(row, at, half, first, second)` adds to two sums, line after
        line."""
        b = self.b
        zero = ir.Constant(DOUBLES, [0.0] * LANES)

        halves = self.halves

        def some(row: Value, at: Value, totals: list[Value], count: int) -> list[Value]:
            new: list[Value] = []
            for k in range(count * halves):
                line, half = divmod(k, halves)
                new += of_line(row, b.add(at, I64(line * LANES)), half, *totals[2 * k : 2 * k + 2])
            return new + totals[2 * count * halves :]

        def of_row(row: Value, totals: list[Value]) -> Any:
            together = AT_ONCE // halves
            step = together * LANES
            whole = b.and_(length, I64(-step))
            totals = count_loop(b, I64(0), whole, step, totals, lambda at, sums: some(row, at, sums, together))
            return count_loop(b, whole, length, LANES, totals, lambda at, sums: some(row, at, sums, 1))

        totals = count_loop(b, I64(0), rows, 1, [zero] * (2 * AT_ONCE), of_row)
        lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        limits = [broadcast(b, b.sub(used, I64(half * LANES)), lanes.type) for half in range(halves)]
        counts = [b.icmp_signed("<", lanes, limit) for limit in limits]
        for which in range(2):
            # What stands side by side is added up, and then what counts of it; halves count each for itself.
            mine = totals[which::2]
            added = [b.select(counts[k], total, zero) for k, total in enumerate(mine)] if halves > 1 else mine
            total = added[0]
            for other in added[1:]:
                total = b.fadd(total, other)
            total = total if halves > 1 else b.select(counts[0], total, zero)
            at = b.gep(sums, [I64(which)])
            scalar = b.load(at)
            for lane in range(LANES):
                scalar = b.fadd(scalar, b.extract_element(total, I32(lane)))
            b.store(scalar, at)
