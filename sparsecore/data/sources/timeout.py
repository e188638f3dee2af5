"""Timeouts for work that waits for others: one thread does the work, another decides how long it may take.

The look-up of a host's name, a connection, a server that stops in the middle, a package client: each can wait for
minutes, and some cannot be told not to. A thread that hangs is left behind.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

SHOWN_AFTER = 2.0  # seconds of work before a terminal gets a progress bar
TO_TIDY_UP = 0.3  # seconds for work that is given up to end its clients and remove its files


class GaveUp(Exception):
    """The work was silent for too long, took too long, or was told to stop."""


class Transfer:
    """How much has been received, and when the last of it came; with the methods that pooch wants of a progress bar."""

    def __init__(self) -> None:
        self.total = 0  # bytes; 0 while not known
        self.most = 1 << 62  # bytes that may come
        self.received = 0
        self.last = time.monotonic()
        self._stopped = threading.Event()

    def update(self, received: int) -> None:
        """Count received bytes; raises GaveUp once nobody waits for them any more."""
        if self._stopped.is_set():
            raise GaveUp("told to stop")
        if received:
            self.received += received
            self.last = time.monotonic()

    def reset(self) -> None:
        self.received = 0

    def close(self) -> None:
        self.total = self.received = 0

    def stop(self) -> None:
        self._stopped.set()


def in_time(work: Callable[[Transfer], T], title: str, silence: float, deadline: float) -> T:
    """The result of `work(transfer)`, run in a daemon thread.

    Parameters
    ----------
    work : callable
        Calls `transfer.update` for every piece that it receives. Whatever it raises, this raises.
    title : str
        Stands before the progress bar, which a terminal shows once the work has taken two seconds.
    silence : float
        The seconds that may pass between two pieces.
    deadline : float
        When to give up altogether, on the clock of `time.monotonic`.

    Raises
    ------
    GaveUp
        After that silence or at that time. Its next `transfer.update` ends the work; a call that never returns is left
        behind.
    """
    transfer, future = Transfer(), Future[T]()

    def run() -> None:
        try:
            future.set_result(work(transfer))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    bar = _Bar(title)
    try:
        while not wait([future], timeout=0.1).done:
            now = time.monotonic()
            if now - transfer.last > silence:
                raise GaveUp(f"no answer for {silence:g} s")
            if now > deadline:
                raise GaveUp("too slow")
            bar.show(transfer)
    finally:
        transfer.stop()
        bar.close()
        wait([future], timeout=TO_TIDY_UP)
    return future.result()


class _Bar:
    """A progress bar on standard error, from the third second on, if that is a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._due = time.monotonic() + SHOWN_AFTER if sys.stderr.isatty() else float("inf")
        self._progress: Progress | None = None

    def show(self, transfer: Transfer) -> None:
        if time.monotonic() < self._due:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task(self._title)
            self._progress.start()
        task = self._progress.task_ids[0]
        self._progress.update(task, total=transfer.total or None, completed=transfer.received)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
