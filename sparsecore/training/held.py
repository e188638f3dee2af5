"""Interrupts that wait until what they would tear is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..console.interrupts import Interrupts

PATIENCE = 5.0
"""Seconds that an interrupt waits for at most, if it is repeated: what is under way may hang."""
HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)]


class Held:
    """While this context is entered, Ctrl-C waits for a moment at which nothing is half done.

    Those moments are `let_through`, `opened` and the end. What waits is any handler written in Python, such as the one
    that raises KeyboardInterrupt; the command line's only asks for an end, and goes through. Python calls handlers in
    its main thread: in others there is nothing to hold.
    """

    def __init__(self) -> None:
        self._before: dict[int, Callable[..., Any]] = {}
        self._waiting: int | None = None
        self._since = 0.0
        self._inside, self._open = 0, False

    def __enter__(self) -> None:
        if not self._inside and threading.current_thread() is threading.main_thread():
            self._open, self._waiting = False, None
            found = {number: signal.getsignal(number) for number in HELD}
            self._before = {
                number: handler
                for number, handler in found.items()
                if callable(handler) and not isinstance(getattr(handler, "__self__", None), Interrupts)
            }
            for number in self._before:
                signal.signal(number, self._on)
        self._inside += 1

    def __exit__(self, *error: object) -> None:
        self._inside -= 1
        if not self._inside:
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._on:
                    signal.signal(number, handler)
            self.let_through()

    def let_through(self) -> None:
        """Nothing is half done now: what waits is told."""
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._before[number](number, None)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Nothing inside leaves anything half done that matters: it may be interrupted anywhere."""
        before, self._open = self._open, bool(self._inside)
        try:
            self.let_through()
            yield
        finally:
            self._open = before

    def _on(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._open or (self._waiting is not None and now - self._since >= PATIENCE):
            self._waiting = None
            self._before[number](number, frame)
        elif self._waiting is None:
            self._waiting, self._since = number, now
