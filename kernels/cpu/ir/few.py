"""The micro-kernel for few samples: as many lanes as there are samples, not sixteen of which most would be empty.

A connection is then some loads for one multiply-add, and processors load two or three numbers a cycle. So what counts
is how few instructions a connection takes, and how many sums are under way at once: with one sample, eight connections
make a vector; with 2, 4 or 8, neighbouring connections add to sums of their own, which are joined at the row's end.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vector import I32, I64, SCALAR, Builder, Value, broadcast, choose, count_loop, literals, not_null, size_of, switch

TOGETHER = 8
"""Connections of one sample that make a vector. Their numbers are loaded one by one: the processor's own gather
instruction takes half as long again on Zen 4."""

SUMS = 4
"""Sums that are under way at once, of one row or of a group's: a multiply-add takes four cycles, and a connection's
loads one."""


@intrinsic(prefer_literal=True)
def gather_few(  # type: ignore[no-untyped-def]
    _, samples, groups, group, data, indptr, rows, row, offsets, count, left, x, bias, relu, out
):
    """out[row] = bias[row] + Σ_p data[row, p] · x[offsets[p]], then ReLU, where x[k] and out[k] are `samples` numbers
    side by side: 1, 2, 4 or 8.

    With `groups` 1, it is one row's, whose values are at `data`. Otherwise it is that of `group` rows that share their
    columns (1 to `groups`): `rows` points at their numbers, and `indptr[row]` is where a row's values start in `data`.
    A row has `count` connections, and `left` offsets can be read. Null `bias` means none. ReLU lets NaN through.
    """
    literal = literals(samples, groups)
    if literal is None:
        return None
    samples_n, groups_n = literal

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        data, indptr, rows, row, *others = args[3:]
        call = _Few(b, SCALAR[signature.args[3].dtype], samples_n, *others)

        def rows_of_group(count: int) -> None:
            numbers = [b.sext(b.load(b.gep(rows, [I64(r)])), I64) for r in range(count)]
            call.emit(numbers, [b.gep(data, [b.load(b.gep(indptr, [number]))]) for number in numbers])

        if groups_n == 1:
            call.emit([row], [data])
        else:
            switch(b, {n: partial(rows_of_group, n) for n in range(groups_n, 0, -1)}, args[2])
        return context.get_dummy_value()

    i = types.int64
    return types.void(samples, groups, i, data, indptr, rows, i, offsets, i, i, x, bias, i, out), emit


class _Few:
    """The arguments of one call; `emit` writes the loops for some rows."""

    def __init__(self, b, scalar, samples, offsets, count, left, x, bias, relu, out):  # type: ignore[no-untyped-def]
        self.b, self.scalar, self.samples, self.size = b, scalar, samples, size_of(scalar)
        self.offsets, self.count, self.left, self.x = offsets, count, left, x
        self.bias, self.relu, self.out = bias, relu, out

    def emit(self, numbers: list[Value], values: list[Value]) -> None:
        """Rows of these numbers, whose values begin at these addresses."""
        b = self.b
        totals = self._of_one(values) if self.samples == 1 else self._of_several(values)
        kind = totals[0].type
        zero = ir.Constant(kind, 0.0 if self.samples == 1 else [0.0] * self.samples)
        nothing = cgutils.alloca_once_value(b, ir.Constant(self.scalar, 0.0))
        present = not_null(b, self.bias)
        for number, total in zip(numbers, totals, strict=True):
            bias = b.load(b.select(present, b.gep(self.bias, [number]), nothing))
            total = b.fadd(total, bias if self.samples == 1 else broadcast(b, bias, kind))
            negative = b.fcmp_ordered("<", total, zero)
            (total,) = choose(
                b, b.icmp_signed("!=", self.relu, I64(0)),
                lambda total=total, negative=negative: [b.select(negative, zero, total)],  # type: ignore[misc]
                lambda total=total: [total],  # type: ignore[misc]
            )  # fmt: skip
            self._store(total, b.gep(self.out, [b.mul(number, I64(self.samples))]))

    def _of_one(self, values: list[Value]) -> list[Value]:
        """Each row's sum for one sample.

        Rows differ in length, and a processor that guesses wrong where one ends loses what ten connections take. So
        what is left of a row at its end, 1 to 8 connections, is a vector like the others.
        """
        b, kind = self.b, ir.VectorType(self.scalar, TOGETHER)
        zeros = ir.Constant(kind, [0.0] * TOGETHER)
        whole = b.and_(b.sub(self.count, I64(1)), I64(-TOGETHER))  # −8 in an empty row

        def chunk(p: Value, sums: list[Value]) -> list[Value]:
            xs = self._collected(self._columns(p))
            weights = [self._load(b.gep(value, [p]), kind) for value in values]
            return self._added(weights, xs, sums)

        def rest(sums: list[Value]) -> list[Value]:
            numbers = ir.Constant(ir.VectorType(I32, TOGETHER), list(range(TOGETHER)))
            there = b.icmp_signed("<", numbers, broadcast(b, b.trunc(b.sub(self.count, whole), I32), numbers.type))
            columns = choose(
                b, b.icmp_signed("<=", b.add(whole, I64(TOGETHER)), self.left),
                lambda: self._columns(whole),  # beyond the row are other rows' columns
                lambda: self._last_columns(whole, there),
            )  # fmt: skip
            xs = b.select(there, self._collected(columns), zeros)  # where x may be Inf, which is no zero times zero
            weights = [self._load_some(b.gep(value, [whole]), there, kind) for value in values]
            return self._added(weights, xs, sums)

        sums = count_loop(b, I64(0), whole, TOGETHER, [zeros] * len(values), chunk)
        sums = choose(b, b.icmp_signed(">", self.count, I64(0)), lambda: rest(sums), lambda: sums)
        return [self._total(each) for each in sums]

    def _of_several(self, values: list[Value]) -> list[Value]:
        """Each row's sums, one for each sample."""
        b, kind = self.b, ir.VectorType(self.scalar, self.samples)
        apart = max(1, SUMS // len(values))  # connections that add to sums of their own
        zeros = [ir.Constant(kind, [0.0] * self.samples)] * (apart * len(values))

        def some(p: Value, sums: list[Value], count: int) -> list[Value]:
            new = list(sums)
            for k in range(count):
                at = b.add(p, I64(k))
                column = b.sext(b.load(b.gep(self.offsets, [at])), I64)
                xs = self._load(b.gep(self.x, [b.mul(column, I64(self.samples))]), kind)
                weights = [broadcast(b, b.load(b.gep(value, [at])), kind) for value in values]
                new[k::apart] = self._added(weights, xs, sums[k::apart])
            return new

        stop = b.and_(self.count, I64(-apart))
        sums = count_loop(b, I64(0), stop, apart, zeros, partial(some, count=apart))
        sums = count_loop(b, stop, self.count, 1, sums, partial(some, count=1))
        while apart > 1:
            sums, apart = [b.fadd(one, other) for one, other in zip(sums[::2], sums[1::2], strict=True)], apart // 2
        return sums

    def _columns(self, p: Value) -> list[Value]:
        """The columns of TOGETHER connections from p on, two in a load: loads are what there are most of."""
        b = self.b
        columns = []
        for k in range(0, TOGETHER, 2):
            both = b.load(b.bitcast(b.gep(self.offsets, [b.add(p, I64(k))]), I64.as_pointer()))
            both.align = 4
            halves = [b.trunc(both, I32), b.trunc(b.lshr(both, I64(32)), I32)]
            columns += halves if sys.byteorder == "little" else halves[::-1]
        return columns

    def _last_columns(self, p: Value, there: Value) -> list[Value]:
        """The same where offsets end; 0 for connections that are not there."""
        found = self._load_some(self.b.gep(self.offsets, [p]), there, ir.VectorType(I32, TOGETHER))
        return [self.b.extract_element(found, I32(k)) for k in range(TOGETHER)]

    def _collected(self, columns: list[Value]) -> Value:
        """The numbers of one sample in these columns, as a vector."""
        b = self.b
        xs = ir.Constant(ir.VectorType(self.scalar, len(columns)), ir.Undefined)
        for k, column in enumerate(columns):
            xs = b.insert_element(xs, b.load(b.gep(self.x, [b.sext(column, I64)])), I32(k))
        return xs

    def _added(self, weights: list[Value], xs: Value, sums: list[Value]) -> list[Value]:
        kind = xs.type
        name = f"llvm.fma.v{kind.count}f{8 * self.size}"
        fma = cgutils.get_or_insert_function(self.b.module, ir.FunctionType(kind, [kind] * 3), name)
        return [self.b.call(fma, [w, xs, total]) for w, total in zip(weights, sums, strict=True)]

    def _total(self, vector: Value) -> Value:
        """The sum of a vector's elements, half by half."""
        b, half = self.b, vector.type.count // 2
        while half:
            orders = (ir.Constant(ir.VectorType(I32, half), list(range(k, k + half))) for k in (0, half))
            vector, half = b.fadd(*(b.shuffle_vector(vector, vector, order) for order in orders)), half // 2
        return b.extract_element(vector, I32(0))

    def _load(self, base: Value, kind: ir.VectorType) -> Value:
        value = self.b.load(self.b.bitcast(base, kind.as_pointer()))
        value.align = self.size
        return value

    def _store(self, value: Value, base: Value) -> None:
        self.b.store(value, self.b.bitcast(base, value.type.as_pointer())).align = self.size

    def _load_some(self, base: Value, keep: Value, kind: ir.VectorType) -> Value:
        """A vector of which only some elements are there; zeros for the others."""
        element, count = kind.element, kind.count
        name, size, zero = ("i32", 4, 0) if element == I32 else (f"f{8 * self.size}", self.size, 0.0)
        f = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(kind, [kind.as_pointer(), I32, keep.type, kind]),
            f"llvm.masked.load.v{count}{name}.p0",
        )  # fmt: skip
        others = ir.Constant(kind, [zero] * count)
        return self.b.call(f, [self.b.bitcast(base, kind.as_pointer()), I32(size), keep, others])
