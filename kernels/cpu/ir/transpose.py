"""Transposing 16 × 16 blocks in registers: samples by features to features by samples, and back."""

from __future__ import annotations

from collections.abc import Callable
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
def gather_block(_, store_size, rows, feature, scale, shift, valid, out):  # type: ignore[no-untyped-def]
    """out[f, lane] = rows[lane][feature + f] · scale[feature + f] + shift[feature + f], for 16 features of one tile.

    `rows` points at the addresses of the tile's samples, of uint8 (`store_size` 1) or float32 (4). Lanes from `valid`
    on become zero. Where words of `out` hold two bfloat16, samples lie 16 apart in a word: those are rounded and joined
    before they are transposed, so that half as many are.
    """
    literal = literals(store_size)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, *given, out = args
        element = _STORED[literal[0]]
        if signature.args[6].dtype == types.uint32:
            lines = _joined(b, element, *given)
        else:
            lines = _normalised(b, element, SCALAR[signature.args[3].dtype], *given)
        for f, line in enumerate(lines):
            b.store(line, b.bitcast(b.gep(out, [I64(f * LANES)]), line.type.as_pointer())).align = 4
        return context.get_dummy_value()

    i = types.int64
    return types.void(store_size, rows, i, scale, shift, i, out), emit


def _stored(b: Builder, element: ir.Type, rows: Value, lane: Value, feature: Value) -> Value:
    """16 features of a sample, as they are stored."""
    size = 1 if isinstance(element, ir.IntType) else 4
    base = b.add(b.load(b.gep(rows, [lane])), b.mul(feature, I64(size)))
    value = b.load(b.inttoptr(base, ir.VectorType(element, 16).as_pointer()))
    value.align = size
    return value


def _normalised(
    b: Builder, element: ir.Type, scalar: ir.Type, rows: Value, feature: Value, scale: Value, shift: Value, valid: Value
) -> list[Value]:
    """The lines of 16 features: transposed as they are stored, then multiplied."""
    line = ir.VectorType(scalar, LANES)
    keep, lines = _first(b, valid), []
    loaded = [_stored(b, element, rows, I64(lane), feature) for lane in range(LANES)]
    for f, column in enumerate(transposed(b, loaded)):
        at = b.add(feature, I64(f))
        factor, offset = (broadcast(b, b.load(b.gep(array, [at])), line) for array in (scale, shift))
        value = b.fadd(b.fmul(_converted(b, column, element, line), factor), offset)
        lines.append(b.select(keep, value, ir.Constant(line, [0.0] * LANES)))
    return lines


def _joined(
    b: Builder, element: ir.Type, rows: Value, feature: Value, scale: Value, shift: Value, valid: Value
) -> list[Value]:
    """The same as words of two bfloat16: multiplied, rounded and joined, then transposed."""
    line, words = ir.VectorType(ir.FloatType(), 16), ir.VectorType(I32, 16)
    factors, offsets = (b.load(b.bitcast(b.gep(array, [feature]), line.as_pointer())) for array in (scale, shift))
    factors.align = offsets.align = 4
    last = b.sub(valid, I64(1))

    def bits(lane: int) -> Value:
        there = b.icmp_signed("<", I64(lane), valid)
        value = _converted(b, _stored(b, element, rows, b.select(there, I64(lane), last), feature), element, line)
        found = rounded(b, b.fadd(b.fmul(value, factors), offsets), words)
        return b.select(there, found, ir.Constant(words, [0] * 16))

    joined = []
    for lane in range(LANES):
        low, high = b.lshr(bits(lane), ir.Constant(words, [16] * 16)), bits(lane + LANES)
        joined.append(b.or_(low, b.and_(high, ir.Constant(words, [0xFFFF0000] * 16))))
    return transposed(b, joined)


def _converted(b: Builder, value: Value, element: ir.Type, line: ir.Type) -> Value:
    if isinstance(element, ir.IntType):
        return b.uitofp(value, line)
    return value if element == line.element else b.fpext(value, line)


@intrinsic(prefer_literal=True)
def transpose_block(_, unpack, placed, rows, row_step, tile, lines, valid):  # type: ignore[no-untyped-def]
    """tile[j, i] = rows[i, j] for 16 features of up to 16 samples, `row_step` elements from one sample to the next.

    Line j is the j-th of the tile, or with `placed` 1 the one whose number is `lines[j]`. Packing (`unpack` 0) writes
    zeros into lanes from `valid` on and reads the last valid row there; unpacking goes the other way, and writes the
    first `valid` rows only. Rows of bfloat16 become words of two, of up to 32 samples, joined before they are
    transposed.
    """
    literal = literals(unpack, placed)
    if literal is None:
        return None
    unpacks, is_placed = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, _, rows, row_step, tile, lines, valid = args
        last = b.sub(valid, I64(1))

        def row(k: int) -> Value:
            which = b.select(b.icmp_signed("<", I64(k), valid), I64(k), last)
            return b.gep(rows, [b.mul(which, row_step)])

        def line(k: int) -> Value:
            number = b.sext(b.load(b.gep(lines, [I64(k)])), I64) if is_placed else I64(k)
            return b.gep(tile, [b.mul(number, I64(LANES))])

        if signature.args[4].dtype == types.uint32:
            (_split if unpacks else _join)(b, row, line, valid)
            return context.get_dummy_value()
        scalar = SCALAR[signature.args[2].dtype]
        vector = ir.VectorType(scalar, LANES)
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


_HALVES, _WORDS = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(I32, LANES)
_UP = ir.Constant(_WORDS, [16] * LANES)


def _join(b: Builder, row: Callable[[int], Value], line: Callable[[int], Value], valid: Value) -> None:
    """Pack 32 rows of bfloat16: rows k and k + 16 share words."""

    def bits(k: int) -> Value:
        value = b.load(b.bitcast(row(k), _HALVES.as_pointer()))
        value.align = 2
        there = b.icmp_signed("<", I64(k), valid)
        return b.select(there, b.zext(value, _WORDS), ir.Constant(_WORDS, [0] * LANES))

    for k, words in enumerate(transposed(b, [b.or_(bits(k), b.shl(bits(k + LANES), _UP)) for k in range(LANES)])):
        b.store(words, b.bitcast(line(k), _WORDS.as_pointer())).align = 4


def _split(b: Builder, row: Callable[[int], Value], line: Callable[[int], Value], valid: Value) -> None:
    """The other way; backwards, so that rows beyond the last valid one are overwritten by it."""
    loaded = []
    for k in range(LANES):
        words = b.load(b.bitcast(line(k), _WORDS.as_pointer()))
        words.align = 4
        loaded.append(words)
    columns = transposed(b, loaded)
    for k in reversed(range(2 * LANES)):
        words = columns[k % LANES]
        half = b.trunc(b.lshr(words, _UP) if k >= LANES else words, _HALVES)
        b.store(half, b.bitcast(row(k), _HALVES.as_pointer())).align = 2


def _first(b: Builder, valid: Value) -> Value:
    """The mask of the first `valid` lanes."""
    order = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
    return b.icmp_signed("<", order, broadcast(b, valid, ir.VectorType(I64, LANES)))
