"""How well a network does on a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Protocol

import numpy as np

from ..data import Dataset, Split
from ..data.answers import Answers
from ..data.augmentation import Augmentation
from ..data.batches import Batches
from ..data.normalisation import Normalisation
from ..network import Network
from ..runtime.copies import Whole
from ..runtime.device import Device
from ..runtime.ranks import Ranks
from ..storage.sizes import fits, spell
from .divergence import NotFiniteError, broken_layers
from .losses import CrossEntropy, Loss, SquaredError
from .state import Record
from .step import Step, Totals

BATCH = 1000
"""Samples evaluated at once, or fewer in a deep network."""


class Scores(Protocol):
    """What totals of a split are called in the lines of metrics."""

    def __call__(self, split: str, totals: Totals) -> Record:
        """Entries such as `test_loss` and `test_accuracy`."""


def by_accuracy(split: str, totals: Totals) -> Record:
    """The scores of classes."""
    return {f"{split}_loss": totals.mean_loss, f"{split}_accuracy": totals.accuracy}


class ByDetermination:
    """The scores of numbers: the loss, and R², the part of the targets' variance that is told.

    Parameters
    ----------
    spreads : mapping of str to float
        Of each split: the sum over outputs of its standardised targets' variances.
    """

    def __init__(self, spreads: Mapping[str, float]) -> None:
        self.spreads = dict(spreads)

    def __call__(self, split: str, totals: Totals) -> Record:
        spread = self.spreads[split]
        return {f"{split}_loss": totals.mean_loss, f"{split}_r2": 1 - 2 * totals.mean_loss / spread if spread else 0.0}


def scores_of(answers: Answers | None, splits: Mapping[str, Split]) -> Scores:
    """How well a network does is told so, where its outputs mean this."""
    if answers is None or not answers.numbers:
        return by_accuracy

    def spread(split: Split) -> float:
        return float(standardised(split, answers).var(axis=0, dtype=np.float64).sum())

    return ByDetermination({name: spread(split) for name, split in splits.items()})


def loss_of(answers: Answers | None) -> Loss:
    """What training makes small, where a network's outputs mean this."""
    return SquaredError() if answers is not None and answers.numbers else CrossEntropy()


def standardised(split: Split, answers: Answers) -> Any:
    """A split's targets as a network gives them: float32, of mean 0 and deviation 1 over what it was trained on."""
    return ((np.asarray(split.targets, np.float64) - answers.mean) / answers.std).astype(np.float32)


class Evaluation(Whole):
    """A network on a split, in batches: the same numbers in a training run and afterwards.

    Parameters
    ----------
    network : Network
    split : Split
        With at most as many classes as the network has outputs; see `check_fit`.
    normalisation : Normalisation
    device : Device
    answers : Answers, optional
        What the network's outputs mean.
    ranks : Ranks, optional
        That all evaluate this at the same time: they share the batches, and get the same totals, to the bit of one's.
    """

    def __init__(
        self, network: Network, split: Split, normalisation: Normalisation, device: Device,
        answers: Answers | None = None, *, ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        self._ranks = ranks
        self._batches = store_of(network, split, normalisation, device, answers=answers)
        self._step = Step(network, self._batches, None, device, loss=loss_of(answers))

    def __call__(self) -> Totals:
        """Loss and accuracy as the network is now.

        Raises
        ------
        NotFiniteError
            If its parameters are not finite: no answer of such a network could be right or wrong.
        """
        network = self._step.network
        if layers := broken_layers(network):
            raise NotFiniteError(f"{network!r} cannot be evaluated: parameters are not finite in {', '.join(layers)}")
        self._step.totals()  # what an interrupted evaluation counted
        if self._ranks is not None:
            return self._by_turns(self._ranks)
        for start, batch in self._parts():
            self._step.run(start, batch)
        return self._step.totals()

    def _by_turns(self, ranks: Ranks) -> Totals:
        """The same, each rank's turn after so many batches; their totals are added in the batches' order."""
        parts = list(self._parts())
        own = np.zeros((len(parts), 3))
        for k in range(ranks.rank, len(parts), ranks.size):
            self._step.run(*parts[k])
            own[k] = self._step.totals()
        found, totals = ranks.gather(own), np.zeros(3)
        for k in range(len(own)):
            totals += found[k % ranks.size, k]
        return Totals(float(totals[0]), int(totals[1]), int(totals[2]))

    def prepare(self) -> None:
        """Compile and record what an evaluation runs, and run nothing."""
        for batch in dict.fromkeys(batch for _, batch in self._parts()):
            self._step.prepare(batch)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Where each batch starts, and its samples."""
        samples, batch = len(self._batches), self._step.network.samples_at_once(BATCH)
        return ((start, min(batch, samples - start)) for start in range(0, samples, batch))


def store_of(
    network: Network, split: Split, normalisation: Normalisation, device: Device, augment: Augmentation | None = None,
    *, answers: Answers | None = None,
) -> Batches:  # fmt: skip
    """The batches of a split, normalised and shaped as a network takes them.

    Raises ValueError where the data's samples are not of the network's shape, or not of the kind it was trained on.
    """
    shape = network.layers[0].in_shape
    if not fits(normalisation.shape, shape):
        raise ValueError(f"{network!r}: takes samples of {spell(shape)}, got {spell(normalisation.shape)}")
    if normalisation.dtype not in (None, split.x.dtype.name):
        raise ValueError(f"{network!r}: was trained on samples of {normalisation.dtype}, got {split.x.dtype}")
    targets = standardised(split, answers) if answers is not None and answers.numbers else None
    return Batches(
        split, shape, normalisation.mean, normalisation.std, device, network.dtype, augment, targets=targets
    )  # fmt: skip


def as_read_by(network: Network, dataset: Dataset) -> Dataset:
    """A data set as a trained network has it: its columns in their places, its classes by the network's numbers.

    Raises
    ------
    DataError
        If a column or a class is none of the network's; see `Dataset.in_columns` and `Dataset.answered_by`.
    """
    norm = network.normalisation
    ordered = dataset if norm is None else dataset.in_columns(norm.columns)
    return ordered.answered_by(network.answers, prod(network.layers[-1].out_shape))


def check_fit(network: Network, dataset: Any) -> None:
    """Raise ValueError where a network does not take a data set's samples or has no output for its classes."""
    first, last = network.layers[0], network.layers[-1]
    takes, gives = prod(first.in_shape), prod(last.out_shape)
    if prod(dataset.shape) != takes:
        raise ValueError(f"{dataset.name}: {first!r} takes samples of {takes} features, got {prod(dataset.shape)}")
    for shape in network.input_shapes:
        if not fits(dataset.shape, shape):
            raise ValueError(
                f"{dataset.name}: {network!r} takes samples of {spell(shape)}, got {spell(dataset.shape)}, whose "
                f"numbers lie in another order: transpose them"
            )
    if dataset.classes > gives:
        raise ValueError(f"{dataset.name}: {last!r} tells {gives} classes apart, got {dataset.classes}")
