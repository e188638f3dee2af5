"""Running calls on another library's threads, where it has some that would be in the way of ours.

PyTorch's idle OpenMP threads go on looking for work for a while, each on a processor. Workers of our own would get none
until they stop: with as many threads as processors, two are then no faster than one. So the list is run within a
parallel region of that library: the threads that wait are the ones that do it, and claim parts as a pool's workers do.

A region ends when all its threads have left it, as every one of the library's own does.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ..compile import cfunc, njit
from ..tuning import LONG_WAIT, YIELD_EVERY
from .ir import atomics
from .ir.clock import ticks
from .ir.vector import ints, pointer
from .threads import ALONE, RUNNING, SLEEPER, alone, claim, do, give_way, lead, weigh

# Words that a region's threads share, beside those of a pool.
ENTERED, LIST, COUNT, THREADS = SLEEPER, SLEEPER + 8, SLEEPER + 9, SLEEPER + 10
LOST, ENDED = SLEEPER + 11, SLEEPER + 12  # by whoever walked the list, and when it had
_WORDS = SLEEPER + 16


@cache
def _member() -> Any:
    """What each thread of a region runs: the first to enter walks the list, the others do what it hands out."""

    def member(address):  # type: ignore[no-untyped-def]
        words = ints(address, 8)
        threads = words[THREADS]
        thread = atomics.add(words, ENTERED, 1)
        if thread == 0:
            words[LOST] = lead(words, words[LIST], words[COUNT], threads)
            words[ENDED] = ticks()
            return
        looks = 0
        while atomics.load(words, RUNNING) != 0:
            part, until = claim(words, thread, threads)
            if part < until:
                do(words, part, until)
                looks = 0
                continue
            looks += 1
            if looks % YIELD_EVERY == 0:
                give_way()

    return cfunc(types.void(types.int64), member)


@njit
def _within(parallel: int, member: int, calls: NDArray[np.int64], count: int, threads: int, words: Any) -> None:
    """Run a list in a region of so many threads, or here if that has not paid of late."""
    at, begun = pointer(words), ticks()
    if begun < words[ALONE]:
        alone(calls, count)
        return
    words[LIST], words[COUNT], words[THREADS] = calls.ctypes.data, count, threads
    words[ENTERED] = 0
    atomics.swap(at, RUNNING, 1)
    atomics.jump(parallel, ints(member, 8), words.ctypes.data, threads, 0)
    # A thread of the region that has no processor keeps all from leaving it.
    waited = ticks() - words[ENDED]
    weigh(at, begun, words[LOST] + (waited if waited >= LONG_WAIT else 0))


class Crew:
    """Another library's OpenMP threads. Use as a pool.

    Parameters
    ----------
    parallel : int
        Address of `GOMP_parallel(function, data, threads, flags)`, by which GNU's OpenMP, and others that stand in for
        it, run a function on each thread of a region.
    """

    def __init__(self, parallel: int) -> None:
        self.threads = 1
        self._parallel, self._process = parallel, os.getpid()
        self._words = np.zeros(_WORDS, np.int64)
        self._busy = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether there are threads: a forked child has none of its parent's, and OpenMP does not know."""
        return os.getpid() == self._process

    def run(self, calls: NDArray[np.int64], count: int, parts: int) -> None:
        """Run the first `count` calls, as `Pool.run` does, on up to `threads` threads."""
        if min(parts, self.threads) == 1 or self._busy.locked():
            alone(calls, count)
        else:
            with self._busy:
                _within(self._parallel, _member().address, calls, count, self.threads, self._words)
