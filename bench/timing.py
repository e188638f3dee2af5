"""Times of things that take turns, so that whatever happens to the machine happens to all of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Any, NamedTuple

Row = dict[str, Any]
"""One timing: "bench", "model", "topology", "sparsity", "batch", "threads", "engine", "ms", and what else is known."""


_LONG = 0.05  # seconds of a call that no cache helps


class Budget(NamedTuple):
    """How long to measure.

    Attributes
    ----------
    seconds : float
        For all that takes turns together.
    rounds : int
        At least so many turns each, however long they take.
    turn : float
        Seconds of one turn: a short call is repeated until they have passed.
    pause : float
        Seconds of sleep before each turn, in which other libraries' idle threads stop spinning.
    """

    seconds: float
    rounds: int = 5
    turn: float = 0.01
    pause: float = 0.0


class Entry(NamedTuple):
    """Something to time, and what its row says beside the time."""

    fields: Row
    run: Callable[[], object]


def interleaved(calls: Sequence[Callable[[], object]], budget: Budget) -> list[float]:
    """Median milliseconds of each call; they take turns, A B C A B C.

    A turn begins with a call that is not timed, which brings its data back into the caches, as they are in training.
    Calls that take very long go without: their data do not fit.
    """
    plans = [_plan(call, budget.turn) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    enabled = gc.isenabled()
    gc.disable()
    try:
        began = perf_counter()
        while len(times[-1]) < budget.rounds or perf_counter() - began < budget.seconds:
            for call, (untimed, count), own in zip(calls, plans, times, strict=True):
                if budget.pause:
                    sleep(budget.pause)
                for _ in range(untimed):
                    call()
                start = perf_counter()
                for _ in range(count):
                    call()
                own.append((perf_counter() - start) / count)
    finally:
        if enabled:
            gc.enable()
    return [1e3 * statistics.median(own) for own in times]


def fastest_rows(entries: Sequence[Entry], budget: Budget) -> list[Row]:
    """Time all entries together. Of those that differ only in "variant" the fastest makes the row."""
    best: dict[tuple[Any, ...], Row] = {}
    for entry, ms in zip(entries, interleaved([entry.run for entry in entries], budget), strict=True):
        row = entry.fields | {"ms": ms}
        if "flops" in row:
            row["gflops"] = row.pop("flops") / ms / 1e6
        key = tuple(value for name, value in entry.fields.items() if name != "variant")
        if key not in best or ms < best[key]["ms"]:
            best[key] = row
    return list(best.values())


def _plan(call: Callable[[], object], turn: float) -> tuple[int, int]:
    """How many calls go before those that are timed, and how many are. The first of all may compile and allocate."""
    call()
    start = perf_counter()
    call()
    seconds = max(perf_counter() - start, 1e-7)
    return (0, 1) if seconds > _LONG else (1, max(2, round(turn / seconds)))
