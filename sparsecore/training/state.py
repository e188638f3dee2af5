"""Where a run stands: what the loop counts, and what a run needs to go on after an interruption."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .step import Totals

Record = dict[str, Any]
"""A line of metrics: an epoch's, a pruning's, the result."""


class Mark(NamedTuple):
    """How far a run's metrics go: so many bytes, with this checksum."""

    length: int
    sha256: str

    @classmethod
    def after(cls, text: bytes) -> Mark:
        return cls(len(text), hashlib.sha256(text).hexdigest())


@dataclass
class RunState:
    """A position in a run.

    Attributes
    ----------
    epoch, batch : int
        Complete epochs, and complete steps of the next one.
    totals : Totals
        What those steps came to.
    train_seconds, epoch_seconds : float
        Spent on training in all, and in those steps.
    metrics : Mark
        The lines of metrics that had been written when this was saved.
    result : dict, optional
        The last of them, once the run is finished.
    arrays : dict of str to uint8 array
        What callbacks keep, such as which connections have been tried; in place, so that it goes into checkpoints.
    """

    epoch: int = 0
    batch: int = 0
    totals: Totals = field(default_factory=lambda: Totals(0.0, 0, 0))
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    metrics: Mark = field(default_factory=lambda: Mark.after(b""))
    result: Record | None = None
    arrays: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.result is not None
