"""Transposing blocks of 16 × 16 numbers: samples by features to features by samples, and back.

A block is cut into squares as wide as a register, which are transposed one after another: of more, registers could not
hold the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...layout import LANES
from .pairs import rounded
from .vector import I32, I64, SCALAR, Builder, Value, broadcast, literals, size_of

_STORED = {1: ir.IntType(8), 4: ir.FloatType()}


def transposed(b: Builder, rows: list[Value]) -> list[Value]:
    """The columns of so many vectors of as many numbers.

    Every round joins vectors two by two, pieces of the one beside pieces of the other, which are twice as long as those
    of the round before. Pieces come from the same 16 bytes as long as they are shorter: that is an instruction each,
    where x86 needs two to bring them from further.
    """
    count = len(rows)
    near = min(count, 16 // _bytes(rows[0].type.element))
    held = [[(row, column) for column in range(count)] for row in range(count)]
    rows, piece = list(rows), 1
    while piece < count:
        orders = _joined_pieces(count, piece, near if piece < near else count)
        for k in range(count):
            if k & piece:
                continue
            two, of_two = (rows[k], rows[k | piece]), held[k] + held[k | piece]
            for at, order in zip((k, k | piece), orders, strict=True):
                rows[at] = b.shuffle_vector(*two, ir.Constant(ir.VectorType(I32, count), order))
                held[at] = [of_two[index] for index in order]
        piece *= 2
    columns = {numbers[0][1]: row for row, numbers in zip(rows, held, strict=True)}
    return [columns[column] for column in range(count)]


def _joined_pieces(count: int, piece: int, span: int) -> tuple[list[int], list[int]]:
    """Which numbers of two vectors of `count` make up two others: of each `span` the first half, and the second."""
    low, high = (
        [
            of + k
            for first in range(half * span // 2, count, span)
            for start in range(first, first + span // 2, piece)
            for of in (0, count)
            for k in range(start, start + piece)
        ]
        for half in (0, 1)
    )
    return low, high


def _squares(width: int) -> Iterator[tuple[int, int]]:
    """First feature and first lane of each square of a block, the last lanes first."""
    for lane in reversed(range(0, LANES, width)):
        for feature in range(0, LANES, width):
            yield feature, lane


@intrinsic(prefer_literal=True)
def gather_block(_, width, store_size, rows, feature, scale, shift, valid, out):  # type: ignore[no-untyped-def]
    """out[f, lane] = rows[lane][feature + f] · scale[feature + f] + shift[feature + f], for 16 features of one tile.

    `rows` points at the addresses of the tile's samples, of uint8 (`store_size` 1) or float32 (4). Lanes from `valid`
    on become zero. Where words of `out` hold two bfloat16, samples lie 16 apart in a word: those are rounded and joined
    before they are transposed, so that half as many are. A register holds `width` elements.
    """
    literal = literals(width, store_size)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, _, rows, feature, scale, shift, valid, out = args
        element, across = _STORED[literal[1]], literal[0]
        joined = signature.args[7].dtype == types.uint32
        if not joined and literal[1] == 1:
            across = LANES  # of bytes a register holds more
        make = _joined if joined else _normalised
        kind = ir.FloatType() if joined else SCALAR[signature.args[4].dtype]
        for first, lane in _squares(across):
            at = b.add(feature, I64(first))
            for f, line in enumerate(make(b, element, kind, across, rows, lane, at, scale, shift, valid)):
                place = b.gep(out, [I64((first + f) * LANES + lane)])
                b.store(line, b.bitcast(place, line.type.as_pointer())).align = 4
        return context.get_dummy_value()

    i = types.int64
    return types.void(width, store_size, rows, i, scale, shift, i, out), emit


def _stored(b: Builder, element: ir.Type, width: int, rows: Value, lane: Value, feature: Value) -> Value:
    """Some features of a sample, as they are stored."""
    size = 1 if isinstance(element, ir.IntType) else 4
    base = b.add(b.load(b.gep(rows, [lane])), b.mul(feature, I64(size)))
    value = b.load(b.inttoptr(base, ir.VectorType(element, width).as_pointer()))
    value.align = size
    return value


def _normalised(
    b: Builder, element: ir.Type, kind: ir.Type, width: int, rows: Value, lane: int, feature: Value, scale: Value,
    shift: Value, valid: Value,
) -> list[Value]:  # fmt: skip
    """Parts of lines of some features: transposed as they are stored, then multiplied."""
    vector = ir.VectorType(kind, width)
    keep, lines = _first(b, valid, lane, width), []
    loaded = [_stored(b, element, width, rows, I64(lane + k), feature) for k in range(width)]
    for f, column in enumerate(transposed(b, loaded)):
        at = b.add(feature, I64(f))
        factor, offset = (broadcast(b, b.load(b.gep(array, [at])), vector) for array in (scale, shift))
        value = b.fadd(b.fmul(_converted(b, column, element, vector), factor), offset)
        lines.append(b.select(keep, value, ir.Constant(vector, [0.0] * width)))
    return lines


def _joined(
    b: Builder, element: ir.Type, kind: ir.Type, width: int, rows: Value, lane: int, feature: Value, scale: Value,
    shift: Value, valid: Value,
) -> list[Value]:  # fmt: skip
    """The same as words of two bfloat16: multiplied, rounded and joined, then transposed."""
    vector, words = ir.VectorType(kind, width), ir.VectorType(I32, width)
    factors, offsets = (b.load(b.bitcast(b.gep(array, [feature]), vector.as_pointer())) for array in (scale, shift))
    factors.align = offsets.align = 4
    last = b.sub(valid, I64(1))

    def bits(lane: int) -> Value:
        there = b.icmp_signed("<", I64(lane), valid)
        value = _stored(b, element, width, rows, b.select(there, I64(lane), last), feature)
        found = rounded(b, b.fadd(b.fmul(_converted(b, value, element, vector), factors), offsets), words)
        return b.select(there, found, ir.Constant(words, [0] * width))

    joined = []
    for k in range(lane, lane + width):
        low, high = b.lshr(bits(k), ir.Constant(words, [16] * width)), bits(k + LANES)
        joined.append(b.or_(low, b.and_(high, ir.Constant(words, [0xFFFF0000] * width))))
    return transposed(b, joined)


def _converted(b: Builder, value: Value, element: ir.Type, line: ir.Type) -> Value:
    if isinstance(element, ir.IntType):
        return b.uitofp(value, line)
    return value if element == line.element else b.fpext(value, line)


@intrinsic(prefer_literal=True)
def transpose_block(_, width, unpack, placed, rows, row_step, tile, lines, valid):  # type: ignore[no-untyped-def]
    """tile[j, i] = rows[i, j] for 16 features of up to 16 samples, `row_step` elements from one sample to the next.

    Line j is the j-th of the tile, or with `placed` 1 the one whose number is `lines[j]`. Packing (`unpack` 0) writes
    zeros into lanes from `valid` on and reads the last valid row there; unpacking goes the other way, and writes the
    first `valid` rows only. Rows of bfloat16 become words of two, of up to 32 samples, joined before they are
    transposed. A register holds `width` elements of a line.
    """
    literal = literals(width, unpack, placed)
    if literal is None:
        return None
    across, unpacks, is_placed = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, _, _, rows, row_step, tile, lines, valid = args
        paired = signature.args[5].dtype == types.uint32
        samples: Places = []
        for k in range(2 * LANES if paired else LANES):
            there = b.icmp_signed("<", I64(k), valid)
            # Where there is none, one whose own numbers are written later.
            other = samples[k - LANES] if k >= LANES else b.gep(rows, [b.mul(b.sub(valid, I64(1)), row_step)])
            samples.append(b.select(there, b.gep(rows, [b.mul(I64(k), row_step)]), other))
        numbers = [b.sext(b.load(b.gep(lines, [I64(k)])), I64) if is_placed else I64(k) for k in range(LANES)]
        places = [b.gep(tile, [b.mul(number, I64(LANES))]) for number in numbers]
        if paired:
            square: Any = _split if unpacks else _join
        else:
            square = _lines_to_rows if unpacks else _rows_to_lines
        for feature, lane in _squares(across):
            square(b, across, samples, places, feature, lane, valid)
        return context.get_dummy_value()

    i = types.int64
    return types.void(width, unpack, placed, rows, i, tile, lines, i), emit


def _read(b: Builder, base: Value, start: int, width: int) -> Value:
    """Some numbers, from the `start`-th on."""
    kind = base.type.pointee
    value = b.load(b.bitcast(b.gep(base, [I64(start)]), ir.VectorType(kind, width).as_pointer()))
    value.align = _bytes(kind)
    return value


def _write(b: Builder, value: Value, base: Value, start: int) -> None:
    at = b.bitcast(b.gep(base, [I64(start)]), value.type.as_pointer())
    b.store(value, at).align = _bytes(base.type.pointee)


def _bytes(kind: ir.Type) -> int:
    return kind.width // 8 if isinstance(kind, ir.IntType) else size_of(kind)


Places = list[Any]


def _rows_to_lines(
    b: Builder, width: int, samples: Places, places: Places, feature: int, lane: int, valid: Value
) -> None:
    keep = _first(b, valid, lane, width)
    for f, line in enumerate(transposed(b, [_read(b, samples[lane + k], feature, width) for k in range(width)])):
        _write(b, b.select(keep, line, ir.Constant(line.type, [0.0] * width)), places[feature + f], lane)


def _lines_to_rows(
    b: Builder, width: int, samples: Places, places: Places, feature: int, lane: int, valid: Value
) -> None:
    """Backwards, as squares are, so that what has no row of its own is overwritten."""
    rows = transposed(b, [_read(b, places[feature + f], lane, width) for f in range(width)])
    for k in reversed(range(width)):
        _write(b, rows[k], samples[lane + k], feature)


def _join(b: Builder, width: int, samples: Places, places: Places, feature: int, lane: int, valid: Value) -> None:
    """Pack rows of bfloat16: rows k and k + 16 share words."""
    words = ir.VectorType(I32, width)

    def bits(k: int) -> Value:
        there = b.icmp_signed("<", I64(k), valid)
        found = b.zext(_read(b, samples[k], feature, width), words)
        return b.select(there, found, ir.Constant(words, [0] * width))

    up = ir.Constant(words, [16] * width)
    joined = [b.or_(bits(k), b.shl(bits(k + LANES), up)) for k in range(lane, lane + width)]
    for f, line in enumerate(transposed(b, joined)):
        _write(b, line, places[feature + f], lane)


def _split(b: Builder, width: int, samples: Places, places: Places, feature: int, lane: int, valid: Value) -> None:
    """The other way; backwards, rows k + 16 before rows k."""
    rows = transposed(b, [_read(b, places[feature + f], lane, width) for f in range(width)])
    halves, up = ir.VectorType(ir.IntType(16), width), ir.Constant(rows[0].type, [16] * width)
    for first, words in ((LANES, [b.lshr(row, up) for row in rows]), (0, rows)):
        for k in reversed(range(width)):
            _write(b, b.trunc(words[k], halves), samples[first + lane + k], feature)


def _first(b: Builder, valid: Value, lane: int, width: int) -> Value:
    """The mask of those lanes from `lane` on that come before `valid`."""
    order = ir.Constant(ir.VectorType(I64, width), list(range(lane, lane + width)))
    return b.icmp_signed("<", order, broadcast(b, valid, ir.VectorType(I64, width)))
