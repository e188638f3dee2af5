"""The sample micro-kernel: a block of connections' sums stay in registers over all positions of a batch.

Sums of several connections are reduced together at the end, by a tree of shuffles. Everything here works on raw
pointers and element strides; shapes and loops live in `sddmm.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...layout import LANES
from ...tuning import SAMPLE_ACROSS_LINES, SAMPLE_BLOCK, few_registers, sample_block, sample_lines, sample_turn
from .pairs import lines_of
from .vector import I32, I64, Builder, Value, choose, count_loop, literals, opaque, opaque_number, switch


@intrinsic(prefer_literal=True)
def sample(  # type: ignore[no-untyped-def]
    _, widths, groups, group, dy, dy_row, dy_tile, dy_y, dy_line, x, x_tile, x_y, x_line, tiles, ys, lines, rows,
    offsets, count, indptr, grad, accumulate,
):  # fmt: skip
    """grad[row, p] = Σ_{tile, y, line} ⟨dy[row, tile, y, line], x[offsets[p], tile, y, line]⟩ for a group's rows.

    The rows of a group (1 to `groups`) share their `count` columns. Written at `grad[indptr[row]:]`, or with
    `accumulate` added to what is there. Sums stay in registers over all positions.
    """
    literal = literals(widths, groups)
    if literal is None:
        return None
    width, group_n = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        dy, dy_row, dy_tile, dy_y, dy_line, x, x_tile, x_y, x_line, tiles, *others = args[3:]
        v = lines_of(b, signature.args[3].dtype, width)
        call = _Sample(v, dy, dy_row, dy_y, dy_line, x, x_y, x_line, *others)
        together = partial(call.rows_together, tiles=tiles, dy_tile=dy_tile, x_tile=x_tile)
        switch(b, {n: partial(together, n) for n in range(group_n, 0, -1)}, args[2])
        return context.get_dummy_value()

    i = types.int64
    kinds = (i, dy, i, i, i, i, x, i, i, i, i, i, i, rows, offsets, i, indptr, grad, i)
    return types.void(widths, groups, *kinds), emit


@intrinsic(prefer_literal=True)
def sample_alone(  # type: ignore[no-untyped-def]
    _, widths, dy, dy_row, dy_y, dy_line, x, x_y, x_line, ys, lines, rows, offsets, count, indptr, grad, accumulate
):  # fmt: skip
    """`sample` for one row and one tile, whose sums are reduced after a few lines, which stay in registers."""
    literal = literals(widths)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _Sample(lines_of(b, signature.args[1].dtype, literal[0]), *args[1:]).one_row()
        return context.get_dummy_value()

    i = types.int64
    return types.void(widths, dy, i, i, i, x, i, i, i, i, rows, offsets, i, indptr, grad, i), emit


@intrinsic(prefer_literal=True)
def sample_across(  # type: ignore[no-untyped-def]
    _, widths, ahead, dy, dy_row, dy_y, dy_line, x, x_y, x_line, ys, lines, rows, offsets, count, grad, accumulate
):  # fmt: skip
    """grad[p] = Σ_{y, line} ⟨dy[rows[p], y, line], x[offsets[p], y, line]⟩ for `count` connections of any rows.

    With `ahead`, lines of x are fetched into the cache that many connections before they are needed.
    """
    literal = literals(widths, ahead)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        *others, grad, accumulate = args[2:]
        v = lines_of(b, signature.args[2].dtype, literal[0])
        _Sample(*[v, *others, None, grad, accumulate]).any_rows(literal[1])
        return context.get_dummy_value()

    i = types.int64
    return types.void(widths, ahead, dy, i, i, i, x, i, i, i, i, rows, offsets, i, grad, i), emit


class _Sample:
    """The arguments of one sample, and the three ways to compute it."""

    def __init__(self, v, dy, dy_row, dy_y, dy_line, x, x_y, x_line, ys, lines, rows, offsets, count, indptr, grad, accumulate):  # type: ignore[no-untyped-def] # noqa: E501
        self.v, self.dy, self.dy_row, self.dy_y, self.dy_line = v, dy, dy_row, dy_y, dy_line
        self.x, self.x_y, self.x_line, self.ys, self.lines, self.rows = x, x_y, x_line, ys, lines, rows
        self.offsets, self.count, self.indptr, self.grad, self.accumulate = offsets, count, indptr, grad, accumulate

    def one_row(self) -> None:
        """dy's lines stay in registers, a panel of them at a time; every connection reads x's lines once.

        Connections are taken SAMPLE_BLOCK at a time, so that their sums are reduced together. Where registers are few,
        and lines more than fit beside these sums, the row is a group of one.
        """
        v, b = self.v, self.v.b
        most = sample_lines(v.width * v.size, v.registers)

        def alone() -> None:
            number = b.sext(b.load(self.rows), I64)
            dy_row = b.gep(self.dy, [b.mul(number, self.dy_row)])
            target = b.gep(self.grad, [b.load(b.gep(self.indptr, [number]))])

            def panel(dy_at: Value, x_at: Value, lines: int, later: Value) -> None:
                self._panel(b.gep(dy_row, [dy_at]), b.gep(self.x, [x_at]), lines, target, later)

            self._panels(most, panel)

        if few_registers(v.width * v.size):
            fit = b.zext(b.icmp_signed("<=", self.lines, I64(most)), I64)
            switch(b, {1: alone, 0: lambda: self.rows_together(1, I64(1), I64(0), I64(0))}, fit)
        else:
            alone()

    def _panel(self, dy_base: Value, x_base: Value, lines: int, target: Value, later: Value) -> None:
        v, b = self.v, self.v.b
        dys, bases = [], []
        for k in range(lines):
            dys.append([v.load(b.gep(dy_base, [b.mul(self.dy_line, I64(k))]), r) for r in range(v.registers)])
            bases.append(opaque(b, b.gep(x_base, [b.mul(self.x_line, I64(k))])))

        def connections(p: Value, whole: bool) -> list[Value]:
            sums = [v.zero] * SAMPLE_BLOCK
            offsets = [self._offset(p, k, whole) for k in range(SAMPLE_BLOCK)]
            for dy, base in zip(dys, bases, strict=True):
                for r in range(v.registers):
                    sums = [v.fma(dy[r], v.load(b.gep(base, [o]), r), s) for o, s in zip(offsets, sums, strict=True)]
            self._store(v.sums(sums), b.gep(target, [p]), later, None if whole else b.sub(self.count, p))
            return []

        self._blocks(SAMPLE_BLOCK, connections)

    def any_rows(self, ahead: int) -> None:
        """Connections of different rows are taken SAMPLE_BLOCK at a time, so that no block ends with a row.

        Each connection reads a line of dy beside its line of x, a load that `one_row` spares long rows.
        """
        v, b = self.v, self.v.b

        def panel(dy_at: Value, x_at: Value, lines: int, later: Value) -> None:
            dys, xs = (
                [opaque(b, b.gep(base, [b.add(at, b.mul(step, I64(k)))])) for k in range(lines)]
                for base, at, step in ((self.dy, dy_at, self.dy_line), (self.x, x_at, self.x_line))
            )

            def connections(p: Value, whole: bool) -> list[Value]:
                sums = []
                for k in range(SAMPLE_BLOCK):
                    row, offset = b.mul(self._number(self.rows, p, k, whole), self.dy_row), self._offset(p, k, whole)
                    if ahead:
                        soon = self._offset(p, k + ahead, False)
                        for x in xs:
                            v.prefetch(b.gep(x, [soon]))
                    s = v.zero
                    for dy, x in zip(dys, xs, strict=True):
                        for r in range(v.registers):
                            s = v.fma(v.load(b.gep(dy, [row]), r), v.load(b.gep(x, [offset]), r), s)
                    sums.append(s)
                self._store(v.sums(sums), b.gep(self.grad, [p]), later, None if whole else b.sub(self.count, p))
                return []

            self._blocks(SAMPLE_BLOCK, connections)

        self._panels(SAMPLE_ACROSS_LINES, panel)

    def rows_together(self, group: int, tiles: Value, dy_tile: Value, x_tile: Value) -> None:
        """For a block of connections, the sums of all rows stay in registers over all positions."""
        v, b = self.v, self.v.b
        register_bytes, at_once = v.width * v.size, v.at_once  # registers of a line that are loaded together
        apart = few_registers(register_bytes) and len(at_once[0]) > 1
        if apart:  # loaded again for each: LLVM would load all words of a block first, and spill them
            at_once = [(r,) for r in range(v.registers)]
        most, turn = sample_block(group, register_bytes, len(at_once[0])), sample_turn(group, register_bytes)
        numbers = [b.sext(b.load(b.gep(self.rows, [I64(r)])), I64) for r in range(group)]
        dys = [b.gep(self.dy, [b.mul(number, self.dy_row)]) for number in numbers]
        targets = [b.gep(self.grad, [b.load(b.gep(self.indptr, [number]))]) for number in numbers]
        nothing: Value = ir.Constant(v.vector, ir.Undefined)

        def connections(p: Value, whole: bool, block: int) -> list[Value]:
            xs = [b.gep(self.x, [self._offset(p, k, whole)]) for k in range(block)]

            def position(dy_at: Value, x_at: Value, sums: list[Value]) -> list[Value]:
                sums = list(sums)
                for together in at_once:
                    if turn == 2 and (apart or together == at_once[0]):
                        dy_at, x_at = opaque_number(b, dy_at), opaque_number(b, x_at)
                    # Whichever are fewer are held, and the others taken one at a time: sums need the other registers.
                    bases = [(xs, x_at), (dys, dy_at)]
                    (held, here), (taken, there) = bases if block < group else bases[::-1]
                    inner = {r: [v.load(b.gep(base, [here]), r) for base in held] for r in together}
                    for outer, base in enumerate(taken):
                        at = b.gep(base, [there])
                        for r in together:
                            one = v.load(at, r)
                            for k, other in enumerate(inner[r]):
                                row, c = (outer, k) if block < group else (k, outer)
                                sums[row * block + c] = v.fma(other, one, sums[row * block + c])
                return sums

            # Tiles, image rows and lines, from the outermost loop to the innermost.
            loops = [(tiles, dy_tile, x_tile), (self.ys, self.dy_y, self.x_y), (self.lines, self.dy_line, self.x_line)]

            def walk(depth: int, dy_at: Value, x_at: Value, sums: list[Value]) -> list[Value]:
                count, dy_step, x_step = loops[depth]

                def each(k: Value, sums: list[Value]) -> list[Value]:
                    return walk(depth + 1, b.add(dy_at, b.mul(k, dy_step)), b.add(x_at, b.mul(k, x_step)), sums)

                def one(k: Value, sums: list[Value]) -> list[Value]:
                    return position(b.add(dy_at, b.mul(k, dy_step)), b.add(x_at, b.mul(k, x_step)), sums)

                if depth + 1 < len(loops):
                    return count_loop(b, I64(0), count, 1, sums, each)
                if turn == 1:
                    return count_loop(b, I64(0), count, 1, sums, one)
                even = b.and_(count, I64(-2))
                sums = count_loop(b, I64(0), even, 2, sums, lambda k, s: one(b.add(k, I64(1)), one(k, s)))
                return count_loop(b, even, count, 1, sums, one)

            sums = walk(0, I64(0), I64(0), [v.zero] * (group * block))
            # Of each row, a power of two is reduced: beside three sums one that nobody looks at.
            wide = 1 << (block - 1).bit_length()
            rows = [sums[k : k + block] + [nothing] * (wide - block) for k in range(0, group * block, block)]
            sums, first = [total for row in rows for total in row], 0
            for packed in v.sums(sums):
                count = packed.type.count
                for k in range(0, count, min(wide, count)):
                    row, column = divmod(first + k, wide)
                    piece = v.shuffle(packed, packed, list(range(k, k + min(block, count))))
                    first_of_piece = b.add(p, I64(column))
                    limit = None if whole else b.sub(self.count, first_of_piece)
                    self._store([piece], b.gep(targets[row], [first_of_piece]), self.accumulate, limit)
                first += count
            return []

        whole = _whole(b, self.count, most)
        count_loop(b, I64(0), whole, most, [], lambda p, _: connections(p, True, most))
        rest = whole
        if group == 1:  # half a block where what is left fits into it: rows of a convolution have few connections
            half = most // 2
            fits = b.icmp_signed("<=", b.sub(self.count, whole), I64(half))
            rest = b.select(fits, self.count, whole)
            count_loop(b, whole, rest, half, [], lambda p, _: connections(p, False, half))
        count_loop(b, rest, self.count, most, [], lambda p, _: connections(p, False, most))

    def _panels(self, most: int, panel: Callable[[Value, Value, int, Value], None]) -> None:
        """All positions, `most` lines of an image row at a time, then what is left: `panel(dy_at, x_at, lines,
        later)`."""
        b = self.v.b

        def image_row(y: Value, _: list[Value]) -> list[Value]:
            start, lines = I64(0), most
            while lines > 0:
                stop = b.and_(self.lines, I64(-lines))

                def some(line: Value, _: list[Value], lines: int = lines) -> list[Value]:
                    dy_at = b.add(b.mul(y, self.dy_y), b.mul(line, self.dy_line))
                    x_at = b.add(b.mul(y, self.x_y), b.mul(line, self.x_line))
                    panel(dy_at, x_at, lines, b.or_(self.accumulate, b.or_(y, line)))
                    return []

                count_loop(b, start, stop, lines, [], some)
                start, lines = stop, lines // 2
            return []

        count_loop(b, I64(0), self.ys, 1, [], image_row)

    def _blocks(self, block: int, connections: Callable[[Value, bool], list[Value]]) -> None:
        """Whole blocks of connections, then what is left."""
        b = self.v.b
        whole = b.and_(self.count, I64(-block))
        count_loop(b, I64(0), whole, block, [], lambda p, _: connections(p, True))
        count_loop(b, whole, self.count, block, [], lambda p, _: connections(p, False))

    def _offset(self, p: Value, k: int, whole: bool) -> Value:
        """Where connection p + k's lines of x begin. Past the last connection the last is read again; its sum is
        dropped."""
        return self.v.b.mul(self._number(self.offsets, p, k, whole), I64(LANES))

    def _number(self, numbers: Value, p: Value, k: int, whole: bool) -> Value:
        b = self.v.b
        at = b.add(p, I64(k))
        if not whole:
            at = b.select(b.icmp_signed("<", at, self.count), at, b.sub(self.count, I64(1)))
        return b.sext(b.load(b.gep(numbers, [at])), I64)

    def _store(self, packed: list[Value], target: Value, later: Value, limit: Value | None) -> None:
        """Write sums, or `later` add them to what is there; only the first `limit`, if there is one."""
        v, b = self.v, self.v.b
        for chunk, sums in enumerate(packed):
            count = sums.type.count
            keep: Value = ir.Constant(ir.VectorType(ir.IntType(1), count), [1] * count)
            if limit is not None:
                order = ir.Constant(ir.VectorType(I64, count), [chunk * count + k for k in range(count)])
                limits: Value = ir.Constant(ir.VectorType(I64, count), ir.Undefined)
                for k in range(count):
                    limits = b.insert_element(limits, limit, I32(k))
                keep = b.icmp_signed("<", order, limits)
            at = b.gep(target, [I64(chunk * count)])
            (old,) = choose(
                b, b.icmp_signed("!=", later, I64(0)),
                lambda: [v.load_some(at, keep, count)],  # noqa: B023 - emitted at once
                lambda: [ir.Constant(sums.type, [0.0] * count)],  # noqa: B023
            )  # fmt: skip
            v.store_some(b.fadd(old, sums), at, keep)


def _whole(b: Builder, count: Value, block: int) -> Value:
    """The connections of whole blocks."""
    return b.and_(count, I64(-block)) if block & (block - 1) == 0 else b.sub(count, b.srem(count, I64(block)))


@intrinsic(prefer_literal=True)
def total(_, widths, x, x_y, x_line, ys, lines):  # type: ignore[no-untyped-def]
    """Σ over `ys` · `lines` lines of x: a bias gradient is the sum of its row of dy."""
    literal = literals(widths)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, x, x_y, x_line, ys, lines = args
        v = lines_of(b, signature.args[1].dtype, literal[0])

        def image_row(y: Value, sums: list[Value]) -> list[Value]:
            first = b.mul(y, x_y)

            def position(k: Value, sums: list[Value]) -> list[Value]:
                base = b.gep(x, [b.add(first, b.mul(k, x_line))])
                return [b.fadd(s, v.load(base, r)) for r, s in enumerate(sums)]

            return count_loop(b, I64(0), lines, 1, sums, position)

        sums = count_loop(b, I64(0), ys, 1, [v.zero] * v.registers, image_row)
        while len(sums) > 1:
            sums = [b.fadd(sums[k], sums[k + 1]) for k in range(0, len(sums), 2)]
        return b.extract_element(v.sums(sums)[0], I32(0))

    result = types.float32 if x.dtype == types.uint32 else x.dtype
    return result(widths, x, *[types.int64] * 4), emit
