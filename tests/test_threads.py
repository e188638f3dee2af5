"""The pool of threads: shared, forked, interrupted, put to sleep, closed, resized, and left at exit."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import types
from sparsecore.kernels.compile import njit
from sparsecore.kernels.cpu import launch, threads
from sparsecore.kernels.cpu.ir.vector import pointer
from sparsecore.kernels.cpu.launch import Launcher, Tape
from sparsecore.kernels.cpu.threads import Pool

ROOT = Path(__file__).resolve().parent.parent
SIZE = 1000


@pytest.fixture(autouse=True)
def cut_everything(monkeypatch):
    """Even a call that takes a microsecond goes to all threads."""
    monkeypatch.setattr(launch, "WORTH_CUTTING", 1)


class Work:
    """A tape of a few dependent calls, and whether it did what it should."""

    def __init__(self, pool: Pool, seed: int = 0, calls: int = 3) -> None:
        rng, self._tape = np.random.default_rng(seed), Tape()
        self._arrays = [rng.standard_normal(SIZE)]
        self._launcher = Launcher(pool)
        recorder, self._expected = Launcher(pool, self._tape), self._arrays[0]
        for _ in range(calls):
            perm = rng.permutation(SIZE)
            self._arrays.append(np.empty(SIZE))
            recorder.reorder(self._arrays[-2], perm, self._arrays[-1])
            self._expected = self._expected[perm]

    def run(self) -> None:
        for array in self._arrays[1:]:
            array.fill(np.nan)
        self._launcher.replay(self._tape)
        assert np.array_equal(self._arrays[-1], self._expected)


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Another interpreter, which is killed where this one would hang."""
    header = "import os, sys, time\nfrom tests.test_threads import *\nlaunch.WORTH_CUTTING = 1\n"
    return subprocess.run(
        [sys.executable, "-c", header + code], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("sparsecore-")}


