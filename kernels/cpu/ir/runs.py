"""The gather micro-kernel for COO: one loop over connections, that closes a row where the row number changes.

Rows of one or two connections are too short for a loop of their own: what it costs to enter and leave one is more than
their arithmetic.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import types
from numba.extending import intrinsic

from ...layout import LANES
from .gather import biases, finish, line_counts
from .pairs import lines_of, parts_of
from .vector import I64, Builder, Value, choose, count_loop, literals, switch


@intrinsic(prefer_literal=True)
def gather_runs(  # type: ignore[no-untyped-def]
    _, widths, most_lines, ahead, lines, data, rows, offsets, first, last, limit, x, x_line,
    bias, relu, mask, out, out_row, out_line,
):  # fmt: skip
    """out[row, line] = bias[row] + Σ_p data[p] · x[offsets[p], line] over a row's connections p, then ReLU or a mask.

    For the connections `first` to `last` − 1, of which there is one at least; `rows` never decreases. All else is as
    for `gather`. With `ahead`, lines of x are fetched into the cache that many connections before they are needed; the
    first `limit` offsets may be read for that.
    """
    literal = literals(widths, most_lines, ahead)
    if literal is None:
        return None
    width, lines_n, ahead_n = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        kind, out_kind = signature.args[10].dtype, signature.args[15].dtype
        call = _Runs(lines_of(b, kind, width), parts_of(b, kind, out_kind, width), ahead_n, *args[4:])
        switch(b, {n: partial(call.emit, n) for n in line_counts(lines_n)}, args[3])
        return context.get_dummy_value()

    i = types.int64
    kinds = (i, data, rows, offsets, i, i, i, x, i, bias, i, mask, out, i, i)
    return types.void(widths, most_lines, ahead, *kinds), emit


class _Runs:
    """The arguments of one call; `emit` writes the loop for a number of lines."""

    def __init__(self, v, written, ahead, data, rows, offsets, first, last, limit, x, x_line, bias, relu, mask, out, out_row, out_line):  # type: ignore[no-untyped-def] # noqa: E501
        self.v, self.written, self.ahead, self.data, self.rows, self.offsets = v, written, ahead, data, rows, offsets
        self.first, self.last, self.limit, self.x, self.x_line, self.bias = first, last, limit, x, x_line, bias
        self.relu, self.mask, self.out, self.out_row, self.out_line = relu, mask, out, out_row, out_line

    def emit(self, lines: int) -> None:
        v, b = self.v, self.v.b
        x_bases = [b.gep(self.x, [b.mul(self.x_line, I64(k))]) for k in range(lines)]

        def line_of(p: Value) -> Value:
            return b.mul(b.sext(b.load(b.gep(self.offsets, [p])), I64), I64(LANES))

        def begin(row: Value) -> list[Value]:
            return biases(v, self.bias, [row], lines)

        def end(row: Value, sums: list[Value]) -> None:
            targets = [b.add(b.mul(row, self.out_row), b.mul(self.out_line, I64(k))) for k in range(lines)]
            self.written.store_all(finish(v, sums, self.relu, self.mask, targets), self.out, targets)

        def connection(p: Value, carried: list[Value]) -> list[Value]:
            row, *sums = carried
            new = b.sext(b.load(b.gep(self.rows, [p])), I64)

            def close() -> list[Value]:
                end(row, sums)
                return begin(new)

            sums = choose(b, b.icmp_signed("!=", new, row), close, lambda: sums)
            if self.ahead:
                later = b.add(p, I64(self.ahead))
                soon = line_of(b.select(b.icmp_signed("<", later, self.limit), later, p))
                for base in x_bases:
                    v.prefetch(b.gep(base, [soon]))
            line = line_of(p)
            xs = [v.load(b.gep(base, [line]), r) for base in x_bases for r in range(v.registers)]
            weight = v.broadcast(b.load(b.gep(self.data, [p])))
            return [new, *(v.fma(weight, x, s) for x, s in zip(xs, sums, strict=True))]

        row = b.sext(b.load(b.gep(self.rows, [self.first])), I64)
        row, *sums = count_loop(b, self.first, self.last, 1, [row, *begin(row)], connection)
        end(row, sums)


@intrinsic(prefer_literal=True)
def settle(  # type: ignore[no-untyped-def]
    _, widths, most_lines, lines, row, bias, begun, carries, count, relu, mask, out, out_row, out_line
):  # fmt: skip
    """Finish a row that `gather_runs` could not: its bias if `count` is 0, else what lies at `begun` plus `count`
    carries.

    Then ReLU or a mask. Carries lie one after another, a line each, or two where x has two numbers to a word, and are
    added in order; with carries `lines` is 1.
    """
    literal = literals(widths, most_lines)
    if literal is None:
        return None
    width, lines_n = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        *_, lines, row, bias, begun, carries, count, relu, mask, out, out_row, out_line = args
        kind = signature.args[10].dtype
        v, parts = lines_of(b, kind, width), parts_of(b, kind, signature.args[6].dtype, width)
        apart = I64(v.registers * width)

        def write(n: int) -> None:
            targets = [b.add(b.mul(row, out_row), b.mul(out_line, I64(k))) for k in range(n)]

            def carry(k: Value, sums: list[Value]) -> list[Value]:
                carried = parts.load_all(carries, [b.mul(k, apart)] * n)
                return [b.fadd(s, more) for s, more in zip(sums, carried, strict=True)]

            sums = choose(
                b, b.icmp_signed("!=", count, I64(0)),
                lambda: parts.load_all(begun, [I64(0)] * n),
                lambda: biases(v, bias, [row], n),
            )  # fmt: skip
            sums = count_loop(b, I64(0), count, 1, sums, carry)
            v.store_all(finish(v, sums, relu, mask, targets), out, targets)

        switch(b, {n: partial(write, n) for n in line_counts(lines_n)}, lines)
        return context.get_dummy_value()

    i = types.int64
    return types.void(widths, most_lines, i, i, bias, begun, carries, i, i, mask, out, i, i), emit
