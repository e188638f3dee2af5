"""What a loop tells while it trains, and to whom; what those who are told may ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from ..data.batches import Batches
from ..network import Network
from .evaluation import Evaluation
from .optimizers import Optimizer
from .state import Record, RunState
from .step import Totals


class Training(Protocol):
    """A loop, as its callbacks see it: `Loop` has the meaning of each."""

    network: Network
    optimizer: Optimizer
    store: Batches
    evaluations: Mapping[str, Evaluation]
    state: RunState
    steps: int
    epochs: int

    @property
    def steps_done(self) -> int:
        """Steps of training so far, of all epochs."""

    def stop(self) -> None:
        """Ask for an end after this step."""

    def check(self) -> None:
        """Raise Diverged if the loss or a parameter is not finite."""

    def record(self, record: Record) -> None:
        """Add a line to the run's metrics."""

    def aside(self) -> AbstractContextManager[None]:
        """What is done inside does not count as time spent on training."""


class Progress(NamedTuple):
    """A look at a running epoch: `step` of `steps` are done, which came to `totals` and took `seconds`."""

    epoch: int
    epochs: int
    step: int
    steps: int
    totals: Totals
    seconds: float


class Callback:
    """What a loop tells, and when. Override what is needed."""

    def started(self, trainer: Training) -> None:
        """Everything is compiled; the first step comes next."""

    def stepped(self, trainer: Training) -> None:
        """After each step; may change the network's structure, and the optimizer's state with it."""

    def looked(self, progress: Progress) -> None:
        """About ten times a second."""

    def recorded(self, record: Record) -> None:
        """A line of metrics was written."""
