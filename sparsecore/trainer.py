"""The loop: epochs of steps, what they came to, and checkpoints to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .checkpoint import Checkpoint, CheckpointError, save
from .data import Dataset, Split
from .device import Device, cpu
from .network import Network
from .normalisation import Normalisation
from .optim import SGD
from .run_folder import RunFolder
from .schedule import Schedule, constant
from .step import Step, Totals
from .store import Store

LOOK = 0.1
"""Seconds between two looks at a running epoch: its loss, whether a checkpoint is due."""
EVALUATION_BATCH = 1000

Record = dict[str, Any]


class Diverged(FloatingPointError):
    """The loss is no longer a number; one line that says where and what to do."""


class Progress(NamedTuple):
    """A look at a running epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    totals: Totals
    seconds: float

    @property
    def samples_per_second(self) -> float:
        return self.totals.samples / self.seconds if self.seconds else 0.0


class Callback:
    """What a trainer tells, and when. Override what is needed."""

    def started(self, trainer: Trainer) -> None:
        """Everything is compiled; the first step comes next."""

    def stepped(self, trainer: Trainer) -> None:
        """After each step; may change the network's structure and the optimizer."""

    def looked(self, progress: Progress) -> None:
        """About ten times a second."""

    def recorded(self, record: Record) -> None:
        """A line of metrics was written."""


