"""The best epoch of a run, by its validation split: its network is kept, and without a better one the run may end."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf, isfinite
from typing import Any

import numpy as np

from ..network import Network
from .state import Record, RunState

NAME = "best"
"""What it is called in a run's state."""

Keep = Callable[[Network, Record], None]
"""Keeps the network of an epoch with this record."""


class Best:
    """Looks at each epoch's record.

    An epoch is better if its network has fewer connections than the best so far, since a run that prunes wants what is
    left; or as many, and a higher accuracy (of numbers, R²) on the validation split; or the same, and a lower loss.
    What was found is in the run's state, and so in its checkpoints.

    Parameters
    ----------
    patience : int, optional
        The run ends after so many epochs without a better one.
    keep : callable, optional
        Called with the network and the record when there is a better one.
    """

    def __init__(self, patience: int | None = None, keep: Keep | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience, self.keep = patience, keep

    def look(self, record: Record, network: Network, state: RunState) -> bool:
        """Whether the epoch of this record, which the network is of, is the best so far; it is kept if it is."""
        if "validation_loss" not in record:
            return False
        found = {name: value for name, value in record.items() if name.endswith(("_accuracy", "_r2", "_loss"))}
        found |= {"epoch": record["epoch"], "connections": network.connections}
        before = best_of(state)
        if before is not None and _rank(found) <= _rank(before):
            return False
        if self.keep is not None:
            self.keep(network, found)
        state.arrays[NAME] = np.frombuffer(json.dumps(found).encode(), np.uint8).copy()
        return True

    def is_enough(self, state: RunState) -> bool:
        """Whether the run has waited long enough for a better epoch."""
        found = best_of(state)
        return self.patience is not None and found is not None and state.epoch - found["epoch"] >= self.patience


def best_of(state: Any) -> Record | None:
    """The record of the best epoch that a run's state, or its checkpoint, tells of; None if there is none."""
    kept = state.arrays.get(NAME)
    if kept is None:
        return None
    found: Record = json.loads(bytes(kept))
    return found


def _rank(record: Record) -> tuple[float, float, float]:
    score = record.get("validation_accuracy", record.get("validation_r2"))
    loss = record["validation_loss"]
    return -record["connections"], *(value if value is not None and isfinite(value) else -inf for value in (
        score, None if loss is None else -loss))  # fmt: skip
