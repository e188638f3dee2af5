"""The pooling micro-kernel: one window of an image, all lanes of its pixels at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...layout import LANES
from .pairs import lines_of
from .vector import I64, Builder, Lines, Value, broadcast, count_loop, literals

LARGEST, TO_LARGEST, MEAN, TO_ALL = range(4)
"""What is done with each window: forward and backward of either pooling."""


@intrinsic(prefer_literal=True)
def visit(_, whats, widths, x, x_row, high, wide, y, index):  # type: ignore[no-untyped-def]
    """Do one of these with a window of `high` rows of `wide` lines."""
    literal = literals(whats, widths)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        v = lines_of(b, signature.args[2].dtype, literal[1])
        _Window(v, *args[2:]).emit(literal[0])
        return context.get_dummy_value()

    i = types.int64
    return types.void(whats, widths, x, i, i, i, y, index), emit


class _Window:
    """The arguments of one visit."""

    def __init__(self, v: Lines, x: Value, x_row: Value, high: Value, wide: Value, y: Value, index: Value) -> None:
        self.v, self.b, self.x, self.x_row, self.high, self.wide = v, v.b, x, x_row, high, wide
        self.y, self.index = y, index
        self.registers = range(v.registers)
        self.numbers = ir.VectorType(ir.IntType(8), v.width)

    def emit(self, what: int) -> None:
        (self.largest, self.to_largest, self.mean, self.to_all)[what]()

    def largest(self) -> None:
        v, b = self.v, self.b
        first = [v.load(self.x, r) for r in self.registers]
        winners = [ir.Constant(self.numbers, [0] * v.width) for _ in self.registers]

        def better(line: Value, k: Value, carried: list[Value]) -> list[Value]:
            best, winners = carried[: v.registers], carried[v.registers :]
            here = broadcast(b, b.trunc(k, self.numbers.element), self.numbers)
            for r in self.registers:
                value = v.load(line, r)
                # A NaN wins over any number, and nothing over it: the first one stays.
                wins = b.and_(b.fcmp_unordered(">", value, best[r]), b.fcmp_ordered("ord", best[r], best[r]))
                best[r], winners[r] = b.select(wins, value, best[r]), b.select(wins, here, winners[r])
            return best + winners

        carried = self._pixels(first + winners, better)
        v.store_all(carried[: v.registers], self.y, [I64(0)])
        for r in self.registers:
            self._at(r, self.index, carried[v.registers + r])

    def to_largest(self) -> None:
        v, b = self.v, self.b
        dys, winners = [v.load(self.y, r) for r in self.registers], [self._at(r, self.index) for r in self.registers]

        def add(line: Value, k: Value, carried: list[Value]) -> list[Value]:
            here = broadcast(b, b.trunc(k, self.numbers.element), self.numbers)
            chosen = [b.select(b.icmp_unsigned("==", winners[r], here), dys[r], v.zero) for r in self.registers]
            v.store_all([b.fadd(v.load(line, r), each) for r, each in enumerate(chosen)], line, [I64(0)])
            return carried

        self._pixels([], add)

    def mean(self) -> None:
        v, b = self.v, self.b

        def add(line: Value, k: Value, sums: list[Value]) -> list[Value]:
            return [b.fadd(s, v.load(line, r)) for r, s in enumerate(sums)]

        totals = self._pixels([v.zero] * v.registers, add)
        v.store_all([b.fdiv(total, self._count()) for total in totals], self.y, [I64(0)])

    def to_all(self) -> None:
        v, b = self.v, self.b
        shares = [b.fdiv(v.load(self.y, r), self._count()) for r in self.registers]

        def add(line: Value, k: Value, carried: list[Value]) -> list[Value]:
            v.store_all([b.fadd(v.load(line, r), each) for r, each in enumerate(shares)], line, [I64(0)])
            return carried

        self._pixels([], add)

    def _pixels(self, carried: list[Value], body: Callable[[Value, Value, list[Value]], list[Value]]) -> list[Value]:
        """Loop over the window's pixels: `body(line, number, carried)` gives what to carry on."""
        b = self.b

        def row(ky: Value, carried: list[Value]) -> list[Value]:
            start, number = b.gep(self.x, [b.mul(ky, self.x_row)]), b.mul(ky, self.wide)
            return count_loop(
                b, I64(0), self.wide, 1, carried,
                lambda kx, c: body(b.gep(start, [b.mul(kx, I64(LANES))]), b.add(number, kx), list(c)),
            )  # fmt: skip

        return count_loop(b, I64(0), self.high, 1, carried, row)

    def _count(self) -> Value:
        return self.v.broadcast(self.b.sitofp(self.b.mul(self.high, self.wide), self.v.scalar))

    def _at(self, register: int, index: Value, value: Value | None = None) -> Value:
        """Load the index of a register's lanes, or store it."""
        target = self.b.bitcast(self.b.gep(index, [I64(register * self.v.width)]), self.numbers.as_pointer())
        access = self.b.load(target) if value is None else self.b.store(value, target)
        access.align = 1
        return access
