"""Where a run stands: what a checkpoint says beside the network and the velocity."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from ..training.step import Totals
from .checkpoint import CheckpointError
from .metrics import Mark, Record


@dataclass
class RunState:
    """A position in a run.

    Attributes
    ----------
    epoch, batch : int
        Epochs that are complete, and steps of the next one that are.
    totals : Totals
        What those steps came to.
    train_seconds, epoch_seconds : float
        Spent on training in all, and in those steps.
    metrics : Mark
        The lines of metrics that had been written when this was saved.
    result : dict, optional
        The last of them, once the run is finished.
    """

    epoch: int = 0
    batch: int = 0
    totals: Totals = field(default_factory=lambda: Totals(0.0, 0, 0))
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    metrics: Mark = field(default_factory=lambda: Mark.after(b""))
    result: Record | None = None

    @property
    def finished(self) -> bool:
        return self.result is not None

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {**vars(self), "totals": list(self.totals), "metrics": list(self.metrics)}

    @classmethod
    def from_json(cls, given: Any) -> RunState:
        """The state that gave this. Raises CheckpointError, since it comes from a file."""
        try:
            if "history" in given:
                given = _with_mark(given)
            loss, correct, samples = given["totals"]
            length, checksum = given["metrics"]
            state = cls(
                given["epoch"], given["batch"], Totals(loss, correct, samples), given["train_seconds"],
                given["epoch_seconds"], Mark(length, checksum), given["result"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, RecursionError):
            raise CheckpointError("expected the state of a training run, got another") from None
        counts = (state.epoch, state.batch, correct, samples, length)
        numbers = (loss, state.train_seconds, state.epoch_seconds)
        good = all(type(count) is int and count >= 0 for count in counts)
        good = good and all(type(number) is float and math.isfinite(number) for number in numbers)
        if not good or type(checksum) is not str or not isinstance(state.result, dict | None):
            raise CheckpointError("expected the state of a training run, got one with impossible values")
        return state


def _with_mark(given: Record) -> Record:
    """The state in a checkpoint that was written when they still held the lines of metrics themselves."""
    lines = given["history"]
    text = "".join(json.dumps(record) + "\n" for record in lines).encode()
    result = lines[-1] if lines and lines[-1]["event"] == "result" else None
    return given | {"metrics": Mark.after(text), "result": result}
