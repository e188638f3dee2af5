"""How well a network does on a split."""

from __future__ import annotations

from typing import Any

from ..data import Split
from ..data.augmentation import Augmentation
from ..data.batches import Batches
from ..data.normalisation import Normalisation
from ..network import Network
from ..runtime.device import Device
from .step import Step, Totals

BATCH = 1000


class Evaluation:
    """A network on a split, in batches: the same numbers in a training run and afterwards.

    Parameters
    ----------
    network : Network
    split : Split
        Classes must be fewer than the network's outputs.
    normalisation : Normalisation
    device : Device
    """

    def __init__(self, network: Network, split: Split, normalisation: Normalisation, device: Device) -> None:
        self._store = store_of(network, split, normalisation, device)
        self._step = Step(network, self._store, None, device)

    def __call__(self) -> Totals:
        """Loss and accuracy as the network is now."""
        samples = len(self._store)
        self._step.totals()  # what an interrupted evaluation counted
        for start in range(0, samples, BATCH):
            self._step.run(start, min(BATCH, samples - start))
        return self._step.totals()


def store_of(
    network: Network, split: Split, normalisation: Normalisation, device: Device, augment: Augmentation | None = None
) -> Batches:
    """A split as a network takes it."""
    shape = network.layers[0].in_shape
    return Batches(split, shape, normalisation.mean, normalisation.std, device, network.dtype, augment)


def check_fit(network: Network, dataset: Any) -> None:
    """Raise ValueError where a network does not take a data set's samples or has no output for its classes."""
    first, last = network.layers[0], network.layers[-1]
    takes, gives = _size(first.in_shape), _size(last.out_shape)
    if _size(dataset.shape) != takes:
        raise ValueError(f"{dataset.name}: {first!r} takes samples of {takes} features, got {_size(dataset.shape)}")
    if dataset.classes > gives:
        raise ValueError(f"{dataset.name}: {last!r} tells {gives} classes apart, got {dataset.classes}")


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size
