"""Running calls on threads: a pool that never holds the GIL, and gives the same bits for any number of threads.

Every thread walks the same list of calls and takes its part of each; between calls that are cut into parts they meet at a
barrier. Workers wait for the next list by looking at a word in memory, so that handing over a step costs a fraction of a
microsecond, and go to sleep when none has come for a while.

A pool runs one list at a time. A second Python thread that comes meanwhile does all parts itself: nobody waits, and
nothing can deadlock. After a fork the child starts without workers and makes its own when first asked.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
import numpy as np
from numpy.typing import NDArray

from ..compile import njit
from .call import WORDS
from .vector import I64, advance, pointer

# Words that threads share, each on a cache line of its own; the words of sleepers follow.
GENERATION, CALLS, COUNT, PARTS, ARRIVED, BEFORE, SLEEPER = 0, 8, 16, 24, 32, 40, 48

_PATIENCE = 100_000  # looks at memory before a waiting worker sleeps: a fraction of a millisecond
_YIELD_EVERY = 4096  # looks between two offers of the processor to whoever else wants it

_yield = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


@intrinsic
def _load(_: Any, words: Any, index: Any) -> Any:
    """Atomic read; whatever its writer wrote before is visible after."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.load_atomic(b.gep(args[0], [args[1]]), "seq_cst", 8)

    return types.int64(words, types.int64), emit


@intrinsic
def _add(_: Any, words: Any, index: Any, count: Any) -> Any:
    """Atomic addition; returns the old value."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.atomic_rmw("add", b.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(words, types.int64, types.int64), emit


@intrinsic
def _swap(_: Any, words: Any, index: Any, value: Any) -> Any:
    """Atomic exchange; returns the old value."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.atomic_rmw("xchg", b.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(words, types.int64, types.int64), emit


@intrinsic
def _jump(_: Any, kernel: Any, arguments: Any, part: Any, parts: Any) -> Any:
    """Call the kernel at an address."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I64, I64])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [b.bitcast(args[1], byte), args[2], args[3]])
        return context.get_dummy_value()

    return types.void(types.int64, arguments, types.int64, types.int64), emit


@njit
def _meet(words: Any, everyone: int) -> None:
    """Wait until `everyone` has arrived. Arrivals are counted for ever: a count never reset cannot be missed."""
    _add(words, ARRIVED, 1)
    looks = 0
    while _load(words, ARRIVED) < everyone:
        looks += 1
        if looks % _YIELD_EVERY == 0:
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
            _jump(call[0], advance(call, 2), part, use)
    if parts > 1:
        _meet(words, everyone + parts)


@njit
def _alone(calls: NDArray[np.int64], count: int, words: NDArray[np.int64]) -> None:
    _walk(pointer(calls), count, 0, 1, pointer(words))


@njit
def _post(calls: NDArray[np.int64], count: int, parts: int, words: NDArray[np.int64]) -> int:
    """Hand a list to the workers and do one's own part; or, where a worker sleeps, return 1 before doing it."""
    at = pointer(words)
    words[CALLS], words[COUNT], words[PARTS], words[BEFORE] = calls.ctypes.data, count, parts, words[ARRIVED]
    _add(at, GENERATION, 1)
    for worker in range(1, parts):
        if _load(at, SLEEPER + 8 * worker) != 0:
            return 1
    _walk(pointer(calls), count, 0, parts, at)
    return 0


@njit
def _rejoin(calls: NDArray[np.int64], count: int, parts: int, words: NDArray[np.int64]) -> None:
    _walk(pointer(calls), count, 0, parts, pointer(words))


@njit
def _take_sleeper(words: NDArray[np.int64], worker: int) -> bool:
    """True for the one who finds the worker asleep and so must wake it (or need not sleep, if it is the worker)."""
    return _swap(pointer(words), SLEEPER + 8 * worker, 0) == 1


@intrinsic
def _as_calls(_: Any, address: Any) -> Any:
    kind = types.CPointer(types.int64)
    return kind(types.int64), lambda context, b, signature, args: b.inttoptr(args[0], I64.as_pointer())


@njit
def _work(words: NDArray[np.int64], worker: int, seen: int) -> int:
    """Do lists until none comes for a while; returns the last generation seen, the worker marked asleep."""
    at = pointer(words)
    looks = 0
    while looks < _PATIENCE:
        generation = _load(at, GENERATION)
        if generation == seen:
            looks += 1
            if looks % _YIELD_EVERY == 0:
                _yield()
            continue
        seen, looks = generation, 0
        if worker < words[PARTS]:
            _walk(_as_calls(words[CALLS]), words[COUNT], worker, words[PARTS], at)
    _swap(at, SLEEPER + 8 * worker, 1)
    return seen


@njit
def _generation(words: NDArray[np.int64]) -> int:
    return _load(pointer(words), GENERATION)


class Pool:
    """Threads that run lists of calls together.

    Parameters
    ----------
    threads : int
        How many, the caller's included; at least 1.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Forget workers: at the start, and in a forked child, which inherits none."""
        self._busy = threading.Lock()
        self._words = np.zeros(SLEEPER + 8 * self.threads, np.int64)
        self._wake: list[threading.Semaphore] = []

    def run(self, calls: NDArray[np.int64], count: int, parts: int) -> None:
        """Run the first `count` calls; returns when all are done.

        `parts` is the most that any of them is cut into: 1 is done without waking anyone.
        """
        parts = min(parts, self.threads)
        if parts == 1 or not self._busy.acquire(blocking=False):
            _alone(calls, count, self._words)
            return
        try:
            if not self._wake:
                self._start()
            # All workers take part, or a later list could find one still on its way through this one.
            if _post(calls, count, self.threads, self._words):
                for worker in range(1, self.threads):
                    if _take_sleeper(self._words, worker):
                        self._wake[worker - 1].release()
                _rejoin(calls, count, self.threads, self._words)
        finally:
            self._busy.release()

    def resize(self, threads: int) -> None:
        """Go on with another number of threads; what is running ends first."""
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.close()
        with self._busy:
            self.threads = threads
            self._words = np.zeros(SLEEPER + 8 * threads, np.int64)

    def _start(self) -> None:
        self._wake = [threading.Semaphore(0) for _ in range(self.threads - 1)]
        for worker, wake in enumerate(self._wake, start=1):
            arguments = (self._words, worker, wake)
            threading.Thread(target=_serve, args=arguments, name=f"sparsecore-{worker}", daemon=True).start()

    def close(self) -> None:
        """Send the workers home. A closed pool may be used again."""
        with self._busy:
            words, wake = self._words, self._wake
            self._words, self._wake = np.zeros_like(words), []
            if wake:
                words[PARTS] = -1
                _add_generation(words)
                for worker, semaphore in enumerate(wake, start=1):
                    if _take_sleeper(words, worker):
                        semaphore.release()


@njit
def _add_generation(words: NDArray[np.int64]) -> None:
    _add(pointer(words), GENERATION, 1)


def _serve(words: NDArray[np.int64], worker: int, wake: threading.Semaphore) -> None:
    """A worker's life."""
    seen = 0
    while words[PARTS] >= 0:
        seen = _work(words, worker, seen)
        if _generation(words) != seen and _take_sleeper(words, worker):
            continue  # work came while it lay down
        wake.acquire()
