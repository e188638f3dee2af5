"""How well a network does on a split."""

from __future__ import annotations

from math import prod
from typing import Any

from ..data import Split
from ..data.augmentation import Augmentation
from ..data.batches import Batches
from ..data.normalisation import Normalisation
from ..network import Network
from ..runtime.copies import Whole
from ..runtime.device import Device
from ..storage.sizes import fits, spell
from .divergence import NotFiniteError, broken_layers
from .step import Step, Totals

BATCH = 1000
"""Samples evaluated at once, or fewer in a deep network."""


class Evaluation(Whole):
    """A network on a split, in batches: the same numbers in a training run and afterwards.

    Parameters
    ----------
    network : Network
    split : Split
        With at most as many classes as the network has outputs; see `check_fit`.
    normalisation : Normalisation
    device : Device
    """

    def __init__(self, network: Network, split: Split, normalisation: Normalisation, device: Device) -> None:
        self._batches = store_of(network, split, normalisation, device)
        self._step = Step(network, self._batches, None, device)

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
        samples = len(self._batches)
        self._step.totals()  # what an interrupted evaluation counted
        batch = network.samples_at_once(BATCH)
        for start in range(0, samples, batch):
            self._step.run(start, min(batch, samples - start))
        return self._step.totals()


def store_of(
    network: Network, split: Split, normalisation: Normalisation, device: Device, augment: Augmentation | None = None
) -> Batches:
    """The batches of a split, normalised and shaped as a network takes them.

    Raises ValueError where the data's samples are not of the network's shape, or not of the kind it was trained on.
    """
    shape = network.layers[0].in_shape
    if not fits(normalisation.shape, shape):
        raise ValueError(f"{network!r}: takes samples of {spell(shape)}, got {spell(normalisation.shape)}")
    if normalisation.dtype not in (None, split.x.dtype.name):
        raise ValueError(f"{network!r}: was trained on samples of {normalisation.dtype}, got {split.x.dtype}")
    return Batches(split, shape, normalisation.mean, normalisation.std, device, network.dtype, augment)


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
