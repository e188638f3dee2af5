"""What one core can do at best: multiply-adds from registers, and reads from each level of its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from sparsecore.kernels.compile import njit, register_bytes
from sparsecore.kernels.cpu.ir.vector import I64, Lines, Value, count_loop, literals, pointer
from sparsecore.kernels.layout import LANES

from sparsecore.runtime.devices import cpu

from .options import Options
from .tables import markdown, number, pick
from .timing import Entry, Row, fastest_rows

SUMS = 12
"""Independent sums: more than a multiply-add's latency times how many begin in a cycle, on any processor of today."""

LEVELS = {"first level": 16 << 10, "second level": 320 << 10, "third level": 6 << 20, "memory": 256 << 20}
"""Bytes read over and over, and where most processors of today keep so many."""


@intrinsic(prefer_literal=True)
def multiply_adds(_: Any, width: Any, count: Any) -> Any:
    """`count` rounds of SUMS multiply-adds in registers; returns a number that depends on all of them."""
    literal = literals(width)
    if literal is None:
        return None

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Value:
        v = Lines(b, ir.FloatType(), literal[0])
        factor, term = v.broadcast(ir.Constant(v.scalar, 0.5)), v.broadcast(b.sitofp(args[1], v.scalar))
        sums = count_loop(b, I64(0), args[1], 1, [term] * SUMS, lambda _, sums: [v.fma(s, factor, term) for s in sums])
        return _total(v, sums)

    return types.float32(width, types.int64), emit


@intrinsic(prefer_literal=True)
def reads(_: Any, width: Any, x: Any, count: Any) -> Any:
    """The sum of `count` · SUMS registers that lie side by side: each is loaded once, and added."""
    literal = literals(width)
    if literal is None:
        return None

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Value:
        v = Lines(b, ir.FloatType(), literal[0])

        def block(k: Value, sums: list[Value]) -> list[Value]:
            base = b.gep(args[1], [b.mul(k, I64(SUMS * v.width))])
            return [b.fadd(s, v.load(base, register)) for register, s in enumerate(sums)]

        return _total(v, count_loop(b, I64(0), args[2], 1, [v.zero] * SUMS, block))

    return types.float32(width, x, types.int64), emit


def _total(v: Lines, vectors: list[Value]) -> Value:
    while len(vectors) > 1:
        vectors = [v.b.fadd(*vectors[:2]), *vectors[2:]]
    return v.b.extract_element(vectors[0], ir.Constant(ir.IntType(32), 0))


def measure(options: Options) -> list[Row]:
    """Rates of one core, whatever the number of threads asked for."""
    width = register_bytes() // 4

    @njit
    def multiply(count):  # type: ignore[no-untyped-def]
        return multiply_adds(width, count)

    @njit
    def read(x, times):  # type: ignore[no-untyped-def]
        total = np.float32(0)
        for _ in range(times):
            total += reads(width, pointer(x), len(x) // (SUMS * width))
        return total

    fields = {
        "bench": "roofline", "topology": "dense", "sparsity": 0.0, "batch": LANES, "threads": 1, "engine": "sparsecore",
    }  # fmt: skip
    rounds = 100 if options.quick else 100_000
    flops = 2 * SUMS * width * rounds
    entries = [Entry(fields | {"model": "multiply-adds", "flops": flops}, lambda: multiply(rounds))]
    for name, size in list(LEVELS.items())[: 2 if options.quick else None]:
        x = cpu().zeros((size // 4 // (SUMS * width) * (SUMS * width),), np.float32)
        times = max(1, (4 << 20) // size)
        read_bytes = {"model": f"read {name}", "footprint": size, "bytes": times * x.nbytes}
        entries.append(Entry(fields | read_bytes, lambda x=x, times=times: read(x, times)))  # type: ignore[misc]
    rows = fastest_rows(entries, options.budget(3))
    return [row | ({"gb_per_s": row["bytes"] / row["ms"] / 1e6} if "bytes" in row else {}) for row in rows]


def table(rows: list[Row]) -> str:
    """Ceilings, and what each lets a kernel reach that reads one line of x for each connection."""
    body = []
    for row in pick(rows, bench="roofline"):
        rate, size = row.get("gb_per_s"), row.get("footprint")
        bound = row["gflops"] if rate is None else rate * 2 * LANES / (4 * LANES)
        kib = "–" if size is None else f"{size >> 10:,}"
        body.append([row["model"], kib, number(rate), number(bound)])
    title = "Ceilings of one core: a line of x is 64 bytes and makes 32 FLOP, so GB/s halved are GFLOP/s"
    return markdown(title, ["what", "KiB", "GB/s", "GFLOP/s at most"], body)
