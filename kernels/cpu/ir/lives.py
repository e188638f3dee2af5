"""Words for samples that come and go: lines of bits, which lanes of many lines hold anything, lanes that close up.

Lanes close up as bits do in Hacker's Delight (H. S. Warren, 2nd edition, 7-4): each moves down by as many places as
there are empty ones below it, first by 1 if that number is odd, then by 2, 4 and 8, whoever is to.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...layout import LANES
from .vector import I32, I64, Builder, Value, count_loop

_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(I32, LANES)
_BITS = ir.IntType(LANES)


@intrinsic
def spread(_: Any, bits: Any, out: Any) -> Any:
    """Write a line of float32: 1 where the bit of a lane is set, 0 elsewhere."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        ones, zeros = (ir.Constant(_FLOATS, [value] * LANES) for value in (1.0, 0.0))
        _store(b, b.select(_lanes(b, args[0]), ones, zeros), args[1])
        return context.get_dummy_value()

    return types.void(types.int64, out), emit


@intrinsic
def occupied(_: Any, x: Any, step: Any, count: Any) -> Any:
    """A bit for each lane that is not zero in all of `count` lines of float32, `step` elements apart."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        def more(k: Value, seen: list[Value]) -> list[Value]:
            return [b.or_(seen[0], b.bitcast(_load(b, b.gep(args[0], [b.mul(k, args[1])])), _WORDS))]

        zeros = ir.Constant(_WORDS, [0] * LANES)
        (seen,) = count_loop(b, I64(0), args[2], 1, [zeros], more)
        return b.zext(b.bitcast(b.icmp_unsigned("!=", seen, zeros), _BITS), I64)

    return types.int64(x, types.int64, types.int64), emit


@intrinsic
def close_up(  # type: ignore[no-untyped-def]
    _, x, step, count, by_1, by_2, by_4, by_8, keep, out,
):  # fmt: skip
    """out = x with its lanes moved down, for `count` lines of float32 that lie `step` elements apart in both.

    `by_k` has a bit for each lane that takes the lane k above it, after those before; of the result, the lanes of
    `keep` are written, and nothing else is touched.
    """

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        takes, kept = [_lanes(b, bits) for bits in args[3:7]], _lanes(b, args[7])
        kind = ir.FunctionType(ir.VoidType(), [_FLOATS, _FLOATS.as_pointer(), I32, kept.type])
        store = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.store.v{LANES}f32.p0")

        def line(k: Value, none: list[Value]) -> list[Value]:
            at = b.mul(k, args[1])
            value = _load(b, b.gep(args[0], [at]))
            for power, take in enumerate(takes):
                order = [(lane + (1 << power)) % LANES for lane in range(LANES)]
                moved = b.shuffle_vector(value, value, ir.Constant(_WORDS, order))
                value = b.select(take, moved, value)
            b.call(store, [value, b.bitcast(b.gep(args[8], [at]), _FLOATS.as_pointer()), I32(4), kept])
            return none

        count_loop(b, I64(0), args[2], 1, [], line)
        return context.get_dummy_value()

    i = types.int64
    return types.void(x, i, i, i, i, i, i, i, out), emit


def _lanes(b: Builder, bits: Value) -> Value:
    return b.bitcast(b.trunc(bits, _BITS), ir.VectorType(ir.IntType(1), LANES))


def _load(b: Builder, base: Value) -> Value:
    value = b.load(b.bitcast(base, _FLOATS.as_pointer()))
    value.align = 4
    return value


def _store(b: Builder, value: Value, base: Value) -> None:
    b.store(value, b.bitcast(base, _FLOATS.as_pointer())).align = 4
