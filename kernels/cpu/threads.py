"""Running calls on threads: a pool that never holds the GIL, waits for nobody who is not there, and gives the same
bits for any number of threads.

The caller walks the list of calls. Where one is cut into parts it hands them out, and whoever is there claims them:
each thread a share of its own, the same one in every call, so that it finds in its cache what it wrote; then what
nobody else took. The caller waits only for parts that were begun. How many parts a call has is written in it, and no
result depends on who does which.

Workers look for parts in memory, so that handing over a call costs a fraction of a microsecond, and go to sleep when
none have come for a while. Where a processor is taken away from a worker in the middle of a part, the caller has to
wait for it; having lost time so, it computes alone for some time before it asks for help again.

A pool runs one list at a time; a second Python thread that finds it busy does all of its list itself. After a fork the
child starts without workers and makes its own when first asked. Ctrl-C leaves no list half done.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ..compile import njit
from ..tuning import LONG_SPENT, LONG_WAIT, MOST_PARTS, MOST_TIMES, PATIENCE, YIELD_EVERY
from .call import WORDS
from .ir import atomics
from .ir.clock import ticks
from .ir.vector import advance, ints, pointer

# Words that threads share. The first three change often and have a cache line each; the words of sleepers follow.
TICKET, DONE, RUNNING, LEAVE, ALONE, SLEEPER = 0, 8, 16, 24, 32, 48
CALL, PARTS = 40, 41  # the call whose parts are handed out
SPENT, WASTED, TIMES = 33, 34, 35  # by the caller since it last weighed them, in ticks; how long it goes alone

_BITS = MOST_PARTS
"""A ticket is a number that counts calls, and below it a bit for each part that nobody has claimed."""
_ALL = (1 << _BITS) - 1

give_way = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


@njit
def claim(words: Any, thread: int, threads: int) -> tuple[int, int]:
    """Claim parts of the call that is handed out, the first and the one after the last; two equal numbers if none are
    left."""
    while True:
        ticket = atomics.load(words, TICKET)
        left = ticket & _ALL
        if left == 0:
            return 0, 0
        parts = words[PARTS]  # of this call, or the exchange fails
        first, end = parts * thread // threads, parts * (thread + 1) // threads
        if left & ((1 << end) - (1 << first)):  # one's own, as far as others left them
            while not left >> first & 1:
                first += 1
            until = first + 1
            while until < end and left >> until & 1:
                until += 1
        else:  # half of what somebody has not begun
            until = parts
            while not left >> (until - 1) & 1:
                until -= 1
            first = until - 1
            while first > 0 and left >> (first - 1) & 1:
                first -= 1
            first = (first + until) // 2
        if atomics.exchange(words, TICKET, ticket, ticket & ~((1 << until) - (1 << first))):
            return first, until


@njit
def do(words: Any, part: int, until: int) -> None:
    """Do parts that this thread has claimed."""
    call = ints(words[CALL], 8)
    atomics.jump(call[0], advance(call, 2), part, until, words[PARTS])
    atomics.add(words, DONE, until - part)


@njit
def alone(calls: NDArray[np.int64], count: int) -> None:
    """Do all parts of all calls."""
    at = pointer(calls)
    for k in range(count):
        call = advance(at, k * WORDS)
        atomics.jump(call[0], advance(call, 2), 0, call[1], call[1])


@njit
def _together(calls: NDArray[np.int64], count: int, threads: int, words: NDArray[np.int64], woken: bool) -> bool:
    """Run a list with whoever is there; or return at once whether workers must be woken first."""
    at, begun = pointer(words), ticks()
    if begun < words[ALONE]:
        alone(calls, count)
        return False
    atomics.swap(at, RUNNING, 1)
    for worker in range(1, threads):
        if not woken and atomics.load(at, SLEEPER + 8 * worker) != 0:
            return True
    weigh(at, begun, lead(at, calls.ctypes.data, count, threads))
    return False


@njit
def lead(words: Any, calls: int, count: int, threads: int) -> int:
    """Walk the list at an address and hand out what is cut; returns for how many ticks that was waited for in vain."""
    lost = 0
    for k in range(count):
        at = calls + 8 * WORDS * k
        call = ints(at, 8)
        if call[1] == 1:
            atomics.jump(call[0], advance(call, 2), 0, 1, 1)
        else:
            words[CALL], words[PARTS] = at, call[1]
            lost += _hand_out(words, threads)
    atomics.swap(words, RUNNING, 0)
    return lost


@njit
def weigh(words: Any, begun: int, lost: int) -> None:
    """After a list that was begun at a time: whether the caller goes alone for a while. It does if it lost more than
    several threads gain, and the longer the more often that was so."""
    now = ticks()
    words[SPENT] += now - begun
    words[WASTED] += lost
    if words[WASTED] * 5 > words[SPENT] * 2:  # two threads of which one is lost for so long are slower than one
        words[TIMES] = min(max(2 * words[TIMES], 2), MOST_TIMES)
        words[ALONE] = now + words[TIMES] * words[WASTED]
    elif words[SPENT] > LONG_SPENT:
        words[TIMES] //= 2
    else:
        return
    words[SPENT] = words[WASTED] = 0


@njit
def _hand_out(words: Any, threads: int) -> int:
    """Run a call with whoever is there; returns for how many ticks the caller waited in vain."""
    parts = words[PARTS]
    atomics.swap(words, DONE, 0)
    atomics.swap(words, TICKET, (((words[TICKET] >> _BITS) + 1) << _BITS) | ((1 << parts) - 1))
    begun = ticks()
    while True:
        part, until = claim(words, 0, threads)
        if part == until:
            break
        do(words, part, until)
    if atomics.load(words, DONE) == parts:
        return 0
    ended, looks = ticks(), 0
    while atomics.load(words, DONE) < parts:
        looks += 1
        if looks % YIELD_EVERY == 0:
            give_way()
    waited = ticks() - ended
    # Whoever does as much as the caller may well need as long again.
    return 0 if waited < LONG_WAIT else max(0, waited - (ended - begun))


@njit
def _work(words: NDArray[np.int64], worker: int, threads: int) -> None:
    """Do what is handed out, until nothing has been for a while."""
    at, looks = pointer(words), 0
    while True:
        part, until = claim(at, worker, threads)
        if part < until:
            do(at, part, until)
            looks = 0
            continue
        looks += 1
        if looks % YIELD_EVERY == 0:
            give_way()
        if looks < PATIENCE:
            continue
        atomics.swap(at, SLEEPER + 8 * worker, 1)
        # Whoever begins a list from now on wakes this worker. One that has begun may not have seen the mark.
        if atomics.load(at, RUNNING) == 0 or atomics.load(at, LEAVE) != 0:
            return
        atomics.swap(at, SLEEPER + 8 * worker, 0)
        looks = 0


class Team:
    """The workers of a pool, and the words that they share with its caller.

    Attributes
    ----------
    threads : int
        The caller and the workers: fewer than wanted where the system would not start as many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = 1
        self.words = np.zeros(SLEEPER + 8 * threads, np.int64)
        self.busy = threading.Lock()
        self._wake: list[SimpleQueue[None]] = []
        self._started = threads == 1
        self._wanted = threads

    def run(self, calls: NDArray[np.int64], count: int) -> None:
        if not self._started:
            self._start()
        if not _together(calls, count, self.threads, self.words, False):
            return
        try:
            for worker, wake in enumerate(self._wake, start=1):
                if self.words[SLEEPER + 8 * worker]:
                    wake.put(None)
            _together(calls, count, self.threads, self.words, True)
        finally:
            self.words[RUNNING] = 0  # where an interrupt came before the list was begun: workers may sleep

    def _start(self) -> None:
        words, wake = self.words, self._wake
        self._go_home = weakref.finalize(self, _go_home, words, wake)
        self._go_home.atexit = False  # whatever still computes at exit needs its workers
        self._started = True
        for worker in range(1, self._wanted):
            queue: SimpleQueue[None] = SimpleQueue()
            thread = threading.Thread(
                target=_serve, args=(words, worker, self._wanted, queue), name=f"sparsecore-{worker}", daemon=True
            )
            wake.append(queue)
            try:
                thread.start()
            except RuntimeError:  # the system has no more: those that there are do all
                wake.pop()
                warnings.warn(f"{worker} of {self._wanted} threads could be started", RuntimeWarning, stacklevel=2)
                return
            self.threads = worker + 1

    def dismiss(self) -> None:
        """Send the workers home, each after what it has begun. A list that is running goes on without them."""
        if self._started and self._wanted > 1:
            self._go_home()


