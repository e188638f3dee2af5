"""Softmax of one tile of logits, lanes side by side: the largest logit, exp of the rest, and their sum."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...layout import LANES
from .vector import I32, I64, SCALAR, Builder, Lines, Value, count_loop, literals


@intrinsic(prefer_literal=True)
def softmax_tile(_, widths, z, classes, out, peak, total):  # type: ignore[no-untyped-def]
    """peak = max_c z[c]; out[c] = exp(z[c] − peak); total = Σ_c out[c], for the `classes` lines of one tile.

    The log-sum-exp of a sample is then peak + log(total), and no exponential can overflow. NaN stays NaN.
    """
    literal = literals(widths)
    if literal is None:
        return None

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        _, z, classes, out, peak, total = args
        v = Lines(b, SCALAR[signature.args[1].dtype], literal[0])
        registers = range(v.registers)

        def larger(c: Value, best: list[Value]) -> list[Value]:
            base = b.gep(z, [b.mul(c, I64(LANES))])
            logits = [v.load(base, r) for r in registers]
            # A NaN may or may not win; its own power makes the sum NaN either way.
            return [b.select(b.fcmp_ordered(">", x, y), x, y) for x, y in zip(logits, best, strict=True)]

        peaks = count_loop(b, I64(1), classes, 1, [v.load(z, r) for r in registers], larger)

        def raised(c: Value, sums: list[Value]) -> list[Value]:
            at = b.mul(c, I64(LANES))
            base, target = b.gep(z, [at]), b.gep(out, [at])
            powers = [_exp(v, b.fsub(v.load(base, r), peaks[r])) for r in registers]
            for r in registers:
                v.store(powers[r], target, r)
            return [b.fadd(s, p) for s, p in zip(sums, powers, strict=True)]

        sums = count_loop(b, I64(0), classes, 1, [v.zero for _ in registers], raised)
        for r in registers:
            v.store(peaks[r], peak, r)
            v.store(sums[r], total, r)
        return context.get_dummy_value()

    return types.void(widths, z, types.int64, out, peak, total), emit


def _exp(v: Lines, x: Value) -> Value:
    """exp of a register of numbers up to 0. float64 takes the C library's; float32 is ours.

    From −87 to 0 it is within 1 unit in the last place; below, it stays exp(−87) = 1.6e-38.

    Cody and Waite's reduction: x = n·log 2 + r with |r| ≤ ½ log 2, exp(x) = 2ⁿ·exp(r), and exp(r) by its Taylor
    polynomial of degree 7, whose remainder is below 1e-8.
    """
    b = v.b
    if v.size == 8:
        kind = ir.FunctionType(v.vector, [v.vector])
        return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.exp.v{v.width}f64"), [x])

    def constant(value: float) -> Value:
        return ir.Constant(v.vector, [value] * v.width)

    x = b.select(b.fcmp_ordered("<", x, constant(-87.0)), constant(-87.0), x)
    # A number this large has no fraction bits: adding it rounds, and leaves the integer in the lowest bits. Unlike a
    # conversion to integer, that is defined for NaN too.
    large = constant(1.5 * 2**23)
    shifted = v.fma(x, constant(1 / math.log(2)), large)
    n = b.fsub(shifted, large)
    high = 0.693359375  # log 2 in 10 bits, so that n · high is exact
    r = v.fma(n, constant(high - math.log(2)), v.fma(n, constant(-high), x))
    power = constant(1 / math.factorial(7))
    for k in range(6, -1, -1):
        power = v.fma(power, r, constant(1 / math.factorial(k)))
    whole = ir.VectorType(I32, v.width)
    exponent = b.shl(b.bitcast(shifted, whole), ir.Constant(whole, [23] * v.width))
    return b.fmul(power, b.bitcast(b.add(exponent, ir.Constant(whole, [127 << 23] * v.width)), v.vector))
