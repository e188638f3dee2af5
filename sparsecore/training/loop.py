"""The loop: epochs of steps, and what they came to. It keeps nothing on disk: a recorder does."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from ..network import Network
from ..runtime.copies import Whole
from ..runtime.memory import give_back
from ..scalars import seed_of, whole
from ..storage.pattern import SparsityPattern
from .best import Best, best_of
from .callbacks import Callback, Progress
from .divergence import Diverged, explanation
from .epoch import steps_of_epoch
from .evaluation import Evaluation, Scores, by_accuracy
from .held import Held
from .optimizers import Optimizer
from .schedules import Schedule, constant
from .state import Record, RunState
from .step import Step, Totals

PAUSE = 0.1
"""Seconds between two looks at the running totals."""
clock: Callable[[], float] = time.perf_counter
"""Of the times that records tell. A study's workers count the processor's seconds instead."""


class Recorder(Protocol):
    """Who keeps what a loop tells, and where the run stands."""

    def prepare(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Find out whether all that will be written can be, before any training; go on after `state`'s metrics."""

    def append(self, record: Record) -> None:
        """Keep a line of metrics."""

    def due(self, epoch: int | None = None) -> bool:
        """Whether it is time for a checkpoint: between two steps, or at the end of an epoch, from 1."""

    def save(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Keep where the run stands."""

    def saved(self) -> str | None:
        """Where the last checkpoint is, for people; None if there is none."""


def check_batches(network: Network, samples: int, batch_size: int, least: int) -> None:
    """Raise ValueError where a layer cannot be trained on the smallest batch, of `least` samples."""
    for path, layer in network.walk():
        if least < layer.least_batch:
            raise ValueError(
                f"batch_size: layer {path}, {layer!r}, trains on at least {layer.least_batch} samples at once, and "
                f"{batch_size:,} at a time leave {least} of the {samples:,}: choose another"
            )


class Loop(Whole):
    """Trains by a step, epoch by epoch; the same seed gives the same bits.

    Parameters
    ----------
    step : Step
        With an optimizer, whose given rate is what the schedule's factors apply to. One that another run has used
        begins anew, as `Optimizer.begin_anew` says.
    recorder : Recorder
    evaluations : mapping of str to Evaluation
        How well the network does on each split that it does not train on: "validation", if there is one, and "test".
    epochs, batch_size : int
    schedule : Schedule, optional
        Constant if not given.
    seed : int
        Of the samples' order.
    callbacks : sequence of Callback
    evaluate_every : int
        Evaluate after every so many epochs; there is always one evaluation at the end.
    check_every_step : bool
        Look at the loss and the parameters after every step, not at the loss alone ten times a second.
    about : mapping
        What the result says of the run beside what it came to.
    scores : callable
        What the totals of a split are called in lines of metrics.
    best : Best, optional
        Looks for the best epoch, and may end the run.

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
    scores : callable
        What totals are called, as given.
    """

    def __init__(
        self, step: Step, recorder: Recorder, evaluations: Mapping[str, Evaluation], *, epochs: int, batch_size: int,
        schedule: Schedule | None = None, seed: int = 0, callbacks: Sequence[Callback] = (), evaluate_every: int = 1,
        check_every_step: bool = False, about: Mapping[str, Any] | None = None, scores: Scores = by_accuracy,
        best: Best | None = None,
    ) -> None:  # fmt: skip
        if step.optimizer is None:
            raise ValueError("a loop trains: its step needs an optimizer")
        samples = len(step.batches)
        for name, value, most in (
            ("epochs", epochs, None), ("batch_size", batch_size, samples), ("evaluate_every", evaluate_every, None)
        ):  # fmt: skip
            if whole(name, value) < 1 or (most is not None and value > most):
                limit = "" if most is None else f" and at most the {most:,} training samples"
                raise ValueError(f"{name} must be at least 1{limit}, got {value:,}")
        seed_of(seed)
        left = samples % batch_size or batch_size
        if step.sharing is not None and step.sharing.local_norms:
            left = min(rows for size in (left, batch_size) for rows in step.sharing.rows_of(size) if rows)
        check_batches(step.network, samples, batch_size, left)
        self.network, self.optimizer, self.store, self.device = step.network, step.optimizer, step.batches, step.device
        self.evaluations, self.recorder, self.callbacks = evaluations, recorder, list(callbacks)
        self.epochs, self.batch_size, self.seed = (operator.index(each) for each in (epochs, batch_size, seed))
        self.steps = -(-samples // batch_size)
        self.base_lr: float = getattr(self.optimizer, "base_lr", self.optimizer.lr)
        self.schedule = schedule if schedule is not None else constant()
        self.evaluate_every, self.check_every_step = evaluate_every, check_every_step
        self.state = RunState()
        self._step, self._about, self.scores, self._best = step, dict(about or {}), scores, best
        self._ranks = None if step.sharing is None else step.sharing.ranks
        self._stopping = self._halting = self._stepping = self._unsaved = self._counting = False
        self._reported_at = 0.0
        self._held = Held()
        self._unstarted: list[Callback] | None = None  # who is still to be told, the last one first
        self._untold: list[Callback] = []
        self._told_last: Record | None = None
        self._key: Any = object()  # by which the optimizer knows the run

    @property
    def steps_done(self) -> int:
        """Steps of training so far, of all epochs."""
        return self.state.epoch * self.steps + self.state.batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """For callbacks: what is done inside does not count as time spent on training."""
        begin, counted = clock(), self._counting
        yield
        if not counted:
            return
        seconds = clock() - begin
        self.state.train_seconds -= seconds
        self.state.epoch_seconds -= seconds

    def stop(self) -> None:
        """Ask a running loop to finish its step, save and return; may be called from a signal's handler.

        It is asked once: the next `run` goes on.
        """
        self._stopping = True

    def go_on_from(self, state: RunState) -> None:
        """Let the run stand where another process left it, whose network and optimizer the step has."""
        self.state = state
        self._step.count_from(state.totals)
        self.optimizer.of_run = self._key

    def run(self) -> Record | None:
        """Train until all epochs are done, or until `stop`; after an interruption go on from where it came.

        KeyboardInterrupt comes when nothing is half done: between steps, and during evaluations and compilation.

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
        with self._held:
            try:
                return self._run()
            finally:
                for each in self.callbacks:
                    each.ended(self)

    def prepare(self) -> None:
        """Find out whether what the run will write can be written, then compile and record its steps.

        `run` does this first; calling it before tells what is wrong with the folder from what goes wrong in training.
        """
        with self._held:
            self._take_optimizer()
            if self._unstarted is None:
                self.recorder.prepare(self.network, self.optimizer, self.state)
                with self._held.opened():
                    self._step.prepare(self.batch_size)
                    self._step.prepare(len(self.store) - (self.steps - 1) * self.batch_size)
                give_back()  # what making plans left, before anything touches the buffers of steps
                self._unstarted = self.callbacks[::-1]
            while self._unstarted:
                self._unstarted.pop().started(self)

    def save(self) -> None:
        """Let the recorder keep where the run stands."""
        with self._held:
            self._settle()
            self.state.totals = self._step.totals(reset=False)
            self.check()
            self.recorder.save(self.network, self.optimizer, self.state)
            self._unsaved = False

    def check(self) -> None:
        """Raise Diverged if the loss or a parameter is not finite."""
        self._check_finite(self._step.totals(reset=False), values=True)

    def gradient_at(self, layer: str | int, pattern: SparsityPattern) -> Any:
        """The gradient that the last step had at connections of a layer, stored or not; see `Step.gradient_at`."""
        return self._step.gradient_at(layer, pattern)

    def record(self, record: Record) -> None:
        """Add a line to the run's metrics."""
        with self._held:
            self.recorder.append(record)
            self._notify(record)

    def _run(self) -> Record | None:
        """What `run` does. Only here does the state advance, after what that depends on."""
        state = self.state
        if not state.finished:
            self.prepare()
        self._reported_at = time.monotonic()
        while state.epoch < self.epochs and not self._is_enough():
            self._train_epoch()
            if self._ends:
                self.save()
                self._stopping = self._halting = False
                return None
            record = self._epoch_record()
            self.recorder.append(record)
            state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
            self._step.totals()
            self._told_last = record
            self._notify(record)
            better = self._best is not None and self._best.look(record, self.network, state)
            if state.epoch < self.epochs and (better or self.recorder.due(state.epoch)):
                self.save()
            self._held.let_through()
        if not state.finished:
            self._finish(self._told_last if self._told_last is not None else self._last_record())
        elif self._unsaved:
            self.save()
        self._stopping = self._halting = False
        return state.result

    def _is_enough(self) -> bool:
        """Whether the run ends before its last epoch: only where it has looked how good it is."""
        looked = self.state.epoch % self.evaluate_every == 0
        return self.state.finished or (looked and self._best is not None and self._best.is_enough(self.state))

    def _take_optimizer(self) -> None:
        """See to it that the optimizer has this run's rates and columns, and no other's."""
        optimizer, state = self.optimizer, self.state
        owner = getattr(optimizer, "of_run", None)
        if state.finished or owner is self._key:
            return
        if owner is not None:
            if state.epoch or state.batch:
                raise ValueError("the optimizer has been used by another run since: restore this one's checkpoint")
            optimizer.begin_anew()
        optimizer.of_run = self._key

    def _settle(self) -> None:
        """Make up for what an interrupt cut off: count a step that was done, tell those who have not heard of it.

        The count of samples that a step itself keeps says whether it was done: a tape without Python in it is played
        as a whole or not at all.
        """
        counted = self.state.batch * self.batch_size
        if self._stepping and not self._step.host_calls and self._step.totals(reset=False).samples > counted:
            self._untold = self._hearers()
            self.state.batch += 1
        self._stepping = False
        while self._untold:
            self._untold.pop().stepped(self)

    def _hearers(self) -> list[Callback]:
        """Who is told of each step, the last one first."""
        return [each for each in reversed(self.callbacks) if type(each).stepped is not Callback.stepped]

    def _train_epoch(self) -> None:
        """Steps until the epoch ends or the run is stopped. The clock stands still for looks and checkpoints."""
        state, step = self.state, self._step
        hearers = self._hearers()
        pause = 0.0 if self.check_every_step else PAUSE
        begin, self._counting = clock(), True
        self.store.shuffle(self.seed, state.epoch)
        self._settle()
        if state.batch == 0:
            step.totals()
        self._agreed(False)
        self._stepping = True
        for done in steps_of_epoch(step, self.batch_size, first=state.batch, lr=self._lr, until=lambda: self._ends):
            self._stepping, self._untold, state.batch = False, hearers[:], done
            while self._untold:
                self._untold.pop().stepped(self)
            if self._agreed(time.monotonic() - self._reported_at >= pause):
                self._clock(begin)
                self._counting = False
                self._report()
                begin, self._counting = clock(), True
            self._held.let_through()
            self._stepping = True
        self._stepping = False
        self._clock(begin)
        self._counting = False

    @property
    def _ends(self) -> bool:
        """Whether the run is to end here: if there are ranks, when all have heard that one was asked to."""
        return self._stopping if self._ranks is None else self._halting

    def _agreed(self, due: bool) -> bool:
        """Whether it is time to look at totals. Clocks and signals are a rank's own; what is done is not."""
        if self._ranks is not None:
            due, self._halting = self._ranks.any(due, self._stopping)
        return due

    def _lr(self, batch: int) -> float:
        """The learning rate of a step of this epoch."""
        return self.base_lr * self.schedule(self.state.epoch * self.steps + batch)

    def _clock(self, begin: float) -> None:
        self.device.wait()
        seconds = clock() - begin
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
        totals = self._step.totals(reset=False)
        self._check_finite(totals, values=True)
        epoch = self.state.epoch + 1
        record: Record = {"event": "epoch", "epoch": epoch} | self.scores("train", totals)
        if epoch % self.evaluate_every == 0 or epoch == self.epochs:
            record |= self._evaluated()
        return record | {"lr": self._lr(self.steps - 1), "seconds": self.state.epoch_seconds}

    def _evaluated(self) -> Record:
        """How well the network does on the other splits."""
        record: Record = {}
        with self._held.opened():
            for name, evaluation in self.evaluations.items():
                record |= self.scores(name, evaluation())
        return record

    def _last_record(self) -> Record:
        """That of the last epoch, for a run that stands behind it: from the metrics, or what can be found anew."""
        for record in reversed(list(getattr(self.recorder, "metrics", ()))):
            if record["event"] == "epoch" and record.get("epoch") == self.state.epoch:
                found: Record = record
                return found
        return self._evaluated()

    def _finish(self, last: Record) -> None:
        """The result, after the last epoch's record: it is in the last checkpoint before anybody is told of it."""
        state, network = self.state, self.network
        result: Record = {
            "event": "result",
            **self._about,
            "seed": self.seed,
            "epochs": state.epoch,
            "connections": network.connections,
            "sparsity": network.sparsity,
            "global_sparsity": network.global_sparsity,
            **{key: last[key] for key in last if key.endswith(("_accuracy", "_loss", "_r2"))},
            "train_seconds": state.train_seconds,
            "step_ms": 1000 * state.train_seconds / (state.epoch * self.steps),
        }
        if (best := best_of(state)) is not None:
            result["best"] = best
        self.recorder.append(result)
        self._unsaved, state.result = True, result
        self.save()
        self._notify(result)

    def _notify(self, record: Record) -> None:
        for callback in self.callbacks:
            callback.recorded(record)

    def _check_finite(self, totals: Totals, *, values: bool = False) -> None:
        """Raise Diverged if the loss or, where they are looked at too, the parameters are not finite."""
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
