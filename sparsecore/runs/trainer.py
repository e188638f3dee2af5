"""The loop: epochs of steps, what they came to, and checkpoints to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset
from ..data.augmentation import Augmentation
from ..data.normalisation import Normalisation
from ..network import Network
from ..runtime.device import Device
from ..training.callbacks import Callback as Callback
from ..training.callbacks import Progress as Progress
from ..training.divergence import Diverged as Diverged
from ..training.divergence import explanation
from ..training.evaluation import Evaluation, check_fit, store_of
from ..training.optimizers import SGD
from ..training.schedules import Schedule, constant
from ..training.step import Step, Totals
from .checkpoint import Checkpoint, CheckpointError, save
from .folder import RunFolder
from .metrics import Metrics, Record
from .state import RunState

LOOK = 0.1
"""Seconds between two looks at the running totals."""


class Trainer:
    """Trains a network on a data set.

    The same seed gives the same bits, whatever the number of threads, and also when a run is stopped and goes on from
    its checkpoint.

    Parameters
    ----------
    network : Network
        Its `normalisation` becomes the data set's.
    dataset : Dataset
    optimizer : SGD
        Its `lr` is the base rate that the schedule's factors apply to.
    epochs, batch_size : int
    schedule : Schedule, optional
        Constant if not given.
    seed : int
        Of the samples' order and of the validation split.
    validation : float
        Fraction of the training split that is held out and looked at as the test split is.
    callbacks : sequence of Callback
    out : str or Path, optional
        Folder for configuration, metrics and checkpoints. Nothing is written without it.
    config : mapping, optional
        What the folder and the checkpoints say of the run; its "model" is the result's.
    save_every : float
        Seconds between checkpoints; there is always one at the end.
    save_epochs : int, optional
        Save after every so many epochs too.
    look_epochs : int
        Look at the splits that are not trained on after every so many epochs; there is always one look at the end.
    check_every_step : bool
        Look at the loss and the parameters after every step, not at the loss alone ten times a second.
    device : Device, optional
        Where to train; the network and the optimizer move there. The network's own if not given.
    augment : Augmentation, optional
        Of the training samples; no other split is augmented.

    Raises
    ------
    ValueError
        If an option is out of range, or the data set and the network do not fit.

    Attributes
    ----------
    state : RunState
        Where the run stands.
    metrics : Metrics
        The lines so far, as dictionaries: in the folder, or in memory where there is none.
    steps : int
        In an epoch; the last one takes the samples that are left.
    store : Batches
        The training samples, in the order of the running epoch.
    evaluations : dict of str to Evaluation
        How well the network does on each split that it does not train on: "validation", if there is one, and "test".
    """

    def __init__(
        self, network: Network, dataset: Dataset, optimizer: SGD, *, epochs: int, batch_size: int = 128,
        schedule: Schedule | None = None, seed: int = 0, validation: float = 0.0, callbacks: Sequence[Callback] = (),
        out: str | Path | None = None, config: Mapping[str, Any] | None = None, save_every: float = 5.0,
        save_epochs: int | None = None, look_epochs: int = 1, check_every_step: bool = False,
        device: Device | None = None, augment: Augmentation | None = None,
    ) -> None:  # fmt: skip
        check_fit(network, dataset)
        train, held_out = dataset.holdout(validation, seed) if validation else (dataset.train, None)
        for name, value, most in (
            ("epochs", epochs, math.inf), ("batch_size", batch_size, len(train)),
            ("save_epochs", 1 if save_epochs is None else save_epochs, math.inf),
            ("look_epochs", look_epochs, math.inf),
        ):  # fmt: skip
            if not 1 <= value <= most:
                limit = f" and at most the {most:,} training samples" if most < math.inf else ""
                raise ValueError(f"{name} must be at least 1{limit}, got {value:,}")
        self.network, self.dataset, self.optimizer = network, dataset, optimizer
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.steps = -(-len(train) // batch_size)
        self.base_lr, self.schedule = optimizer.lr, schedule if schedule is not None else constant()
        self.callbacks = list(callbacks)
        self.folder = RunFolder(out) if out is not None else None
        self.metrics = Metrics(self.folder.metrics if self.folder is not None else None)
        self.config = dict(config or {})
        self.save_every, self.save_epochs, self.look_epochs = save_every, save_epochs, look_epochs
        self.check_every_step = check_every_step
        self.device = device if device is not None else network.device
        network.to(self.device)
        optimizer.to(self.device)
        self.state = RunState()
        normalisation = Normalisation(dataset.shape, dataset.mean, dataset.std)
        network.normalisation = normalisation
        self.store = store_of(network, train, normalisation, self.device, augment)
        splits = {"validation": held_out, "test": dataset.test}
        self.evaluations = {
            name: Evaluation(network, split, normalisation, self.device)
            for name, split in splits.items()
            if split is not None
        }
        self._step = Step(network, self.store, optimizer, self.device)
        self._stopping = self._prepared = False
        self._looked_at = self._saved_at = 0.0

    @property
    def done(self) -> int:
        """Steps of training that are done, of all epochs."""
        return self.state.epoch * self.steps + self.state.batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """For callbacks: what is done inside does not count as time spent on training."""
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        self.state.train_seconds -= seconds
        self.state.epoch_seconds -= seconds

    def stop(self) -> None:
        """Ask a running trainer to finish its step, save and return; may be called from a signal's handler."""
        self._stopping = True

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this run, with whose network this trainer was made.

        Raises
        ------
        CheckpointError
            If it is of another run: other data, batch size, epochs or seed.
        """
        if checkpoint.network is not self.network:
            raise ValueError("restore: the trainer must be made with the checkpoint's own network")
        state = RunState.from_json(checkpoint.state.get("run"))
        identity, wanted = checkpoint.state.get("identity"), self._identity()
        if identity != wanted or checkpoint.velocity is None or state.epoch > self.epochs or state.batch > self.steps:
            raise CheckpointError(f"expected a checkpoint of this run, {wanted}, got one of {identity}")
        self.state = state
        self.optimizer.velocity = self.device.put(checkpoint.velocity)
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
        self._looked_at = self._saved_at = time.monotonic()
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
            elif self.save_epochs and state.epoch % self.save_epochs == 0:
                self.save()
            else:
                self._save_if_due()
        return state.result

    def save(self) -> None:
        """Write a checkpoint of where the run stands, if it has a folder."""
        self.state.totals = self._step.totals(reset=False)
        self.check()
        if self.folder is not None:
            self.state.metrics = self.metrics.mark()
            state = {"config": self.config, "identity": self._identity(), "run": self.state.as_json()}
            save(self.network, self.folder.checkpoint, velocity=self._velocity(), state=state)
        self._saved_at = time.monotonic()

    def check(self) -> None:
        """Raise Diverged if the loss or a parameter is not finite."""
        self._check_finite(self._step.totals(reset=False), values=True)

    def record(self, record: Record) -> None:
        """Add a line to the run's metrics."""
        self.metrics.append(record)
        self._tell(record)

    def prepare(self) -> None:
        """Find out whether what the run will write can be written, then compile and record its steps.

        `run` does this first; calling it before tells what is wrong with the folder from what goes wrong in training.
        """
        if self._prepared:
            return
        if self.folder is not None:
            patterns = [layer.pattern for layer in self.network.layers if hasattr(layer, "pattern")]
            size = 2 * self.network.params.nbytes + sum(p.indptr.nbytes + p.indices.nbytes for p in patterns)
            self.folder.create(self.config, 3 * size + (1 << 20))
        self.metrics.cut(self.state.metrics)
        self._step.prepare(self.batch_size)
        self._step.prepare(len(self.store) - (self.steps - 1) * self.batch_size)
        for callback in self.callbacks:
            callback.started(self)
        self._prepared = True

    def _train_epoch(self) -> None:
        """Steps until the epoch ends or the run is stopped. The clock stands still for looks and checkpoints."""
        state, step, samples = self.state, self._step, len(self.store)
        stepped = [each.stepped for each in self.callbacks if type(each).stepped is not Callback.stepped]
        pause = 0.0 if self.check_every_step else LOOK
        begin = time.perf_counter()
        self.store.shuffle(self.seed, state.epoch)
        while state.batch < self.steps and not self._stopping:
            start = state.batch * self.batch_size
            self.optimizer.lr = self._lr(state.batch)
            step.run(start, min(self.batch_size, samples - start))
            state.batch += 1
            for call in stepped:
                call(self)
            if time.monotonic() - self._looked_at >= pause:
                self._clock(begin)
                self._look()
                begin = time.perf_counter()
        self._clock(begin)

    def _lr(self, batch: int) -> float:
        """The learning rate of a step of this epoch."""
        return self.base_lr * self.schedule(self.state.epoch * self.steps + batch)

    def _clock(self, begin: float) -> None:
        self.device.wait()
        seconds = time.perf_counter() - begin
        self.state.train_seconds += seconds
        self.state.epoch_seconds += seconds

    def _look(self) -> None:
        totals = self._step.totals(reset=False)
        self._check_finite(totals, values=self.check_every_step)
        state = self.state
        progress = Progress(state.epoch, self.epochs, state.batch, self.steps, totals, state.epoch_seconds)
        for callback in self.callbacks:
            callback.looked(progress)
        self._save_if_due()
        self._looked_at = time.monotonic()

    def _save_if_due(self) -> None:
        if self.folder is not None and time.monotonic() - self._saved_at >= self.save_every:
            self.save()

    def _epoch_record(self) -> Record:
        totals = self._step.totals()
        self._check_finite(totals, values=True)
        record: Record = {
            "event": "epoch",
            "epoch": self.state.epoch + 1,
            "train_loss": totals.mean_loss,
            "train_accuracy": totals.accuracy,
        }
        epoch = self.state.epoch + 1
        if epoch % self.look_epochs == 0 or epoch == self.epochs:
            for name, evaluation in self.evaluations.items():
                found = evaluation()
                record |= {f"{name}_loss": found.mean_loss, f"{name}_accuracy": found.accuracy}
        return record | {"lr": self._lr(self.steps - 1), "seconds": self.state.epoch_seconds}

    def _finish(self, last: Record) -> None:
        """The result, after the last epoch's record: it is in the last checkpoint before anybody is told of it."""
        state, network = self.state, self.network
        state.result = {
            "event": "result",
            "model": self.config.get("model", repr(network)),
            "dataset": self.dataset.name,
            "device": self.device.name,
            "seed": self.seed,
            "epochs": self.epochs,
            "connections": network.connections,
            "sparsity": network.sparsity,
            "global_sparsity": network.global_sparsity,
            **{key: last[key] for key in last if key.endswith(("_accuracy", "_loss"))},
            "train_seconds": state.train_seconds,
            "step_ms": 1000 * state.train_seconds / (self.epochs * self.steps),
        }
        self.metrics.append(state.result)
        self.save()
        self._tell(state.result)

    def _tell(self, record: Record) -> None:
        for callback in self.callbacks:
            callback.recorded(record)

    def _check_finite(self, totals: Totals, *, values: bool = False) -> None:
        """Raise Diverged if the loss or, where they are looked at too, the parameters are not finite."""
        if math.isfinite(totals.loss) and not (values and self._broken()):
            return
        raise Diverged(explanation(self, self._step, totals))

    def _broken(self) -> bool:
        return not np.isfinite(self.device.get(self.network.params)).all()

    def _velocity(self) -> Any:
        velocity, params = self.optimizer.velocity, self.network.params
        return np.zeros(params.shape, params.dtype) if velocity is None else self.device.get(velocity)

    def _identity(self) -> dict[str, Any]:
        """What must be the same where a run goes on, so that it goes on as it would have."""
        data = self.dataset
        return {
            "train": len(self.store), "test": len(data.test), "mean": list(data.mean), "std": list(data.std),
            "epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed,
        }  # fmt: skip
