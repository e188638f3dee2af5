"""What a run tells while it trains, and to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..runs.metrics import Record
from .step import Totals

if TYPE_CHECKING:
    from ..runs.trainer import Trainer


class Progress(NamedTuple):
    """A look at a running epoch: `step` of `steps` are done, which came to `totals` and took `seconds`."""

    epoch: int
    epochs: int
    step: int
    steps: int
    totals: Totals
    seconds: float


class Callback:
    """What a trainer tells, and when. Override what is needed."""

    def started(self, trainer: Trainer) -> None:
        """Everything is compiled; the first step comes next."""

    def stepped(self, trainer: Trainer) -> None:
        """After each step; may change the network's structure, and the optimizer's state with it."""

    def looked(self, progress: Progress) -> None:
        """About ten times a second."""

    def recorded(self, record: Record) -> None:
        """A line of metrics was written."""