def assert_soon(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_pool_has_at_least_one_thread(threads):
    with pytest.raises(ValueError, match=f"threads must be at least 1, got {threads}"):
        Pool(threads)
    pool = Pool(2)
    with pytest.raises(ValueError, match=f"threads must be at least 1, got {threads}"):
        pool.resize(threads)
    assert pool.threads == 2
    Work(pool).run()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_call_sees_what_the_one_before_wrote(threads):
    work = Work(Pool(threads), calls=40)
    for _ in range(50):
        work.run()


def test_cut_and_uncut_calls_take_turns(monkeypatch):
    """A call that is not cut runs on one thread while the others wait for it."""
    pool, tape, rng = Pool(3), Tape(), np.random.default_rng(0)
    recorder, arrays = Launcher(pool, tape), [rng.standard_normal(SIZE)]
    expected = arrays[0]
    for cut in rng.integers(0, 2, 200):
        monkeypatch.setattr(launch, "WORTH_CUTTING", 1 if cut else 1 << 40)
        perm, out = rng.permutation(SIZE), np.empty(SIZE)
        recorder.reorder(arrays[-1], perm, out)
        arrays.append(out)
        expected = expected[perm]
    for _ in range(100):
        for array in arrays[1:]:
            array.fill(np.nan)
        Launcher(pool).replay(tape)
        assert np.array_equal(arrays[-1], expected)


def test_an_empty_tape_does_nothing():
    Launcher(Pool(2)).replay(Tape())


def test_many_tiny_runs():
    work = Work(Pool(2), calls=1)
    for _ in range(20_000):
        work.run()


def test_no_worker_is_started_for_what_is_not_cut(monkeypatch):
    monkeypatch.setattr(launch, "WORTH_CUTTING", 1 << 40)
    before = workers()
    Work(Pool(3)).run()
    assert not workers() - before


def test_sleeping_workers_wake():
    work, pause = Work(Pool(3)), 0.1  # far beyond a worker's patience
    for _ in range(10):
        work.run()
        time.sleep(pause)
    for pause in np.geomspace(1e-5, 5e-3, 200):  # and around it
        work.run()
        time.sleep(pause)


def test_threads_that_share_a_pool_neither_wait_for_nor_disturb_each_other():
    pool, failures = Pool(2), []

    def use(seed: int) -> None:
        work = Work(pool, seed)
        try:
            for _ in range(1000):
                work.run()
        except BaseException as failure:
            failures.append(failure)

    users = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
        assert not user.is_alive()
    assert not failures


def test_pools_side_by_side():
    works = [Work(Pool(threads), threads) for threads in (2, 3, 4)]
    for _ in range(200):
        for work in works:
            work.run()


def test_closed_pools_send_their_workers_home_and_may_be_used_again():
    before = workers()
    pool = Pool(3)
    work = Work(pool)
    for pause in (0, 0.05):  # workers that look for work, and workers that sleep
        work.run()
        assert len(workers() - before) == 2
        time.sleep(pause)
        pool.close()
        assert_soon(lambda: not workers() - before)
    pool.close()
    work.run()
    pool.close()


def test_a_forgotten_pool_sends_its_workers_home():
    before = workers()
    work = Work(Pool(3))
    work.run()
    assert len(workers() - before) == 2
    del work
    gc.collect()
    assert_soon(lambda: not workers() - before)


def test_a_pool_is_resized_while_others_use_it():
    pool, failures, stop = Pool(2), [], threading.Event()

    def use(seed: int) -> None:
        work = Work(pool, seed)
        try:
            while not stop.is_set():
                work.run()
        except BaseException as failure:
            failures.append(failure)

    users = [threading.Thread(target=use, args=(seed,)) for seed in range(2)]
    for user in users:
        user.start()
    for count in [1, 2, 3, 4] * 10:
        pool.resize(count)
        time.sleep(0.005)
    stop.set()
    for user in users:
        user.join(60)
        assert not user.is_alive()
    assert not failures
    assert pool.threads == 4


def test_an_interrupt_between_waking_and_beginning_leaves_nobody_waiting(monkeypatch):
    """Ctrl-C is raised between any two steps of Python: here after sleepers were woken, before the list is begun."""
    pool = Pool(3)
    work = Work(pool)
    work.run()
    together = threads._together

    def interrupted(calls: Any, count: int, threads_: int, words: Any, woken: bool) -> Any:
        if not woken:
            return together(calls, count, threads_, words, woken)
        monkeypatch.setattr(threads, "_together", together)
        raise KeyboardInterrupt

    time.sleep(0.1)  # let them sleep
    monkeypatch.setattr(threads, "_together", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert threads._together is together
    assert not pool._team.words[threads.RUNNING]
    for _ in range(100):
        work.run()
    pool.close()


def test_workers_that_never_come_are_not_waited_for(monkeypatch):
    """They are there, and get no processor: the caller does all."""
    monkeypatch.setattr(threads, "_serve", lambda *_: None)
    work = Work(Pool(7), calls=20)
    for _ in range(100):
        work.run()


def claimed(pool: Pool, worker: int) -> tuple[int, int]:
    """Claim parts as a worker does, once some are handed out."""
    words = pool._team.words
    while True:
        part, until = _claim(words, worker, pool.threads)
        if part < until:
            return part, until


@njit
def _claim(words: Any, worker: int, threads_: int) -> Any:
    return threads.claim(pointer(words), worker, threads_)


@njit
def _do(words: Any, part: int, until: int) -> None:
    threads.do(pointer(words), part, until)


def test_a_part_that_was_begun_is_waited_for_and_then_the_caller_goes_alone(monkeypatch):
    """A worker stops in the middle of its part. The list ends when it does; for some time nobody is asked again."""
    monkeypatch.setattr(threads, "_serve", lambda *_: None)
    pool, stop = Pool(2), 0.1
    work = Work(pool, calls=1)
    _claim(pool._team.words, 1, 2), _do.compile((types.int64[::1], types.int64, types.int64))
    work.run()
    begun: list[float] = []

    def stopped() -> None:
        part, until = claimed(pool, 1)
        begun.append(time.perf_counter())
        time.sleep(stop)
        _do(pool._team.words, part, until)

    while not begun:  # the caller may have done all before the worker came
        worker = threading.Thread(target=stopped)
        worker.start()
        while worker.is_alive():
            work.run()
    assert time.perf_counter() - begun[0] >= stop
    ticket = pool._team.words[threads.TICKET]
    for _ in range(10):
        work.run()
    assert pool._team.words[threads.TICKET] == ticket  # nothing was handed out
    pool._team.words[threads.ALONE] = 0
    work.run()
    assert pool._team.words[threads.TICKET] != ticket


def test_whatever_is_claimed_is_claimed_once():
    """Several threads claim at random until nothing is left; shares of one's own come first, and whole."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts, several = int(rng.integers(1, 33)), int(rng.integers(1, 9))
        words = np.zeros(64, np.int64)
        words[threads.PARTS], words[threads.TICKET] = parts, 5 << 32 | (1 << parts) - 1
        taken, first = [], set()
        while words[threads.TICKET] & 0xFFFFFFFF:
            worker = int(rng.integers(several))
            part, until = _claim(words, worker, several)
            assert 0 <= part < until <= parts
            share = parts * worker // several, parts * (worker + 1) // several
            if worker not in first and share[0] < share[1] and not set(range(*share)) & set(taken):
                assert (part, until) == share
            first.add(worker)
            taken += range(part, until)
        assert sorted(taken) == list(range(parts))
        assert words[threads.TICKET] >> 32 == 5
        assert _claim(words, 0, several) == (0, 0)


def test_threads_that_cannot_be_started_are_done_without(monkeypatch):
    started, start = [], threading.Thread.start

    def failing(thread: threading.Thread) -> None:
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    before = workers()
    work = Work(Pool(4))
    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.warns(RuntimeWarning, match="^2 of 4 threads could be started$"):
        work.run()
    for _ in range(100):
        work.run()
    assert len(workers() - before) == 1
    monkeypatch.undo()
    del work
    gc.collect()
    assert_soon(lambda: not workers() - before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals on this system")
def test_the_number_of_threads_changes_in_signal_handlers_and_destructors_during_products():
    code = """
import signal, random
from sparsecore.runtime.devices import cpu, set_threads
class Ends:
    def __del__(self):
        set_threads(random.choice([1, 2, 3]))
def change(*_):
    set_threads(random.choice([1, 2, 3]))
    Ends()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 1e-3))
