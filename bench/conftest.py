"""What the benchmarks share under pytest: a settled environment, a fixture that times an entry, tables at the end."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from bench.environment import FORCED, settled

if "--benchmark" in sys.argv and "numpy" not in sys.modules:  # BLAS reads its environment once, when it is loaded
    for name in FORCED:
        os.environ.pop(name, None)
    os.environ.update(settled(threads=1))

from bench.tables import fastest, markdown, number, pick, ratio, wires
from bench.timing import Entry, Row

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session", autouse=True)
def blas_is_at_its_best(request: pytest.FixtureRequest) -> None:
    forced = [name for name in FORCED if name in os.environ]
    if forced and request.config.getoption("benchmark"):
        warnings.warn(f"{', '.join(forced)} slows the dense baseline down: unset it", stacklevel=1)


@pytest.fixture
def small(benchmark: Any) -> bool:
    """Whether things are only run once to see that they work."""
    return bool(benchmark.disabled)


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Entry], None]:
    """Times an entry, in the group of all that do the same with other patterns or engines."""

    def run(entry: Entry) -> None:
        row = dict(entry.fields)
        flops = row.pop("flops")
        benchmark.group = f"{row['bench']} {row['model']}, batch {row['batch']}"
        benchmark(entry.run)
        if benchmark.stats is None:
            return
        ms = 1e3 * benchmark.stats.stats.median
        row |= {"ms": ms, "gflops": flops / ms / 1e6}
        row["connections_per_second"] = 1e3 * row["connections"] * row["batch"] / ms
        benchmark.extra_info.update(row)
        request.config.stash.setdefault(_ROWS, []).append(row)

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Dense and sparse side by side."""
    rows = config.stash.get(_ROWS, [])
    if rows:
        from bench.machine import describe

        terminalreporter.write_line("\n" + describe())
    for bench, model, batch in dict.fromkeys((row["bench"], row["model"], row["batch"]) for row in rows):
        some = pick(rows, bench=bench, model=model, batch=batch)
        dense = fastest(pick(some, topology="dense", threads=1))
        body = [
            [
                wires(row["topology"], row["sparsity"]), f"{row['engine']} {row.get('format', row.get('variant', ''))}",
                str(row["threads"]), f"{row['connections']:,}", number(row["ms"]), number(row["gflops"]),
                number(row["connections_per_second"] / 1e9), ratio(dense, row["ms"]),
            ]
            for row in some
        ]  # fmt: skip
        head = ["pattern", "engine", "threads", "connections", "ms", "GFLOP/s", "Gconnections/s", "over fastest dense"]
        terminalreporter.write_line("")
        terminalreporter.write_line(markdown(f"{bench} {model}, batch {batch}", head, body))
