"""`--tensorboard`: a run's lines of metrics as event files, which TensorBoard shows while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from ..console.arguments import UsageError
from ..training.callbacks import Callback, Training
from ..training.state import Record

FOLDER = "tensorboard"
"""In the run's folder."""


def check(out: str | None) -> None:
    """Raise UsageError where there is nowhere to write, or nothing to write with."""
    if out is None:
        raise UsageError("--tensorboard: needs --out, the folder to write event files in")
    if find_spec("tensorboardX") is None:
        raise UsageError("--tensorboard: needs tensorboardX, not installed here: pip install 'sparsecore[tensorboard]'")


class EventFiles(Callback):
    """Writes a run's epochs, prunings and updates as scalars, over epochs.

    A run that goes on writes another file, which takes back what was written past its checkpoint.

    Parameters
    ----------
    out : str
        The run's folder.
    """

    def __init__(self, out: str) -> None:
        self._folder = Path(out) / FOLDER
        self._writer: Any = None

    def started(self, trainer: Training) -> None:
        from tensorboardX import SummaryWriter

        epoch = trainer.state.epoch
        again = {"purge_step": epoch + 1} if epoch or trainer.state.batch else {}
        # Files are named by the second: without the step, one that goes on at once would replace the one before.
        self._writer = SummaryWriter(str(self._folder), filename_suffix=f".{trainer.steps_done:09}", **again)

    def recorded(self, record: Record) -> None:
        if self._writer is not None:
            for name, value in scalars(record):
                self._writer.add_scalar(name, value, -int(-record["epoch"] // 1))
            self._writer.flush()

    def ended(self, trainer: Training) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """What is drawn of a line of metrics, by its name: of an epoch all that it says, of a change what is left."""
    if record["event"] == "epoch":
        found = [(name, value) for name, value in record.items() if name not in ("event", "epoch")]
    elif record["event"] in ("prune", "rewire"):
        found = [(name, record[name]) for name in ("connections", "sparsity") if name in record]
    else:
        return
    for name, value in found:
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            split, _, kind = name.rpartition("_")
            yield (f"{kind}/{split}" if split in ("train", "validation", "test") else f"run/{name}"), float(value)
