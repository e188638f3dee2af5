"""Lines of bfloat16: 32 samples in 64 bytes, two in each word of four.

A word's upper half is sample k + 16 of its tile, its lower half sample k. Both are the upper halves of a float32, so
that a shift and a mask make two registers of float32 of one register of words, and sums are those of float32. Whatever
copies lines sees words and need not know.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...compile import njit
from ...layout import LANES
from .vector import I32, I64, SCALAR, Builder, Lines, Value


def lines_of(b: Builder, kind: Any, width: int) -> Lines:
    """What emits code for lines of an element type: float32, float64, or uint32 for two bfloat16."""
    return PairLines(b, width) if kind == types.uint32 else Lines(b, SCALAR[kind], width)


class PairLines(Lines):
    """Registers of float32, two for each register of words; rounded to the nearest, ties to even, where stored."""

    def __init__(self, b: Builder, width: int) -> None:
        super().__init__(b, ir.FloatType(), width)
        self.registers *= 2
        self.at_once = [(r, r + 1) for r in range(0, self.registers, 2)]
        self.words = ir.VectorType(I32, width)

    def load(self, base: Value, register: int = 0) -> Value:
        b = self.b
        where, upper = divmod(self.first + register, 2)
        words = b.load(self._cast(b.gep(base, [I64(where * self.width)]), self.words))
        words.align = self.size
        bits = b.and_(words, self._all(0xFFFF0000)) if upper else b.shl(words, self._all(16))
        return b.bitcast(bits, self.vector)

    def store_all(self, values: list[Value], base: Value, starts: list[Value]) -> None:
        for k in range(0, len(values), 2):
            where = (self.first + k % self.registers) // 2
            self.store_pair(values[k], values[k + 1], self.b.gep(base, [starts[k // self.registers]]), where)

    def store_pair(self, lower: Value, upper: Value, base: Value, where: int = 0) -> None:
        """Store two registers of float32 as register `where` of a line's words."""
        b = self.b
        low, high = (rounded(b, value, self.words) for value in (lower, upper))
        words = b.or_(b.lshr(low, self._all(16)), b.and_(high, self._all(0xFFFF0000)))
        target = self._cast(b.gep(base, [I64(where * self.width)]), self.words)
        b.store(words, target).align = self.size

    def _all(self, number: int) -> Value:
        return ir.Constant(self.words, [number] * self.width)


def parts_of(b: Builder, kind: Any, part: Any, width: int) -> Lines:
    """What emits code for sums of lines of an element type that wait, as elements of type `part`, to be gone on with.

    Those of two bfloat16 wait as float32, a line for each half, and are not rounded.
    """
    return lines_of(b, kind, width) if kind == part else _LinesOfPairs(b, width)


class _LinesOfPairs(PairLines):
    """The same registers, as two lines of float32."""

    def load(self, base: Value, register: int = 0) -> Value:
        where, upper = divmod(register, 2)
        value = self.b.load(self._cast(self.b.gep(base, [I64(upper * LANES + where * self.width)]), self.vector))
        value.align = self.size
        return value

    def store_pair(self, lower: Value, upper: Value, base: Value, where: int = 0) -> None:
        for half, value in enumerate((lower, upper)):
            target = self._cast(self.b.gep(base, [I64(half * LANES + where * self.width)]), self.vector)
            self.b.store(value, target).align = self.size


# Loops over numbers, which LLVM makes vectors of, are written once for lines of any kind: with `lower`, `upper` and
# `write`. Where a word is one number, that is the lower one, and what is made of the upper is left out.


@intrinsic
def lower(_, x, k):  # type: ignore[no-untyped-def]
    """The number in word k at a pointer, or the lower one of two."""
    return _half(x, upper=False)


@intrinsic
def upper(_, x, k):  # type: ignore[no-untyped-def]
    """The upper of two numbers in word k at a pointer; zero where it holds one."""
    return _half(x, upper=True)


def _half(x: Any, *, upper: bool) -> Any:
    paired = x.dtype == types.uint32

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        if upper and not paired:
            return ir.Constant(SCALAR[x.dtype], 0.0)
        word = b.load(b.gep(args[0], [args[1]]))
        if not paired:
            return word
        bits = b.and_(word, I32(0xFFFF0000)) if upper else b.shl(word, I32(16))
        return b.bitcast(bits, ir.FloatType())

    return (types.float32 if paired else x.dtype)(x, types.int64), emit


@intrinsic
def write(_, out, k, low, high):  # type: ignore[no-untyped-def]
    """Write one number into word k at a pointer, or two, rounded to bfloat16."""
    kind = types.float32 if out.dtype == types.uint32 else out.dtype

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        at, word = b.gep(args[0], [args[1]]), args[2]
        if out.dtype == types.uint32:
            word = b.or_(b.lshr(rounded(b, args[2], I32), I32(16)), b.and_(rounded(b, args[3], I32), I32(0xFFFF0000)))
        b.store(word, at)
        return context.get_dummy_value()

    return types.void(out, types.int64, kind, kind), emit


@njit
def clear_line(out: Any, at: int, used: int) -> None:
    """Zeros in a line's lanes from `used` on; of words that hold two numbers, the lower ones come first."""
    for lane in range(LANES):
        low = lower(out, at + lane) if lane < used else 0.0
        write(out, at + lane, low, upper(out, at + lane) if lane + LANES < used else 0.0)


def rounded(b: Builder, value: Value, kind: ir.Type) -> Value:
    """The bits of float32 values, as integers of a kind, whose upper half is the nearest bfloat16, ties to even.

    NaN stays NaN, whatever its lower half.
    """

    def every(number: int) -> Value:
        count = getattr(kind, "count", 0)
        return ir.Constant(kind, [number] * count if count else number)

    bits = b.bitcast(value, kind)
    nearest = b.add(bits, b.add(b.and_(b.lshr(bits, every(16)), every(1)), every(0x7FFF)))
    return b.select(b.fcmp_unordered("uno", value, value), b.or_(bits, every(0x00400000)), nearest)
