"""Two sums over the lines of a plane, in float64 and for each lane apart: what batch normalisation is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...layout import LANES
from .vector import I32, I64, SCALAR, Builder, Value, broadcast, count_loop, size_of

DOUBLES = ir.VectorType(ir.DoubleType(), LANES)

AT_ONCE = 2
"""Lines whose sums stand side by side, so that an addition need not wait for the one before it."""


@intrinsic
def spread(_, x, rows, length, x_row, used, middle, sums):  # type: ignore[no-untyped-def]
    """sums[0] += Σ (x − middle) and sums[1] += Σ (x − middle)² over rows of `length` elements, `x_row` apart.

    Of each line the first `used` lanes count.
    """

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        x, rows, length, x_row, used, middle, sums = args
        words = _Words(b, SCALAR[signature.args[0].dtype])
        centre = broadcast(b, middle, DOUBLES)

        def of_line(row: Value, at: Value, first: Value, second: Value) -> tuple[Value, Value]:
            apart = b.fsub(words.load(x, b.add(b.mul(row, x_row), at)), centre)
            return b.fadd(first, apart), words.fma(apart, apart, second)

        words.sum_up(rows, length, used, sums, of_line)
        return context.get_dummy_value()

    i = types.int64
    return types.void(x, i, i, i, i, types.float64, sums), emit


@intrinsic
def slope(_, dy, x, rows, length, dy_row, x_row, used, middle, sums):  # type: ignore[no-untyped-def]
    """sums[0] += Σ dy and sums[1] += Σ dy · (x − middle), likewise."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        dy, x, rows, length, dy_row, x_row, used, middle, sums = args
        words = _Words(b, SCALAR[signature.args[0].dtype])
        centre = broadcast(b, middle, DOUBLES)

        def of_line(row: Value, at: Value, first: Value, second: Value) -> tuple[Value, Value]:
            given = words.load(dy, b.add(b.mul(row, dy_row), at))
            apart = b.fsub(words.load(x, b.add(b.mul(row, x_row), at)), centre)
            return b.fadd(first, given), words.fma(given, apart, second)

        words.sum_up(rows, length, used, sums, of_line)
        return context.get_dummy_value()

    i = types.int64
    return types.void(dy, x, i, i, i, i, i, types.float64, sums), emit


class _Words:
    """Emits loads of lines as float64, and loops that sum them."""

    def __init__(self, b: Builder, scalar: ir.Type) -> None:
        self.b, self.scalar = b, scalar
        kind = ir.FunctionType(DOUBLES, [DOUBLES] * 3)
        self._fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{LANES}f64")

    def fma(self, a: Value, x: Value, total: Value) -> Value:
        return self.b.call(self._fma, [a, x, total])

    def load(self, base: Value, start: Value) -> Value:
        """The line that begins at an element."""
        value = self.b.load(self.b.bitcast(self.b.gep(base, [start]), ir.VectorType(self.scalar, LANES).as_pointer()))
        value.align = size_of(self.scalar)
        return value if size_of(self.scalar) == 8 else self.b.fpext(value, DOUBLES)

    def sum_up(
        self, rows: Value, length: Value, used: Value, sums: Value, of_line: Callable[..., tuple[Value, Value]]
    ) -> None:
        """sums[0] and sums[1] grow by what `of_line(row, at, first, second)` adds to two sums, line after line."""
        b = self.b
        zero = ir.Constant(DOUBLES, [0.0] * LANES)

        def some(row: Value, at: Value, totals: list[Value], count: int) -> list[Value]:
            new: list[Value] = []
            for k in range(count):
                new += of_line(row, b.add(at, I64(k * LANES)), *totals[2 * k : 2 * k + 2])
            return new + totals[2 * count :]

        def of_row(row: Value, totals: list[Value]) -> Any:
            step = AT_ONCE * LANES
            whole = b.and_(length, I64(-step))
            totals = count_loop(b, I64(0), whole, step, totals, lambda at, sums: some(row, at, sums, AT_ONCE))
            return count_loop(b, whole, length, LANES, totals, lambda at, sums: some(row, at, sums, 1))

        totals = count_loop(b, I64(0), rows, 1, [zero] * (2 * AT_ONCE), of_row)
        lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        counts = b.icmp_signed("<", lanes, broadcast(b, used, lanes.type))
        for which in range(2):
            total = totals[which]
            for k in range(1, AT_ONCE):
                total = b.fadd(total, totals[2 * k + which])
            total = b.select(counts, total, zero)
            at = b.gep(sums, [I64(which)])
            scalar = b.load(at)
            for lane in range(LANES):
                scalar = b.fadd(scalar, b.extract_element(total, I32(lane)))
            b.store(scalar, at)
