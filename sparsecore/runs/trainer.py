"""A training run from what most callers have: a network, a data set and an optimizer."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset, Split
from ..data.augmentation import Augmentation
from ..kernels.compile import register_bytes
from ..network import Network
from ..runtime.device import Device
from ..runtime.ranks import Ranks
from ..scalars import seed_of
from ..training.best import Best
from ..training.callbacks import Callback as Callback
from ..training.callbacks import Progress as Progress
from ..training.divergence import Diverged as Diverged
from ..training.evaluation import Evaluation, check_fit, loss_of, scores_of, store_of
from ..training.hosted import name_of
from ..training.loop import Loop
from ..training.optimizers import Optimizer
from ..training.schedules import Schedule, constant
from ..training.sharing import Sharing
from ..training.state import Record
from ..training.step import Step
from .checkpoint import Checkpoint
from .folder import RunFolder
from .recorder import Recorder

_NUMBERS = ("weight_decay", "clip_norm", "momentum", "nesterov", "betas", "eps")
"""What an optimizer's description says that stays as it is over a run."""


@dataclass(frozen=True)
class _Settings:
    """What `Trainer.settings` tells. It knows no trainer: a recorder that did would keep it, and all its arrays, until
    Python looks for circles."""

    optimizer: Optimizer
    lr: float
    schedule: Schedule
    samples: int
    epochs: int
    batch_size: int
    augment: Augmentation | None
    loss: Any

    def __call__(self) -> dict[str, Any]:
        told = {name: value for name, value in self.optimizer.description().items() if name in _NUMBERS}
        last = self.epochs * -(-self.samples // self.batch_size) - 1
        factors = [f"{float(self.schedule(k)):.9g}" for k in sorted({last * part // 64 for part in range(65)})]
        return told | {
            "loss": name_of(self.loss),
            "lr": self.lr, "schedule": f"{zlib.crc32(' '.join(factors).encode()):08x}", "augment": repr(self.augment),
        }  # fmt: skip


class Trainer(Loop):
    """Trains a network on a data set: a `Loop` with its parts, made from what most callers have.

    The same seed gives the same bits, whatever the number of threads, and also when a run is stopped and goes on from
    its checkpoint.

    Parameters
    ----------
    network : Network
        Its `normalisation` and `answers` become the data set's.
    dataset : Dataset
    optimizer : Optimizer
        The rate that it was given is what the schedule's factors apply to. One that another run has used begins anew,
        as `Optimizer.begin_anew` says.
    epochs, batch_size : int
    schedule : Schedule, optional
        Constant if not given.
    seed : int
        Of the samples' order and of the validation split.
    validation : float or Split
        Fraction of the training split that is held out and evaluated on as the test split is; or that split itself,
        if the training split is without it.
    callbacks : sequence of Callback
    out : str or Path, optional
        Folder for configuration, metrics and checkpoints, with no other run in it. Nothing is written without it.
    config : mapping, optional
        What the folder and the checkpoints say of the run; its "model" is the result's.
    save_every : float
        Seconds between checkpoints; there is always one at the end.
    save_epochs : int, optional
        Save after every so many epochs too.
    evaluate_every : int
        Evaluate on the splits that are not trained on after every so many epochs, and at the end.
    look_epochs : int, optional
        The old name of `evaluate_every`.
    check_every_step : bool
        Check the loss and the parameters after every step, rather than the loss alone ten times a second.
    device : Device, optional
        Where to train; the network and the optimizer move there. The network's own if not given.
    augment : Augmentation, optional
        Of the training samples; no other split is augmented.
    patience : int, optional
        The run ends after so many epochs without a better one on the validation split, which it needs. With that split
        the best epoch's network is kept beside the last, in best.safetensors.
    loss : Loss or callable, optional
        What training makes small, as `training.step.Step` takes it; if not given, cross-entropy, or half the
        squared error where the data set has numbers. Evaluation tells that.
    ranks : Ranks, optional
        The processes of an MPI job, each of which makes the same trainer: they share every batch. One of them writes.
    local_norms : bool
        Let batch normalisation go by the rows of each rank alone, not by the whole batch.

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
        self, network: Network, dataset: Dataset, optimizer: Optimizer, *, epochs: int, batch_size: int = 128,
        schedule: Schedule | None = None, seed: int = 0, validation: float | Split = 0.0,
        callbacks: Sequence[Callback] = (), out: str | Path | None = None, config: Mapping[str, Any] | None = None,
        save_every: float = 5.0, save_epochs: int | None = None, evaluate_every: int = 1,
        look_epochs: int | None = None, check_every_step: bool = False, device: Device | None = None,
        augment: Augmentation | None = None, patience: int | None = None, loss: Any = None,
        ranks: Ranks | None = None, local_norms: bool = False,
    ) -> None:  # fmt: skip
        seed_of(seed)
        check_fit(network, dataset)
        data, held_out = _splits(dataset, validation, seed)
        if patience is not None and held_out is None:
            raise ValueError("patience needs a validation split, by which epochs are compared")
        train = data.train
        loss = loss if loss is not None else loss_of(data.answers)
        device = device if device is not None else network.device
        normalisation = data.normalisation
        identity = {
            "train": len(train), "test": len(dataset.test), "mean": list(data.mean), "std": list(data.std),
            "epochs": epochs, "batch_size": batch_size, "seed": seed,
        }  # fmt: skip
        config = dict(config or {})
        out = None if ranks is not None and ranks.rank else out
        begun = schedule if schedule is not None else constant()
        lr = getattr(optimizer, "base_lr", optimizer.lr)
        self._settings = _Settings(
            optimizer, lr, begun, len(train), epochs, batch_size, augment, loss,
        )  # fmt: skip
        recorder = Recorder(
            RunFolder(out) if out is not None else None, config, identity, save_every=save_every,
            save_epochs=save_epochs, data=lambda: _checksum(train, dataset.test), settings=self._settings,
        )  # fmt: skip
        network.to(device)
        optimizer.to(device)
        network.normalisation, network.answers = normalisation, data.answers
        splits = {} if held_out is None else {"validation": held_out}
        splits["test"] = dataset.test
        batches = store_of(network, train, normalisation, device, augment, answers=data.answers)
        super().__init__(
            Step(
                network, batches, optimizer, device, loss=loss,
                sharing=None if ranks is None else Sharing(ranks, batch_size, local_norms=local_norms),
            ),
            recorder,
            {
                name: Evaluation(network, split, normalisation, device, data.answers, ranks=ranks)
                for name, split in splits.items()
            },
            epochs=epochs, batch_size=batch_size, schedule=begun, seed=seed, callbacks=callbacks,
            evaluate_every=evaluate_every if look_epochs is None else look_epochs, check_every_step=check_every_step,
            about={"model": config.get("model", repr(network)), "dataset": dataset.name, "device": device.name},
            best=None if held_out is None else Best(patience, recorder.keep_best),
            scores=scores_of(data.answers, {"train": train, **splits}),
        )  # fmt: skip
        self.dataset, self.config = dataset, recorder.config
        self.folder, self.metrics, self._recorder = recorder.folder, recorder.metrics, recorder

    def __repr__(self) -> str:
        where = f", in {self.folder.path}" if self.folder is not None else ""
        return f"Trainer({self.network!r}, {self.optimizer!r}, epoch {self.state.epoch} of {self.epochs}{where})"

    @property
    def done(self) -> int:
        """The old name of `steps_done`."""
        return self.steps_done

    def run(self) -> Record | None:
        """As `Loop.run` says. Until it returns, the folder is this run's alone.

        Raises
        ------
        RunFolderError
            Also if another run is at work in the folder, or went on with this one since it was stopped.
        """
        try:
            return super().run()
        finally:
            self._recorder.release()

    def prepare(self) -> None:
        """As `Loop.prepare` says. From then on the folder is this run's alone.

        Raises
        ------
        RanksError
            If a rank has other data, values or settings than the first.
        """
        if self._ranks is not None:
            self._ranks.same(self._recorder.identity | self.settings() | self._checksums())
        self._recorder.take()
        super().prepare()

    def _checksums(self) -> dict[str, Any]:
        """Of what ranks must have in common beside that; the vector registers, since sums go by their width."""
        patterns = [array for each in self.network.patterns.values() for array in (each.indptr, each.indices)]
        return {
            "data": self._recorder.checksum(), "values": _crc([self.network.table.values]), "patterns": _crc(patterns),
            "optimizer": _crc(self.optimizer.columns.values()), "bytes of a vector register": register_bytes(),
            "epoch and batch": (self.state.epoch, self.state.batch),
        }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What decides how the run goes on, beside its identity: the given rate, the optimizer's numbers, the schedule.

        JSON's kinds only. Of a schedule there is a checksum of its factors at places all over the run.
        """
        return self._settings()

    def restore(self, checkpoint: Checkpoint, *, changing: Collection[str] = ()) -> None:
        """Go on from a checkpoint of this run, whose network this trainer was made with.

        Parameters
        ----------
        checkpoint : Checkpoint
        changing : collection of str
            The names, of those that `settings` gives, that may be others from here on, such as "lr" and "schedule".
            Checkpoints tell from then on, as "changes", when they were changed and what they were.

        Raises
        ------
        CheckpointError
            If it is of another run: other data, labels, batch size, epochs or seed; or a setting is another one and
            not in `changing`.
        """
        if checkpoint.network is not self.network:
            raise ValueError("restore: the trainer must be made with the checkpoint's own network")
        self.go_on_from(self._recorder.restored(checkpoint, self.optimizer, changing))

    def begin_again(self) -> None:
        """Take the folder with the run in it for this one's, which begins again: it was cut off before it was saved."""
        self._recorder.begun = True


def _splits(dataset: Dataset, validation: float | Split, seed: int) -> tuple[Dataset, Split | None]:
    """The data set without what is held out of it, and that."""
    if isinstance(validation, Split):
        return dataset, validation
    return dataset.without(validation, seed) if validation else (dataset, None)


def _checksum(*splits: Split) -> str:
    """Of samples and labels, in their order."""
    found = 0
    for split in splits:
        targets = () if split.targets is None else (split.targets,)
        blocks = (split.x,) if split.rows is None else split.blocks()
        found = _crc((*blocks, split.y, *targets), found)
    return f"{found:08x}"


def _crc(arrays: Iterable[Any], found: int = 0) -> int:
    """A checksum of arrays, on the host, one after another."""
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, found)
    return found
