"""Running calls on threads: a pool that never holds the GIL, and gives the same bits for any number of threads.

Every thread walks the same list of calls and takes its part of each; between calls that are cut into parts they meet
at a barrier. Workers wait for the next list by looking at a word in memory, so that handing over a step costs a
fraction of a microsecond, and go to sleep when none has come for a while.

A pool runs one list at a time; a second Python thread that finds it busy does all parts of its list itself. After a
fork the child starts without workers and makes its own when first asked. Ctrl-C leaves no list half done.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ..compile import njit
from ..tuning import PATIENCE, YIELD_EVERY
from .call import WORDS
from .ir import atomics
from .ir.vector import advance, ints, pointer

# Words that threads share, each on a cache line of its own; the words of sleepers follow.
GENERATION, CALLS, COUNT, PARTS, ARRIVED, BEFORE, PENDING, SLEEPER = 0, 8, 16, 24, 32, 40, 48, 56

_yield = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


@njit
def _meet(words: Any, everyone: int) -> None:
    """Wait until `everyone` has arrived. Arrivals are counted for ever: a count never reset cannot be missed."""
    atomics.add(words, ARRIVED, 1)
    looks = 0
    while atomics.load(words, ARRIVED) < everyone:
        looks += 1
        if looks % YIELD_EVERY == 0:
            _yield()


@njit
def _walk(calls: Any, count: int, part: int, parts: int, words: Any) -> None:
    """One thread's way through a list of calls."""
    everyone, together = words[BEFORE], False
    for k in range(count):
        call = advance(calls, k * WORDS)
        use = min(call[1], parts)
        # A call that is cut needs all that came before it; one that is not needs only the cut calls before it.
        if parts > 1 and (use > 1 or together):
            everyone += parts
            _meet(words, everyone)
        together = use > 1
        if part < use:
            atomics.jump(call[0], advance(call, 2), part, use)
    if parts > 1:
        _meet(words, everyone + parts)


@njit
def _alone(calls: NDArray[np.int64], count: int, words: NDArray[np.int64]) -> None:
    _walk(pointer(calls), count, 0, 1, pointer(words))


@njit
def _post(calls: NDArray[np.int64], count: int, parts: int, words: NDArray[np.int64]) -> None:
    """Hand a list to the workers and do one's own part; or, where a worker sleeps, leave that part pending."""
    at = pointer(words)
    words[CALLS], words[COUNT], words[PARTS], words[BEFORE] = calls.ctypes.data, count, parts, words[ARRIVED]
    words[PENDING] = 1
    atomics.add(at, GENERATION, 1)
    for worker in range(1, parts):
        if atomics.load(at, SLEEPER + 8 * worker) != 0:
            return
    _walk(pointer(calls), count, 0, parts, at)
    words[PENDING] = 0


@njit
def _finish(words: NDArray[np.int64]) -> None:
    """The pending part of `_post`."""
    _walk(ints(words[CALLS], 8), words[COUNT], 0, words[PARTS], pointer(words))
    words[PENDING] = 0


@njit
def _work(words: NDArray[np.int64], worker: int, seen: int) -> int:
    """Do lists until none comes for a while; returns the last generation seen, the worker marked asleep."""
    at = pointer(words)
    looks = 0
    while looks < PATIENCE:
        generation = atomics.load(at, GENERATION)
        if generation == seen:
            looks += 1
            if looks % YIELD_EVERY == 0:
                _yield()
            continue
        seen, looks = generation, 0
        if worker < words[PARTS]:
            _walk(ints(words[CALLS], 8), words[COUNT], worker, words[PARTS], at)
    atomics.swap(at, SLEEPER + 8 * worker, 1)
    return seen


@njit
def _generation(words: NDArray[np.int64]) -> int:
    return atomics.load(pointer(words), GENERATION)


@njit
def _next_generation(words: NDArray[np.int64]) -> None:
    atomics.add(pointer(words), GENERATION, 1)


class Pool:
    """Threads that run lists of calls together.

    Parameters
    ----------
    threads : int
        How many, the caller's included; at least 1.
    """

    def __init__(self, threads: int) -> None:
        self.threads = _checked(threads)
        self._forget()
        _pools.add(self)

    def _forget(self) -> None:
        """Know of no workers: at the start, and in a forked child, which inherits none."""
        self._busy = threading.Lock()
        self._words = np.zeros(SLEEPER + 8 * self.threads, np.int64)
        self._wake: list[SimpleQueue[None]] = []

    def run(self, calls: NDArray[np.int64], count: int, parts: int) -> None:
        """Run the first `count` calls; returns when all are done.

        `parts` is the most that any of them is cut into: 1 is done without waking anyone.
        """
        if min(parts, self.threads) == 1 or self._busy.locked():
            _alone(calls, count, self._words)
        else:
            with self._busy:  # not acquire() and try: a signal could come between the two
                self._run_together(calls, count)

    def _run_together(self, calls: NDArray[np.int64], count: int) -> None:
        if not self._wake:
            self._start()
        try:
            # All workers take part, or a later list could find one still on its way through this one.
            _post(calls, count, self.threads, self._words)
            self._finish()
        finally:
            self._finish()  # where an interrupt came before the end: workers must not be left alone at a barrier

    def _finish(self) -> None:
        if self._words[PENDING]:
            for worker, wake in enumerate(self._wake, start=1):
                if self._words[SLEEPER + 8 * worker]:
                    wake.put(None)
            _finish(self._words)

    def _start(self) -> None:
        words = np.zeros(SLEEPER + 8 * self.threads, np.int64)
        wake: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(self.threads - 1)]
        for worker, each in enumerate(wake, start=1):
            threading.Thread(
                target=_serve, args=(words, worker, each), name=f"sparsecore-{worker}", daemon=True
            ).start()
        self._go_home = weakref.finalize(self, _go_home, words, wake)
        self._go_home.atexit = False  # whatever still computes at exit needs its workers
        self._words, self._wake = words, wake  # last, so that an interrupt leaves no half-made team in use

    def resize(self, threads: int) -> None:
        """Go on with another number of threads; what is running ends first."""
        _checked(threads)
        with self._busy:
            self._dismiss()
            self.threads = threads

    def close(self) -> None:
        """Send the workers home. A closed pool may be used again."""
        with self._busy:
            self._dismiss()

    def _dismiss(self) -> None:
        if self._wake:
            self._wake = []
            self._go_home()


def _checked(threads: int) -> int:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return threads


def _serve(words: NDArray[np.int64], worker: int, wake: SimpleQueue[None]) -> None:
    """What a worker's thread runs: lists as they come, and sleep between them, until it is sent home."""
    seen = 0
    while words[PARTS] >= 0:
        seen = _work(words, worker, seen)
        # Marked asleep, it looks once more: whoever handed over a list before seeing the mark will not wake it.
        if _generation(words) == seen:
            wake.get()
        words[SLEEPER + 8 * worker] = 0


def _go_home(words: NDArray[np.int64], wake: list[SimpleQueue[None]]) -> None:
    words[PARTS] = -1
    _next_generation(words)
    for each in wake:
        each.put(None)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in _pools:
        pool._forget()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