class Pool:
    """Threads that run lists of calls together.

    Parameters
    ----------
    threads : int
        How many, the caller's included; at least 1.
    """

    def __init__(self, threads: int) -> None:
        self.threads = _checked(threads)
        self._team = Team(threads)
        _pools.add(self)

    def run(self, calls: NDArray[np.int64], count: int, parts: int) -> None:
        """Run the first `count` calls; returns when all are done.

        `parts` is the most that any of them is cut into: 1 is done without waking anyone.
        """
        team = self._team
        if min(parts, self.threads) == 1 or team.busy.locked():
            alone(calls, count)
        else:
            with team.busy:  # not acquire() and try: a signal could come between the two
                team.run(calls, count)

    def resize(self, threads: int) -> None:
        """Go on with another number of threads. What is running goes on with those it has, so that this waits for
        nothing: a signal handler may call it, and a destructor."""
        team, self._team = self._team, Team(_checked(threads))
        self.threads = threads
        team.dismiss()

    def close(self) -> None:
        """Send the workers home. A closed pool may be used again."""
        self.resize(self.threads)

    def _forget(self) -> None:
        """Know of no workers: in a forked child, which inherits none."""
        self._team = Team(self.threads)


def _checked(threads: int) -> int:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return threads


def _serve(words: NDArray[np.int64], worker: int, threads: int, wake: SimpleQueue[None]) -> None:
    """What a worker's thread runs: what is handed out, and sleep, until it is sent home."""
    while not words[LEAVE]:
        _work(words, worker, threads)
        wake.get()
        words[SLEEPER + 8 * worker] = 0


def _go_home(words: NDArray[np.int64], wake: list[SimpleQueue[None]]) -> None:
    words[LEAVE] = 1
    for each in wake:
        each.put(None)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in _pools:
        pool._forget()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
