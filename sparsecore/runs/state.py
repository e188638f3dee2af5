"""A run's state as JSON, as checkpoints hold it."""

from __future__ import annotations

import math
from typing import Any

from ..training.state import Mark as Mark
from ..training.state import RunState as RunState
from ..training.step import Totals
from .checkpoint import CheckpointError


def as_json(state: RunState) -> dict[str, Any]:
    """What `from_json` takes: all but the arrays."""
    found = {**vars(state), "totals": list(state.totals), "metrics": list(state.metrics)}
    del found["arrays"]
    return found


def from_json(given: Any) -> RunState:
    """The state that gave this. Raises CheckpointError, since it comes from a file."""
    try:
        if set(given) != set(as_json(RunState())):
            raise KeyError
        loss, correct, samples = given["totals"]
        length, checksum = given["metrics"]
        state = RunState(
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

