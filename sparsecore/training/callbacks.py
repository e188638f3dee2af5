"""Callbacks: what a loop calls while it trains, and what they can use of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from ..data.batches import Batches
from ..network import Network
from ..storage.pattern import SparsityPattern
from .evaluation import Evaluation, Scores
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
    scores: Scores

    @property
    def steps_done(self) -> int:
        """Steps of training so far, of all epochs."""

    def gradient_at(self, layer: str | int, pattern: SparsityPattern) -> Any:
        """The gradient that the last step had at connections of a layer, stored or not."""

    def stop(self) -> None:
        """End the run after this step."""

    def check(self) -> None:
        """Raise Diverged if the loss or a parameter is not finite."""

    def record(self, record: Record) -> None:
        """Add a line to the run's metrics."""

    def aside(self) -> AbstractContextManager[None]:
        """A context in which time does not count as spent on training."""


class Progress(NamedTuple):
    """How far a running epoch is: `step` of `steps`, which added up to `totals` and took `seconds`."""

    epoch: int
    epochs: int
    step: int
    steps: int
    totals: Totals
    seconds: float


class Callback:
    """What a loop calls, and when. Override what is needed."""

    def started(self, trainer: Training) -> None:
        """Everything is compiled; the first step comes next."""

    def stepped(self, trainer: Training) -> None:
        """Called after each step; may change the network's structure, and the optimizer's state with it."""

    def ended(self, trainer: Training) -> None:
        """The run is done, or was stopped or interrupted."""

    def looked(self, progress: Progress) -> None:
        """Called about ten times a second."""

    def recorded(self, record: Record) -> None:
        """A line of metrics was written."""
