"""Transposing 16 × 16 blocks in registers: samples by features to features by samples, and back."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...layout import LANES
from .pairs import rounded
from .vector import I32, I64, SCALAR, Builder, Value, broadcast, literals, size_of

_STORED = {1: ir.IntType(8), 4: ir.FloatType()}


def transposed(b: Builder, rows: list[Value]) -> list[Value]:
    """The columns of 16 vectors of 16 elements: four rounds of interleaving row k with row k + 8."""
    low = [index for k in range(8) for index in (k, 16 + k)]
    high = [index for k in range(8, 16) for index in (k, 16 + k)]
    for _ in range(4):
        pairs = list(zip(rows[:8], rows[8:], strict=True))
        rows = [
            b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, 16), order))
            for first, second in pairs
            for order in (low, high)
        ]
    return rows


@intrinsic(prefer_literal=True)
def gather_block(_, store_size, rows, feature, scale, shift, valid, half, out):  # type: ignore[no-untyped-def]
    """out[f, lane] = rows[lane][feature + f] · scale[feature + f] + shift[feature + f], for 16 features of one tile.

    `rows` points at the addresses of 16 samples, of uint8 (`store_size` 1) or float32 (4). Lanes from `valid` on
    become zero. Where words of `out` hold two numbers, `half` 0 writes the lower ones, and zeros above them, and 1 the
    upper ones.
    """
    literal = literals(store_size)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, rows, feature, scale, shift, valid, half, out = args
        scalar = SCALAR[signature.args[3].dtype]
        element, line = _STORED[literal[0]], ir.VectorType(scalar, LANES)
        kind = ir.VectorType(element, 16)
        loaded = []
        for lane in range(LANES):
            base = b.add(b.load(b.gep(rows, [I64(lane)])), b.mul(feature, I64(literal[0])))
            value = b.load(b.inttoptr(base, kind.as_pointer()))
            value.align = literal[0]
            loaded.append(value)
        keep = _first(b, valid)
        for f, column in enumerate(transposed(b, loaded)):
            at = b.add(feature, I64(f))
            factor, offset = (broadcast(b, b.load(b.gep(array, [at])), line) for array in (scale, shift))
            value = b.fadd(b.fmul(_converted(b, column, element, line), factor), offset)
            value = b.select(keep, value, ir.Constant(line, [0.0] * LANES))
            if signature.args[7].dtype == types.uint32:
                value = _with_half(b, value, b.gep(out, [I64(f * LANES)]), half)
            target = b.bitcast(b.gep(out, [I64(f * LANES)]), value.type.as_pointer())
            b.store(value, target).align = 4
        return context.get_dummy_value()

    i = types.int64
    return types.void(store_size, rows, i, scale, shift, i, i, out), emit


def _with_half(b: Builder, value: Value, out: Value, half: Value) -> Value:
    """A line of words of which values become one half, rounded to bfloat16."""
    words = ir.VectorType(I32, LANES)
    bits = rounded(b, value, words)
    before = b.load(b.bitcast(out, words.as_pointer()))
    before.align = 4
    above = b.or_(before, b.and_(bits, ir.Constant(words, [0xFFFF0000] * LANES)))
    return b.select(b.icmp_signed("==", half, I64(0)), b.lshr(bits, ir.Constant(words, [16] * LANES)), above)


def _converted(b: Builder, value: Value, element: ir.Type, line: ir.Type) -> Value:
    if isinstance(element, ir.IntType):
        return b.uitofp(value, line)
    return value if element == line.element else b.fpext(value, line)


@intrinsic(prefer_literal=True)
def transpose_block(_, unpack, placed, rows, row_step, tile, lines, valid):  # type: ignore[no-untyped-def]
    """tile[j, i] = rows[i, j] for 16 features of up to 16 samples, `row_step` elements from one sample to the next.

    Line j is the j-th of the tile, or with `placed` 1 the one whose number is `lines[j]`. Packing (`unpack` 0) writes
    zeros into lanes from `valid` on and reads the last valid row there; unpacking goes the other way, and writes the
    first `valid` rows only.
    """
    literal = literals(unpack, placed)
    if literal is None:
        return None
    unpacks, is_placed = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, _, rows, row_step, tile, lines, valid = args
        scalar = SCALAR[signature.args[2].dtype]
        vector = ir.VectorType(scalar, LANES)
        last = b.sub(valid, I64(1))

        def row(k: int) -> Value:
            which = b.select(b.icmp_signed("<", I64(k), valid), I64(k), last)
            return b.gep(rows, [b.mul(which, row_step)])

        def line(k: int) -> Value:
            number = b.sext(b.load(b.gep(lines, [I64(k)])), I64) if is_placed else I64(k)
            return b.gep(tile, [b.mul(number, I64(LANES))])

        source, target = (line, row) if unpacks else (row, line)
        loaded = []
        for k in range(LANES):
            value = b.load(b.bitcast(source(k), vector.as_pointer()))
            value.align = size_of(scalar)
            loaded.append(value)
        columns = transposed(b, loaded)
        # Backwards, so that rows beyond the last valid one are overwritten by it.
        for k in reversed(range(LANES)):
            value = columns[k]
            if not unpacks:
                value = b.select(_first(b, valid), value, ir.Constant(vector, [0.0] * LANES))
            b.store(value, b.bitcast(target(k), vector.as_pointer())).align = size_of(scalar)
        return context.get_dummy_value()

    i = types.int64
    return types.void(unpack, placed, rows, i, tile, lines, i), emit


def _first(b: Builder, valid: Value) -> Value:
    """The mask of the first `valid` lanes."""
    order = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
    return b.icmp_signed("<", order, broadcast(b, valid, ir.VectorType(I64, LANES)))
