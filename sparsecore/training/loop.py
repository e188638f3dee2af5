"""The loop: epochs of steps, and what they came to. It keeps nothing on disk: a recorder does."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from ..network import Network
from ..runtime.copies import Whole
from .callbacks import Callback, Progress
from .divergence import Diverged, explanation
from .epoch import steps_of_epoch
from .evaluation import Evaluation
from .optimizers import Optimizer
from .schedules import Schedule, constant
from .state import Record, RunState
from .step import Step, Totals

PAUSE = 0.1
"""Seconds between two reports of the running totals."""


class Recorder(Protocol):
    """What keeps a run's metrics and where the run stands."""

    def prepare(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Find out whether all that will be written can be, before any training; go on after `state`'s metrics."""

    def append(self, record: Record) -> None:
        """Keep a line of metrics."""

    def due(self, epoch: int | None = None) -> bool:
        """Whether it is time for a checkpoint: between two steps, or at the end of an epoch, from 1."""

    def save(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Keep where the run stands."""

    def saved(self) -> str | None:
        """Where the last checkpoint is, in words; None if there is none."""


class Loop(Whole):
    """Trains by a step, epoch by epoch; the same seed gives the same bits.

    Parameters
    ----------
    step : Step
        With an optimizer, whose `lr` is the base rate that the schedule's factors apply to.
    recorder : Recorder
    evaluations : mapping of str to Evaluation
        How well the network does on each split that it does not train on: "validation", if there is one, and "test".
    epochs, batch_size : int
    schedule : Schedule, optional
        Constant if not given.
    seed : int
        Decides the samples' order.
    callbacks : sequence of Callback
    evaluate_every : int
        Evaluate after every so many epochs; there is always one evaluation at the end.
    check_every_step : bool
        Check the loss and the parameters after every step, rather than the loss alone ten times a second.
    about : mapping
        Entries of the result that describe the run, such as its model.

    Raises
    ------
    ValueError
        If a number is out of range.

    Attributes
    ----------
    state : RunState
        Where the run stands.
    network, optimizer, store, device
        The step's; `store` holds the training samples, in the order of the running epoch.
    steps : int
        In an epoch; the last one takes the samples that are left.
    """

    def __init__(
        self, step: Step, recorder: Recorder, evaluations: Mapping[str, Evaluation], *, epochs: int, batch_size: int,
        schedule: Schedule | None = None, seed: int = 0, callbacks: Sequence[Callback] = (), evaluate_every: int = 1,
        check_every_step: bool = False, about: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if step.optimizer is None:
            raise ValueError("a loop trains: its step needs an optimizer")
        samples = len(step.batches)
        for name, value, most in (
            ("epochs", epochs, None), ("batch_size", batch_size, samples), ("evaluate_every", evaluate_every, None)
        ):  # fmt: skip
            if value < 1 or (most is not None and value > most):
                limit = "" if most is None else f" and at most the {most:,} training samples"
                raise ValueError(f"{name} must be at least 1{limit}, got {value:,}")
        self.network, self.optimizer, self.store, self.device = step.network, step.optimizer, step.batches, step.device
        self.evaluations, self.recorder, self.callbacks = evaluations, recorder, list(callbacks)
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.steps = -(-samples // batch_size)
        self.base_lr, self.schedule = self.optimizer.lr, schedule if schedule is not None else constant()
        self.evaluate_every, self.check_every_step = evaluate_every, check_every_step
        self.state = RunState()
        self._step, self._about = step, dict(about or {})
        self._stopping = self._prepared = False
        self._reported_at = 0.0

    @property
    def steps_done(self) -> int:
        """Steps of training so far, of all epochs."""
        return self.state.epoch * self.steps + self.state.batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """For callbacks: a context in which time does not count as spent on training."""
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        self.state.train_seconds -= seconds
        self.state.epoch_seconds -= seconds

    def stop(self) -> None:
        """Ask a running loop to finish its step, save and return; may be called from a signal's handler."""
        self._stopping = True

    def go_on_from(self, state: RunState) -> None:
        """Continue where another process left the run; the step has its network and optimizer already."""
        self.state = state
        self._step.count_from(state.totals)

    def run(self) -> Record | None:
        """Train until all epochs are done, or until `stop`.

        Returns
        -------
        dict or None
            The last line of metrics, the result; None if the run was stopped.

        Raises
        ------
        Diverged
            If the loss or a parameter is no longer a finite number.
        CheckpointError, RunFolderError
            If something cannot be written; the last checkpoint stays.
        """
        state = self.state
        if not state.finished:
            self.prepare()
        self._reported_at = time.monotonic()
        while not state.finished:
            self._train_epoch()
            if self._stopping:
                self.save()
                return None
            record = self._epoch_record()
            state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
            self.record(record)
            if state.epoch == self.epochs:
                self._finish(record)
            elif self.recorder.due(state.epoch):
                self.save()
        return state.result

    def prepare(self) -> None:
        """Find out whether what the run will write can be written, then compile and record its steps.

        `run` does this first. Called earlier, it separates errors of the run's folder from errors of training.
        """
        if self._prepared:
            return
        self.recorder.prepare(self.network, self.optimizer, self.state)
        self._step.prepare(self.batch_size)
        self._step.prepare(len(self.store) - (self.steps - 1) * self.batch_size)
        for callback in self.callbacks:
            callback.started(self)
        self._prepared = True

    def save(self) -> None:
        """Have the recorder keep where the run stands."""
        self.state.totals = self._step.totals(reset=False)
        self.check()
        self.recorder.save(self.network, self.optimizer, self.state)

    def check(self) -> None:
        """Raise Diverged if the loss or a parameter is not finite."""
        self._check_finite(self._step.totals(reset=False), values=True)

    def record(self, record: Record) -> None:
        """Add a line to the run's metrics."""
        self.recorder.append(record)
        self._notify(record)

    def _train_epoch(self) -> None:
        """Run steps until the epoch ends or the run is stopped. Reports and checkpoints are not timed."""
        state, step = self.state, self._step
        stepped = [each.stepped for each in self.callbacks if type(each).stepped is not Callback.stepped]
        pause = 0.0 if self.check_every_step else PAUSE
        begin = time.perf_counter()
        self.store.shuffle(self.seed, state.epoch)
        steps = steps_of_epoch(step, self.batch_size, first=state.batch, lr=self._lr, until=lambda: self._stopping)
        for batch in steps:
            state.batch = batch
            for call in stepped:
                call(self)
            if time.monotonic() - self._reported_at >= pause:
                self._count_time(begin)
                self._report()
                begin = time.perf_counter()
        self._count_time(begin)

    def _lr(self, batch: int) -> float:
        """The learning rate of a step of this epoch."""
        return self.base_lr * self.schedule(self.state.epoch * self.steps + batch)

    def _count_time(self, begin: float) -> None:
        self.device.wait()
        seconds = time.perf_counter() - begin
        self.state.train_seconds += seconds
        self.state.epoch_seconds += seconds

    def _report(self) -> None:
        totals = self._step.totals(reset=False)
        self._check_finite(totals, values=self.check_every_step)
        state = self.state
        progress = Progress(state.epoch, self.epochs, state.batch, self.steps, totals, state.epoch_seconds)
        for callback in self.callbacks:
            callback.looked(progress)
        if self.recorder.due():
            self.save()
        self._reported_at = time.monotonic()

    def _epoch_record(self) -> Record:
        totals = self._step.totals()
        self._check_finite(totals, values=True)
        epoch = self.state.epoch + 1
        record: Record = {
            "event": "epoch", "epoch": epoch, "train_loss": totals.mean_loss, "train_accuracy": totals.accuracy
        }  # fmt: skip
        if epoch % self.evaluate_every == 0 or epoch == self.epochs:
            for name, evaluation in self.evaluations.items():
                found = evaluation()
                record |= {f"{name}_loss": found.mean_loss, f"{name}_accuracy": found.accuracy}
        return record | {"lr": self._lr(self.steps - 1), "seconds": self.state.epoch_seconds}

    def _finish(self, last: Record) -> None:
        """Make the result, after the last epoch's record, and save it before any callback gets it."""
        state, network = self.state, self.network
        state.result = {
            "event": "result",
            **self._about,
            "seed": self.seed,
            "epochs": self.epochs,
            "connections": network.connections,
            "sparsity": network.sparsity,
            "global_sparsity": network.global_sparsity,
            **{key: last[key] for key in last if key.endswith(("_accuracy", "_loss"))},
            "train_seconds": state.train_seconds,
            "step_ms": 1000 * state.train_seconds / (self.epochs * self.steps),
        }
        self.recorder.append(state.result)
        self.save()
        self._notify(state.result)

    def _notify(self, record: Record) -> None:
        for callback in self.callbacks:
            callback.recorded(record)

    def _check_finite(self, totals: Totals, *, values: bool = False) -> None:
        """Raise Diverged if the loss or, with `values`, a parameter is not finite."""
        if math.isfinite(totals.loss) and not (values and self._broken()):
            return
        state = self.state
        last = min(self.batch_size, len(self.store) - max(state.batch - 1, 0) * self.batch_size)
        why = explanation(
            self._step, last, totals, when=f"epoch {state.epoch + 1}, by step {state.batch} of {self.steps}",
            lr=self.base_lr, every_step=self.check_every_step, saved=self.recorder.saved(),
        )  # fmt: skip
        raise Diverged(why)

    def _broken(self) -> bool:
        return not np.isfinite(self.device.get(self.network.params)).all()
