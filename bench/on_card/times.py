"""Part (c): the card's ceilings; steps and kernels beside cuBLAS, cuSPARSE and PyTorch, each checked and then timed."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from bench import cuda as bench
from bench.engines import Contender
from bench.problem import layer_pattern
from bench.timing import Entry
from sparsecore.runtime.devices import cuda

from . import checks, results
from .cases import Case, cases, problem_of
from .ceilings import ceilings


class Tried(NamedTuple):
    """One engine on one case: something to run, and its relative error."""

    timed: Any
    error: float


def main() -> None:
    on, small, wrong = cuda(), results.small(), 0
    for row in ceilings(small):
        results.write("times", {"bench": "ceiling", **row})
    for case in cases(small):
        for row in rows(case, on, small):
            wrong += "failed" in row
            results.write("times", row)
        give_back()
    sys.exit(wrong > 0)


def rows(case: Case, on: Any, small: bool) -> Iterator[results.Found]:
    """A row for each engine, with its time or with what went wrong."""
    began, entries, fields = perf_counter(), [], case._asdict()
    errors: dict[tuple[Any, Any], float] = {}
    try:
        attempt = _step(case, small) if case.bench == "step" else _kernel(case)
    except Exception:
        yield fields | {"engine": "all", "failed": traceback.format_exc(limit=-3)}
        return
    for each in bench.contenders(case.bench, on, case.model):
        own = each.engine == "sparsecore"
        if not each.suits(case.topology, 1) or (own and not case.stored):
            continue
        named = fields | {"engine": each.engine, ("format" if own else "variant"): each.variant}
        try:
            tried = attempt(each)
        except Exception:
            yield named | {"failed": traceback.format_exc(limit=-3)}
            continue
        if tried.error > checks.TOLERANCE:
            yield named | {"failed": f"relative error {tried.error:.1e}", "error": tried.error}
            continue
        errors[each.engine, each.variant] = tried.error
        entries.append(Entry(named | {"flops": 0}, tried.timed.run))
    prepared = perf_counter() - began
    for row in bench.fastest_rows(entries, small) if entries else ():
        del row["gflops"]
        way = row["engine"], row.get("format", row.get("variant", ""))
        yield row | {"error": errors[way], "prepared": round(prepared, 2), "seconds": round(perf_counter() - began, 2)}


def _step(case: Case, small: bool) -> Callable[[Contender], Tried]:
    problem = problem_of(case, small)
    expected = checks.step_reference(problem)

    def attempt(each: Contender) -> Tried:
        timed = each.make(problem)
        return Tried(timed, checks.step_error(timed, expected))

    return attempt


def _kernel(case: Case) -> Callable[[Contender], Tried]:
    pattern, rng = layer_pattern(case.shape, case.topology, case.sparsity), np.random.default_rng(0)
    x = rng.standard_normal((pattern.shape[1], case.batch), np.float32)
    gather = case.bench == "gather"
    operand = rng.standard_normal(pattern.nnz if gather else (pattern.shape[0], case.batch), np.float32)
    check = checks.gather_error if gather else checks.sample_error

    def attempt(each: Contender) -> Tried:
        timed = each.make(pattern, operand, x)
        timed.run()
        return Tried(timed, check(timed.result(), pattern, operand, x))

    return attempt


def give_back() -> None:
    """Memory of what is done, to the card; on the emulated one there is no pool."""
    import cupy

    gc.collect()
    if hasattr(cupy, "get_default_memory_pool"):
        cupy.get_default_memory_pool().free_all_blocks()


if __name__ == "__main__":
    main()
