"""What a study shows while it runs: a table on a terminal; elsewhere a line for each run that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..making.outcome import records
from ..making.runner import Board
from .readings import duration


class Lines:
    """A line for each run that ends."""

    def __init__(self, board: Board, names: Mapping[str, str], runs: Path, cores: int) -> None:
        self.names, self.runs, self.cores = names, runs, cores
        self._shown = set(board.finished)
        self._count = len(board.waiting)
        self._ended = 0

    def __call__(self, board: Board) -> None:
        for key in [key for key in board.finished if key not in self._shown]:
            outcome = board.finished[key]
            dead = f"  DEAD CLASSES {', '.join(map(str, outcome.dead))}" if outcome.dead else ""
            self._line(board, key, f"{outcome.accuracy:.2%}  {outcome.seconds:.1f} s{dead}")
        for run in [run for run in board.failed if run.key not in self._shown]:
            self._line(board, run.key, f"FAILED: {board.failed[run]}")

    def _line(self, board: Board, key: str, text: str) -> None:
        self._shown.add(key)
        self._ended += 1
        left = duration(board.remaining / self.cores)
        print(f"{self._ended}/{self._count}  {self.names.get(key, key)}  {text}  ({left} left)", flush=True)

    def close(self) -> None:
        """Give the terminal back."""


class Table:
    """A row for each study, and one for each run under way."""

    def __init__(
        self, board: Board, names: Mapping[str, str], runs: Path, cores: int, studies: Mapping[str, set[str]]
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self.names, self.runs, self.cores, self.studies = names, runs, cores, studies
        self._begun = time.monotonic()
        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._live.start()
        self(board)

    def __call__(self, board: Board) -> None:
        from rich.console import Group

        parts: list[Any] = [self._studies(board)]
        if board.running:
            parts.append(self._running(board))
        spent, left = time.monotonic() - self._begun, board.remaining / self.cores
        parts.append(f"{duration(spent)} gone, about {duration(left)} left; Ctrl-C stops, and loses nothing")
        self._live.update(Group(*parts), refresh=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def _studies(self, board: Board) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table("study", "", "runs", "failed", "dead", box=None)
        failed = {run.key for run in board.failed}
        for name, keys in self.studies.items():
            finished = [board.finished[key] for key in keys if key in board.finished]
            bar = ProgressBar(total=max(len(keys), 1), completed=len(finished), width=30)
            dead, lost = sum(bool(outcome.dead) for outcome in finished), len(keys & failed)
            table.add_row(name, bar, f"{len(finished)}/{len(keys)}", f"{lost or ''}", f"{dead or ''}")
        return table

    def _running(self, board: Board) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, show_header=False)
        for run in board.running:
            epochs = run.options.get("epochs", 1)
            lines = [each for each in records(self.runs / run.key) if each["event"] == "epoch"]
            shown = f"epoch {len(lines)}/{epochs}" if run.kind == "train" else "pruning"
            seen = [each["test_accuracy"] for each in lines if "test_accuracy" in each]
            accuracy = f"{seen[-1]:.2%}" if seen else ""
            bar = ProgressBar(total=epochs, completed=len(lines), width=20)
            table.add_row(self.names.get(run.key, run.key), bar, shown, accuracy)
        return table


def show(
    board: Board, names: Mapping[str, str], runs: Path, cores: int, studies: Mapping[str, set[str]]
) -> Lines | Table:
    """A table on a terminal, lines elsewhere."""
    if sys.stdout is not None and sys.stdout.isatty():
        return Table(board, names, runs, cores, studies)
    return Lines(board, names, runs, cores)