signal.signal(signal.SIGALRM, change)
set_threads(2)
work, end, count = Work(cpu().pool), time.monotonic() + 2, 0
work.run()
signal.setitimer(signal.ITIMER_REAL, 1e-3)
while time.monotonic() < end:
    work.run()
    count += 1
signal.setitimer(signal.ITIMER_REAL, 0)
set_threads(1)
time.sleep(0.3)
assert count > 100 and not workers(), (count, workers())
"""
    run = python(code)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_interrupts_at_any_moment_leave_a_pool_that_works():
    code = """
import signal, random
class Stop(BaseException): pass  # numpy, too, catches Exception
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
pool = Pool(3)
work, stops, end = Work(pool), 0, time.monotonic() + 2
for _ in range(2):  # all is compiled before the first interrupt, which LLVM would not survive
    work.run()
    time.sleep(0.1)
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-4, 3e-3))
        while True:
            time.sleep(random.choice([0, 5e-4]))
            work.run()
    except Stop:
        stops += 1
signal.setitimer(signal.ITIMER_REAL, 0)
work.run()
pool.close()
assert stops > 0
"""
    run = python(code)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_too():
    code = """
pool = Pool(3)
work = Work(pool)
for pause in (0, 0, 0.1, 0.1):  # workers that look for work, and workers that sleep
    work.run()
    time.sleep(pause)
    child = os.fork()
    if child == 0:
        for _ in range(100):
            work.run()
        assert len(workers()) == 2
        os._exit(0)
    work.run()
    assert os.waitpid(child, 0)[1] == 0
"""
    run = python(code)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_computes():
    code = """
pool = Pool(2)
work, other = Work(pool, 1), Work(pool, 2)
work.run()
def forever():
    while True:
        other.run()
threading.Thread(target=forever, daemon=True).start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        for _ in range(20):
            work.run()
        pool.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    run = python(code)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_compiles():
    code = """
import numba
def compiling():
    while True:
        numba.njit(lambda x: x + 1)(1)
threading.Thread(target=compiling, daemon=True).start()
for _ in range(10):
    time.sleep(0.05)
    child = os.fork()
    if child == 0:
        numba.njit(lambda x: x - 1)(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    run = python(code)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "last",
    [
        "work.run()",
        "atexit.register(work.run); work.run()",
        "threading.Thread(target=lambda: [work.run() for _ in range(999)]).start(); time.sleep(0.01)",
    ],
)
def test_the_interpreter_exits_at_once(last):
    code = f"""
pool = Pool(3)
work = Work(pool)
work.run()
import atexit
atexit.register(lambda: print(time.time()))
{last}
"""
    run = python(code)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    assert time.time() - float(run.stdout) < 5
