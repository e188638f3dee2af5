"""`--threads auto`: one thread against all there are, in the first steps of a run; the faster computes the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from ..runtime.devices import cpu, get_threads, set_threads
from ..training.callbacks import Callback, Training

TURNS, STEPS, WARMING = 3, 6, 2
"""Turns that each number of threads takes, steps of a turn, and those not timed at its start, when sleepers wake."""


class FasterThreads(Callback):
    """Finds out how many threads are faster for a run, on its own steps; which changes no bits.

    Parameters
    ----------
    say : callable
        Told a line about what was found.
    most : int, optional
        All there are, if not as many as the process may use: where others of the same run use the rest.
    """

    def __init__(self, say: Callable[[str], None], most: int | None = None) -> None:
        self._say, self._most = say, most
        self._all, self._before = 1, cpu().given
        self._turn, self._step, self._began = 0, 0, 0.0
        self._times: dict[int, list[float]] = {}

    def started(self, trainer: Training) -> None:
        self._before = cpu().given
        set_threads(self._most)
        self._all = get_threads()
        self._turn, self._step, self._times = 0, 0, {}
        if self._all == 1:
            self._turn = 2 * TURNS
        self._began = time.perf_counter()

    def stepped(self, trainer: Training) -> None:
        if self._turn == 2 * TURNS:
            return
        took, self._step = time.perf_counter() - self._began, self._step + 1
        if self._step > WARMING:
            self._times.setdefault(get_threads(), []).append(took)
        if self._step == STEPS:
            self._turn, self._step = self._turn + 1, 0
            self._go_on()
        self._began = time.perf_counter()

    def _go_on(self) -> None:
        """Begin the next turn, or all other steps."""
        if self._turn < 2 * TURNS:
            set_threads(self._all if self._turn % 2 == 0 else 1)
            return
        one, several = median(self._times[1]), median(self._times[self._all])
        if several < one:
            set_threads(self._most)
            self._say(f"{self._all} threads, {one / several:.1f} times as fast as one")
        else:
            set_threads(1)
            self._say(f"1 thread: {self._all} take {several / one:.1f} times as long")

    def ended(self, trainer: Training) -> None:
        set_threads(self._before)
