"""Parts of lines: the first `count` lanes of one, moved to where they lie among the lanes of another, and back."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...layout import LANES
from .vector import I32, I64, SCALAR, Builder, Value, choose, count_loop, literals, not_null, size_of


@intrinsic(prefer_literal=True)
def copy_lanes(_, lanes, x, mask, out):  # type: ignore[no-untyped-def]
    """out[:lanes] = x[:lanes], or zero where `mask` is not positive. Null `mask` means none."""
    literal = literals(lanes)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, x, mask, out = args
        some = _Lanes(b, SCALAR[signature.args[1].dtype], literal[0])
        some.store(some.masked(some.load(x), mask), out)
        return context.get_dummy_value()

    return types.void(lanes, x, mask, out), emit


@intrinsic(prefer_literal=True)
def clear_lanes(_, lanes, out):  # type: ignore[no-untyped-def]
    """out[:lanes] = 0."""
    literal = literals(lanes)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        some = _Lanes(b, SCALAR[signature.args[1].dtype], literal[0])
        some.store(some.zero, args[1])
        return context.get_dummy_value()

    return types.void(lanes, out), emit


@intrinsic(prefer_literal=True)
def join_lanes(_, lanes, x, step, count, mask, out):  # type: ignore[no-untyped-def]
    """out[:lanes] = Σ_k x[k · step : k · step + lanes] over k < count, or zero where `mask` is not positive.

    The rest of the line at `out` becomes zero. Null `mask` means none.
    """
    literal = literals(lanes)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, x, step, count, mask, out = args
        some = _Lanes(b, SCALAR[signature.args[1].dtype], literal[0])

        def add(k: Value, sums: list[Value]) -> list[Value]:
            return [b.fadd(sums[0], some.load(b.gep(x, [b.mul(k, step)])))]

        (total,) = count_loop(b, I64(0), count, 1, [some.zero], add)
        some.store(some.widened(some.masked(total, mask)), out)
        return context.get_dummy_value()

    return types.void(lanes, x, types.int64, types.int64, mask, out), emit


class _Lanes:
    """Emits loads, stores and masks of vectors of `count` elements, of any alignment."""

    def __init__(self, b: Builder, scalar: ir.Type, count: int) -> None:
        self.b, self.count, self.size = b, count, size_of(scalar)
        self.kind = ir.VectorType(scalar, count)
        self.zero = ir.Constant(self.kind, [0.0] * count)

    def load(self, base: Value) -> Value:
        value = self.b.load(self.b.bitcast(base, self.kind.as_pointer()))
        value.align = self.size
        return value

    def store(self, value: Value, base: Value) -> None:
        self.b.store(value, self.b.bitcast(base, value.type.as_pointer())).align = self.size

    def masked(self, value: Value, mask: Value) -> Value:
        b = self.b

        def kept() -> list[Value]:
            return [b.select(b.fcmp_ordered(">", self.load(mask), self.zero), value, self.zero)]

        (found,) = choose(b, not_null(b, mask), kept, lambda: [value])
        return found

    def widened(self, value: Value) -> Value:
        """A whole line, zero beyond these lanes."""
        order = [*range(self.count), *[self.count] * (LANES - self.count)]
        return self.b.shuffle_vector(value, self.zero, ir.Constant(ir.VectorType(I32, LANES), order))
