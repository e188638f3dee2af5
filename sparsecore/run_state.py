"""Where a run stands: what a checkpoint says beside the network and the velocity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .checkpoint import CheckpointError
from .step import Totals

Record = dict[str, Any]


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
    history : list of dict
        All lines of metrics so far; the last has "event": "result" if the run is finished.
    """

    epoch: int = 0
    batch: int = 0
    totals: Totals = field(default_factory=lambda: Totals(0.0, 0, 0))
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    history: list[Record] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return bool(self.history) and self.history[-1]["event"] == "result"

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {**vars(self), "totals": list(self.totals)}

    @classmethod
    def from_json(cls, given: Any) -> RunState:
        """The state that gave this. Raises CheckpointError, since it comes from a file."""
        try:
            loss, correct, samples = given["totals"]
            state = cls(
                given["epoch"], given["batch"], Totals(loss, correct, samples), given["train_seconds"],
                given["epoch_seconds"], list(given["history"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise CheckpointError("expected the state of a training run, got another") from None
        counts = (state.epoch, state.batch, correct, samples)
        numbers = (loss, state.train_seconds, state.epoch_seconds)
        good = all(type(count) is int and count >= 0 for count in counts)
        good = good and all(type(number) is float and math.isfinite(number) for number in numbers)
        if not good or not all(isinstance(record, Mapping) and "event" in record for record in state.history):
            raise CheckpointError("expected the state of a training run, got one with impossible values")
        return state