class Trainer:
    """Trains a network on a data set.

    The same seed gives the same bits, whatever the number of threads, and also when a run is stopped and goes on from its
    checkpoint.

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
        Fraction of the training split that is held out and looked at after every epoch.
    callbacks : sequence of Callback
    out : str or Path, optional
        Folder for configuration, metrics and checkpoints. Nothing is written without it.
    config : mapping, optional
        What the folder and the checkpoints say of the run, and the result's "model".
    save_every : float
        Seconds of wall time between checkpoints; there is always one at the end.
    check_every_step : bool
        Look at the loss after every step, not ten times a second.
    device : Device, optional

    Raises
    ------
    ValueError
        If an option is out of range, or the data set and the network do not fit.

    Attributes
    ----------
    epoch, batch : int
        Epochs that are complete, and steps of the next.
    history : list of dict
        All lines of metrics.
    """

    def __init__(
        self, network: Network, dataset: Dataset, optimizer: SGD, *, epochs: int, batch_size: int = 128,
        schedule: Schedule | None = None, seed: int = 0, validation: float = 0.0, callbacks: Sequence[Callback] = (),
        out: str | Path | None = None, config: Mapping[str, Any] | None = None, save_every: float = 5.0,
        check_every_step: bool = False, device: Device | None = None,
    ) -> None:  # fmt: skip
        self.network, self.dataset, self.optimizer = network, dataset, optimizer
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.base_lr, self.schedule = optimizer.lr, schedule if schedule is not None else constant()
        self.callbacks = list(callbacks)
        self.folder = RunFolder(out) if out is not None else None
        self.config = dict(config or {})
        self.save_every, self.check_every_step = save_every, check_every_step
        self.device = device if device is not None else cpu()
        train, held_out = dataset.holdout(validation, seed) if validation else (dataset.train, None)
        self._check(len(train))
        network.normalisation = Normalisation(dataset.shape, tuple(dataset.mean), tuple(dataset.std))
        self.store = self._store(train)
        self._evaluations = {"validation": held_out} if held_out is not None else {}
        self._evaluations["test"] = dataset.test
        self.steps = -(-len(train) // batch_size)
        self.epoch = self.batch = 0
        self.history: list[Record] = []
        self._train_seconds = self._epoch_seconds = 0.0
        self._stopping = self._resumed = False
        self._saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        return bool(self.history) and self.history[-1]["event"] == "result"

    def stop(self) -> None:
        """Ask a running trainer to finish its step, save and return; may be called from a signal's handler."""
        self._stopping = True

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this run, whose network this trainer was made with.

        Raises
        ------
        CheckpointError
            If it is not of such a run.
        """
        if checkpoint.network is not self.network:
            raise ValueError("restore: the trainer must be made with the checkpoint's own network")
        try:
            run = checkpoint.state["run"]
            history, counts = list(run["history"]), [run["epoch"], run["batch"]]
            loss, correct, samples = run["totals"]
            seconds = float(run["train_seconds"]), float(run["epoch_seconds"])
            totals = Totals(float(loss), int(correct), int(samples))
            events = [record["event"] for record in history]
            good = all(type(count) is int for count in counts) and (run["steps"], run["seed"]) == (self.steps, self.seed)
            good = good and 0 <= counts[0] <= self.epochs and 0 <= counts[1] <= self.steps
            good = good and events.count("epoch") == counts[0] and (checkpoint.velocity is not None)
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise CheckpointError(
                f"expected the state of a run of {self.epochs} epochs of {self.steps} steps with seed {self.seed}, got another"
            )
        self.epoch, self.batch = counts
        self.history, self._totals = history, totals
        self._train_seconds, self._epoch_seconds = seconds
        self.optimizer.velocity = self.device.put(checkpoint.velocity)
        self._resumed = True

    def run(self) -> Record | None:
        """Train until all epochs are done, or until `stop`.

        Returns
        -------
        dict or None
            The last line of metrics, the result; None if the run was stopped.

        Raises
        ------
        Diverged
            If the loss is no longer a finite number.
        CheckpointError, RunFolderError
            If something cannot be written; the last checkpoint stays.
        """
        if self.finished:
            if self.folder is not None:
                self.folder.rewrite(self.history)
            return self.history[-1]
        self._start()
        while self.epoch < self.epochs:
            if self.batch < self.steps:
                self._train_epoch()
            if self._stopping:
                self.save()
                return None
            self._record(self._finished_epoch())
            self.epoch, self.batch, self._epoch_seconds = self.epoch + 1, 0, 0.0
            self._save_if_due()
        result = self._result()
        self.history.append(result)
        self.save()
        self._tell(result)
        return result

    def save(self) -> None:
        """Write a checkpoint of where the run stands, if it has a folder."""
        self._check_finite(self._step.totals(reset=False).mean_loss, values=True)
        if self.folder is not None:
            save(self.network, self.folder.checkpoint, velocity=self._velocity(), state=self._state())
        self._saved_at = time.monotonic()

    def _check(self, samples: int) -> None:
        first, last = self.network.layers[0], self.network.layers[-1]
        features, classes = int(np.prod(self.dataset.shape)), int(np.prod(last.out_shape))
        if features != int(np.prod(first.in_shape)):
            raise ValueError(f"{self.dataset.name}: samples have {features} features, but {first!r} takes {first.in_shape}")
        if classes < self.dataset.classes:
            raise ValueError(f"{self.dataset.name}: has {self.dataset.classes} classes, but {last!r} gives {classes}")
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.batch_size > samples:
            raise ValueError(f"batch_size must be at most the {samples:,} training samples, got {self.batch_size:,}")

    def _store(self, split: Split) -> Store:
        return Store(
            split, self.network.layers[0].in_shape, self.dataset.mean, self.dataset.std, self.device, self.network.dtype
        )

    def _start(self) -> None:
        """Compile and record every step, and find out whether what the run will write can be written."""
        self._step = Step(self.network, self.store, self.optimizer, self.device)
        self._step.prepare(self.batch_size)
        self._step.prepare(len(self.store) - (self.steps - 1) * self.batch_size)
        self._tests = {
            name: Evaluation(self.network, self._store(split), self.device) for name, split in self._evaluations.items()
        }
        if self._resumed:
            self._step.count_from(self._totals)
        if self.folder is not None:
            size = self.network.params.nbytes + self._velocity().nbytes
            size += sum(layer.pattern.indices.nbytes for layer in self.network.layers if hasattr(layer, "pattern"))
            self.folder.create(self.config, 3 * size + (1 << 20))
            self.folder.rewrite(self.history)
        for callback in self.callbacks:
            callback.started(self)

    def _train_epoch(self) -> None:
        """Steps until the epoch ends or the run is stopped. The clock stands still for looks and checkpoints."""
        step, size, samples = self._step, self.batch_size, len(self.store)
        stepped = [c.stepped for c in self.callbacks if type(c).stepped is not Callback.stepped]
        begin = time.perf_counter()
        look = begin if self.check_every_step else begin + LOOK
        self.store.shuffle(self.seed, self.epoch)
        while self.batch < self.steps and not self._stopping:
            start = self.batch * size
            self.optimizer.lr = self.base_lr * self.schedule(self.epoch * self.steps + self.batch)
            step.run(start, min(size, samples - start))
            self.batch += 1
            for call in stepped:
                call(self)
            now = time.perf_counter()
            if now >= look:
                self._clock(now - begin)
                self._look()
                begin = time.perf_counter()
                look = begin if self.check_every_step else begin + LOOK
        self._clock(time.perf_counter() - begin)

    def _clock(self, seconds: float) -> None:
        self._train_seconds += seconds
        self._epoch_seconds += seconds

    def _look(self) -> None:
        totals = self._step.totals(reset=False)
        self._check_finite(totals.mean_loss)
        progress = Progress(self.epoch, self.epochs, self.batch, self.steps, totals, self._epoch_seconds)
        for callback in self.callbacks:
            callback.looked(progress)
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self.folder is not None and time.monotonic() - self._saved_at >= self.save_every:
            self.save()

    def _finished_epoch(self) -> Record:
        totals = self._step.totals()
        self._check_finite(totals.mean_loss, values=True)
        record: Record = {
            "event": "epoch",
            "epoch": self.epoch + 1,
            "train_loss": totals.mean_loss,
            "train_accuracy": totals.accuracy,
        }
        for name, evaluation in self._tests.items():
            found = evaluation()
            record |= {f"{name}_loss": found.mean_loss, f"{name}_accuracy": found.accuracy}
        return record | {"lr": self.optimizer.lr, "seconds": self._epoch_seconds}

    def _result(self) -> Record:
        last = self.history[-1]
        measured = {name: last[name] for name in last if name.startswith(("validation_", "test_", "train_"))}
        return {
            "event": "result",
            "model": self.config.get("model", repr(self.network)),
            "dataset": self.dataset.name,
            "device": self.device.name,
            "seed": self.seed,
            "epochs": self.epochs,
            "connections": self.network.connections,
            "sparsity": self.network.sparsity,
            "global_sparsity": self.network.global_sparsity,
            **measured,
            "train_seconds": self._train_seconds,
            "step_ms": 1000 * self._train_seconds / (self.epochs * self.steps),
        }

    def _record(self, record: Record) -> None:
        self.history.append(record)
        self._tell(record)

    def _tell(self, record: Record) -> None:
        if self.folder is not None:
            self.folder.append(record)
        for callback in self.callbacks:
            callback.recorded(record)

    def _check_finite(self, loss: float, *, values: bool = False) -> None:
        """Raise Diverged if the loss or, where they are looked at too, the parameters are not finite."""
        broken = self._broken_layers() if values or not math.isfinite(loss) else []
        if math.isfinite(loss) and not broken:
            return
        where = f" (not finite: {', '.join(broken)})" if broken else ""
        kept = ""
        if self.folder is not None and self.folder.checkpoint.exists():
            kept = f"; the last good checkpoint is kept: {self.folder.checkpoint}"
        raise Diverged(
            f"training diverged in epoch {self.epoch + 1}, by step {self.batch} of {self.steps}: the loss is {loss}{where}; "
            f"lower the learning rate (--lr, now {self.base_lr:g}) or limit the gradient (--clip-norm 1){kept}"
        )

    def _broken_layers(self) -> list[str]:
        values = self.network.views(self.device.get(self.network.params))
        named = zip(self.network.layers, values, strict=True)
        return [repr(layer) for layer, arrays in named if not all(np.isfinite(a).all() for a in arrays.values())]

    def _velocity(self) -> Any:
        velocity = self.optimizer.velocity
        return np.zeros_like(self.network.params) if velocity is None else self.device.get(velocity)

    def _state(self) -> dict[str, Any]:
        run = {
            "epoch": self.epoch,
            "batch": self.batch,
            "steps": self.steps,
            "seed": self.seed,
            "totals": self._step.totals(reset=False),
            "train_seconds": self._train_seconds,
            "epoch_seconds": self._epoch_seconds,
            "history": self.history,
        }
        return {"config": self.config, "run": run}


class Evaluation:
    """A network on a split, in batches."""

    def __init__(self, network: Network, store: Store, device: Device | None = None) -> None:
        self._store, self._step = store, Step(network, store, None, device)

    def __call__(self) -> Totals:
        """Loss and accuracy as the network is now."""
        samples = len(self._store)
        for start in range(0, samples, EVALUATION_BATCH):
            self._step.run(start, min(EVALUATION_BATCH, samples - start))
        return self._step.totals()
