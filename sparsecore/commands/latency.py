"""How long a network takes to answer: what `python -m sparsecore.evaluate --latency` measures."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ..data import Dataset
from ..network import Network

BATCHES = (1, 16, 256)
"""Samples in a call."""

_SECONDS, _FEWEST, _MOST = 0.5, 20, 10_000
"""How long each of them is measured, with so many calls at least and at most."""

_SHOWN_AFTER = 2.0
"""Seconds after which a terminal is told how far it has come."""


class Latency(NamedTuple):
    """How long calls with so many samples took, in seconds: half of them at most `p50`, and of a hundred 99 `p99`."""

    batch: int
    calls: int
    p50: float
    p99: float

    def line(self) -> str:
        """For people."""
        samples = "sample" if self.batch == 1 else "samples"
        return f"{self.batch} {samples}: p50 {_spell(self.p50)}, p99 {_spell(self.p99)}, of {self.calls:,} calls"

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {"batch": self.batch, "calls": self.calls, "p50_ms": 1e3 * self.p50, "p99_ms": 1e3 * self.p99}


def latencies(network: Network, dataset: Dataset) -> list[Latency]:
    """The network, compiled, on samples of a test split as they are stored: whole calls, normalisation included."""
    shown = _Shown()
    try:
        return [_latency(network, batch, dataset.test.samples(0, 8 * max(BATCHES)), shown) for batch in BATCHES]
    finally:
        shown.close()


def _latency(network: Network, batch: int, x: Any, shown: _Shown) -> Latency:
    compiled = network.compile(batch)
    order = np.arange(8 * batch) % len(x)  # a network has seen little of what it is asked next
    given = [np.ascontiguousarray(x[order[start : start + batch]]) for start in range(0, len(order), batch)]
    for each in given:
        compiled(each)
    times: list[float] = []
    began = perf_counter()
    while len(times) < _FEWEST or (perf_counter() - began < _SECONDS and len(times) < _MOST):
        each = given[len(times) % len(given)]
        start = perf_counter()
        compiled(each)
        times.append(perf_counter() - start)
        shown.show(batch, len(times))
    p50, p99 = np.percentile(times, [50, 99])
    return Latency(batch, len(times), float(p50), float(p99))


class _Shown:
    """A line on standard error that says what is measured, from the third second on, if that is a terminal."""

    def __init__(self) -> None:
        self._due = perf_counter() + _SHOWN_AFTER if sys.stderr.isatty() else float("inf")
        self._width = 0

    def show(self, batch: int, calls: int) -> None:
        now = perf_counter()
        if now >= self._due:
            self._due = now + 0.2
            line = f"latency of {batch} samples: {calls:,} calls"
            print(f"\r{line.ljust(self._width)}", end="", file=sys.stderr, flush=True)
            self._width = len(line)

    def close(self) -> None:
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)


def _spell(seconds: float) -> str:
    """Such as 17.3 µs, 1.24 ms or 2.5 s."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"
