"""Makes the runs of a board over MPI, by mpi4py's pool of processes; the same board, cache and outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .outcome import read_outcome
from .run import Run
from .runner import PAUSE, Board
from .worker import made


def check() -> None:
    """Raise ValueError where mpi4py is missing."""
    if find_spec("mpi4py") is None:
        raise ValueError("--workers mpi: needs mpi4py, not installed here: pip install 'sparsecore[mpi]'")


class MpiMaker:
    """Makes a board's runs, each a job of `mpi4py.futures`: started by `mpiexec -n N python -m mpi4py.futures -m …`.

    Parameters
    ----------
    board : Board
        Of runs that start from no others.
    folder : Path
        Each run has a folder of its key there, which every process sees.
    threads : int
        Of each process.
    shown : callable
        Called with the board now and then.
    data_dir : str, optional
        Where data sets are.
    """

    def __init__(
        self, board: Board, folder: Path, *, threads: int = 1, shown: Callable[[Board], None] = lambda board: None,
        data_dir: str | None = None,
    ) -> None:  # fmt: skip
        self.board, self.folder, self.threads, self.shown, self.data_dir = board, folder, threads, shown, data_dir
        self._stopping = False

    def stop(self) -> None:
        """Start no more runs; those under way end. May be called from a signal handler."""
        self._stopping = True

    def __call__(self) -> None:
        """Make the runs, until all are finished or failed, or until `stop`."""
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor() as pool:
            jobs: dict[Future[Any], Run] = {}
            while (run := self.board.ready()) is not None:
                jobs[pool.submit(made, self._job(run))] = run
                self.board.running[run] = time.monotonic()
            while jobs:
                if self._stopping:
                    for job in [job for job in jobs if job.cancel()]:
                        run = jobs.pop(job)
                        del self.board.running[run]
                        self.board.waiting.insert(0, run)
                for job in wait(jobs, PAUSE, FIRST_COMPLETED).done:
                    self._hear(jobs.pop(job), job)
                self.shown(self.board)

    def _job(self, run: Run) -> dict[str, Any]:
        return {
            "kind": run.kind, "folder": str(self.folder / run.key), "arguments": run.arguments(self.folder),
            "data_dir": self.data_dir, "threads": self.threads,
        }  # fmt: skip

    def _hear(self, run: Run, job: Future[Any]) -> None:
        """Take what came of a run."""
        error = job.exception()
        answer: dict[str, Any] = {"status": 1, "why": f"its process failed: {error}"}
        if error is None:
            answer = job.result()
        del self.board.running[run]
        outcome = read_outcome(self.folder / run.key) if answer["status"] == 0 else None
        if outcome is not None:
            self.board.finished[run.key] = outcome
        else:
            self.board.failed[run] = answer["why"] or "its outcome cannot be read"
