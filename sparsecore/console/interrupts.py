"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second gets an immediate one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A signal at a time when there is nothing to finish."""


class Interrupts:
    """While this context is entered, the first signal calls `stop` or, where that is None, raises Interrupted.

    A second signal ends the process at once. Only the main thread can take signals; in others nothing is changed.

    Attributes
    ----------
    stop : callable or None
        What finishes the work in hand. It is called from a signal's handler.
    status : int
        The exit status that belongs to the signal that came, such as 130; 0 if none did.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] | None = None
        self.status = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.status:
            os._exit(128 + number)
        self.status = 128 + number
        if self.stop is None:
            raise Interrupted
        self.stop()
