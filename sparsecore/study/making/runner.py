"""Makes the runs that are not in the cache yet, in several processes; a run's source is made before it."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runs.folder import METRICS
from .cost import seconds_of
from .outcome import Outcome, read_outcome
from .run import Run

PAUSE = 0.25
"""Seconds between two updates of the progress."""


PACKAGE = str(Path(__file__).parents[2] / "__init__.py")
BEGIN = "; ".join(
    [
        "import sys",
        "from importlib.util import module_from_spec, spec_from_file_location",
        "spec = spec_from_file_location('sparsecore', sys.argv[1])",
        "package = sys.modules['sparsecore'] = module_from_spec(spec)",
        "spec.loader.exec_module(package)",
        "from sparsecore._package import source",
        "source()",
        "from sparsecore.study.making.worker import main",
        "sys.exit(main())",
    ]
)
"""A worker begins with this very package, wherever it was found, and looks for no module in the current folder (-P)."""


@dataclass
class Board:
    """How far the runs of a study have come.

    Attributes
    ----------
    waiting : list of Run
        Those that were begun, then the longest chain first.
    running : dict of Run to float
        When each began.
    finished : dict of str to Outcome
        By key, cached ones included.
    failed : dict of Run to str
        And the reason.
    cached : int
        How many were finished before this command.
    """

    waiting: list[Run]
    running: dict[Run, float] = field(default_factory=dict)
    finished: dict[str, Outcome] = field(default_factory=dict)
    failed: dict[Run, str] = field(default_factory=dict)
    cached: int = 0

    @property
    def remaining(self) -> float:
        """Estimated seconds of one core for the runs that are not finished."""
        now = time.monotonic()
        under_way = sum(max(seconds_of(run) - (now - begun), 0.0) for run, begun in self.running.items())
        return under_way + sum(map(seconds_of, self.waiting))

    def ready(self) -> Run | None:
        """Take the next run whose source is finished; a run whose source failed fails too."""
        for run in list(self.waiting):
            source = run.source
            if source is not None and source in self.failed:
                self.waiting.remove(run)
                self.failed[run] = f"its source failed, {source.key}"
            elif source is None or source.key in self.finished:
                self.waiting.remove(run)
                return run
        return None


def board_of(runs: Iterable[Run], folder: Path, elsewhere: Mapping[str, Outcome] | None = None) -> Board:
    """All runs and their sources, each once: those that are cached are finished, the others wait.

    Outcomes from `elsewhere` count as well. But the networks of those runs are not here, so a run that another one has
    to start from is made again.
    """
    runs, elsewhere = list(runs), elsewhere or {}
    wanted = {each.key: each for run in runs for each in (*run.sources(), run)}
    here = {key: found for key in wanted if (found := read_outcome(folder / key)) is not None}
    missing = [run for run in runs if run.key not in here and run.key not in elsewhere]
    waiting = {each.key: each for run in missing for each in (*run.sources(), run) if each.key not in here}
    known = {key: elsewhere[key] for key in wanted if key in elsewhere and key not in waiting}
    board = Board(list(waiting.values()), finished=known | here)
    board.cached = len(board.finished)
    order, begun = _chains(board.waiting), {run for run in board.waiting if (folder / run.key / METRICS).exists()}
    board.waiting.sort(key=lambda run: (run in begun, run.dataset, order[run]), reverse=True)
    return board


class Maker:
    """Makes a board's runs.

    Parameters
    ----------
    board : Board
        Changes as runs are made.
    folder : Path
        Each run has a folder of its key there.
    workers : int
        Processes.
    threads : int
        Of each; results do not depend on it.
    shown : callable
        Called with the board about four times a second, to show the progress.
    hold : int, optional
        A file descriptor that workers keep open until they end, such as a lock's.
    data_dir : str, optional
        Where data sets are.
    """

    def __init__(
        self, board: Board, folder: Path, *, workers: int, threads: int = 1,
        shown: Callable[[Board], None] = lambda board: None, hold: int | None = None, data_dir: str | None = None,
    ) -> None:  # fmt: skip
        self.board, self.folder, self.workers, self.threads, self.shown = board, folder, workers, threads, shown
        self.hold, self.data_dir = hold, data_dir
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[subprocess.Popen[str], Run | None] = {}

    def stop(self) -> None:
        """Let running runs save, and start no others; may be called from a signal handler."""
        self._stopping = True

    def __call__(self) -> None:
        """Make the runs, until all are finished or failed, or until `stop`."""
        closed = False
        while True:
            if self._stopping and not closed:
                closed = True
                for worker in self._jobs:
                    self._close(worker)
            elif not self._stopping:
                self._give()
            if not self._jobs:
                return
            for key, _ in self._selector.select(PAUSE):
                self._hear(key.data)
            self.shown(self.board)

    def _give(self) -> None:
        """Give runs to idle workers, hire missing workers, and let those go for whom there will be no more runs."""
        idle = [worker for worker, run in self._jobs.items() if run is None]
        while len(idle) + len(self.board.running) < self.workers and self.board.waiting:
            idle.append(self._hire())
        for worker in idle:
            run = self.board.ready()
            if run is not None:
                self._jobs[worker] = run
                self.board.running[run] = time.monotonic()
                self._send(worker, run)
            elif not self.board.waiting:
                self._close(worker)

    def _hire(self) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, *_flags(), "-P", "-c", BEGIN, PACKAGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, encoding="utf-8", bufsize=1, start_new_session=True,  # Ctrl-C is for this process alone
            pass_fds=() if self.hold is None else (self.hold,),
        )  # fmt: skip
        self._jobs[worker] = None
        assert worker.stdout is not None
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
        return worker

    def _send(self, worker: subprocess.Popen[str], run: Run) -> None:
        job = {
            "kind": run.kind, "folder": str(self.folder / run.key), "arguments": run.arguments(self.folder),
            "data_dir": self.data_dir, "threads": self.threads,
        }  # fmt: skip
        assert worker.stdin is not None
        with suppress(BrokenPipeError):  # it has died, as `_hear` will notice
            worker.stdin.write(json.dumps(job) + "\n")

    def _hear(self, worker: subprocess.Popen[str]) -> None:
        """Take a worker's answer, or notice its end."""
        assert worker.stdout is not None
        line = worker.stdout.readline()
        run = self._jobs[worker]
        if line:
            answer: dict[str, Any] = json.loads(line)
            self._jobs[worker] = None
        else:
            self._selector.unregister(worker.stdout)
            del self._jobs[worker]
            answer = {"status": worker.wait(), "why": _ending(worker.returncode)}
            self._close(worker)
        if run is None:
            return
        del self.board.running[run]
        outcome = read_outcome(self.folder / run.key) if answer["status"] == 0 else None
        if outcome is not None:
            self.board.finished[run.key] = outcome
        elif self._stopping:
            self.board.waiting.insert(0, run)
        else:
            self.board.failed[run] = answer["why"] or "its outcome cannot be read"

    def _close(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdin is not None
        with suppress(BrokenPipeError):
            worker.stdin.close()


def _flags() -> list[str]:
    """This process's interpreter flags, such as -O, -W error and -X utf8, as multiprocessing passes them on."""
    return list(getattr(subprocess, "_args_from_interpreter_flags")())  # noqa: B009 (no stub has it)


def _ending(status: int) -> str:
    return f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"


def _chains(runs: list[Run]) -> dict[Run, float]:
    """For each run, the estimated seconds of the longest chain of runs that begins with it."""
    longest: dict[Run, float] = {}
    for run in sorted(runs, key=lambda run: -sum(1 for _ in run.sources())):
        longest[run] = longest.get(run, 0.0) + seconds_of(run)
        if run.source is not None:
            longest[run.source] = max(longest.get(run.source, 0.0), longest[run])
    return longest
