"""Gather and sample of every size, sparsity and format, between the same by BLAS: `pytest --benchmark`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from bench.engines import contenders
from bench.kernels import SIZES, SPARSITIES, entries_of
from bench.problem import layer_pattern, layer_topologies
from bench.timing import Entry

pytestmark = pytest.mark.benchmark(max_time=0.3, warmup=True, warmup_iterations=2, disable_gc=True)


class Case(NamedTuple):
    """A kernel, how it is computed, and of what."""

    what: str
    size: tuple[int, int]
    batch: int
    topology: str
    sparsity: float
    engine: str
    way: str


SPARSE = [("sparsecore", "csr"), ("sparsecore", "coo")]
DENSE = [("numpy-hand", "batch last"), ("numpy-hand", "batch first"), ("sparsecore", "csr")]
CASES = [
    Case(what, size, batch, topology, sparsity, engine, way)
    for size, batch in SIZES
    for topology, sparsity in layer_topologies(size[::-1], SPARSITIES)
    for what in ("gather", "sample")
    for engine, way in (DENSE if topology == "dense" else SPARSE)
]


def name(case: Case) -> str:
    size = "x".join(map(str, case.size))
    return f"{case.what}-{size}-{case.batch}-{case.topology}-{case.sparsity}-{case.engine} {case.way}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_kernel(case: Case, small: bool, timed: Callable[[Entry], None]) -> None:
    if small:
        case = case._replace(size=(200, 100), batch=24, sparsity=min(case.sparsity, 0.9))
    among = [each for each in contenders(case.what, 1) if (each.engine, each.variant) == (case.engine, case.way)]
    pattern = layer_pattern(case.size[::-1], case.topology, case.sparsity)
    (entry,) = entries_of(case.what, case.topology, pattern, case.batch, among, 1)
    timed(entry)
