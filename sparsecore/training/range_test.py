"""A learning rate found by a short range test: what `--lr auto` does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from ..data import Dataset
from ..data.augmentation import Augmentation
from ..data.splits import stratified
from ..errors import OneLineError
from ..network import Network
from ..runtime.device import Device
from .evaluation import loss_of, store_of
from .optimizers import Adam, Optimizer
from .step import Step

STEPS, SMOOTHING, WORSE = 60, 0.8, 4.0
"""Steps at most, what a smoothed loss keeps of those before, and how many times its lowest ends the test."""
BELOW = 10.0
"""The rate is so many times less than the one with the lowest loss, which is next to those that diverge."""
SGD_RATES, ADAM_RATES = (1e-4, 10.0), (1e-6, 1.0)
"""Where a test begins and ends, at most."""
FALL = 0.02
"""The part of the first loss by which the lowest must be less: otherwise nothing was learned."""


class RangeTestError(OneLineError):
    """No rate was found that a network learns at; one line."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes
    ----------
    lr : float
        To train at, of two digits.
    rates, losses : tuple of float
        Of each step: its rate, and the mean loss of its batch, smoothed.
    """

    lr: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def range_test(
    network: Network, dataset: Dataset, optimizer: Optimizer, *, batch_size: int = 128, seed: int = 0,
    augment: Augmentation | None = None, loss: Any = None, steps: int = STEPS, device: Device | None = None,
) -> RangeTest:  # fmt: skip
    """Train a copy of a network for a few dozen steps, each at a larger rate, until its loss grows.

    The rate that is found is a tenth of the one where the smoothed loss is lowest (L. N. Smith, Cyclical learning rates
    for training neural networks, WACV 2017, arXiv:1506.01186; the division is fastai's). Neither the network nor the
    optimizer is changed; the same arguments give the same rate, whatever the number of threads.

    Parameters
    ----------
    network : Network
        As a run would begin with it.
    dataset : Dataset
        Its training samples are used, no others.
    optimizer : Optimizer
        Of a run that has not begun. Its own rate does not matter.
    batch_size : int
    seed : int
        Of which samples are used and of their order.
    augment : Augmentation, optional
    loss : Loss or callable, optional
        As `Trainer` takes it.
    steps : int
        At most.
    device : Device, optional
        The network's if not given.

    Raises
    ------
    RangeTestError
        If the loss falls at none of the rates.
    """
    rates = np.geomspace(*(ADAM_RATES if isinstance(optimizer, Adam) else SGD_RATES), steps)
    trial, mean = copy.deepcopy(network), 0.0
    smoothed: list[float] = []
    trial.to(device if device is not None else network.device)
    for k, found in enumerate(_losses(trial, dataset, optimizer, rates, batch_size, seed, augment, loss), 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * found
        now = mean / (1 - SMOOTHING**k)
        if not isfinite(now) or now > WORSE * min(smoothed, default=now):
            break
        smoothed.append(now)
    best = int(np.argmin(smoothed)) if smoothed else 0
    if not smoothed or smoothed[best] > (1 - FALL) * smoothed[0]:
        raise RangeTestError(
            f"expected a rate from {rates[0]:g} to {rates[-1]:g} at which the loss falls, found none in "
            f"{len(smoothed)} steps (loss {smoothed[0]:.4g} at first): give a number"
            if smoothed else "expected a finite loss in the first step, got none: give a number"
        )  # fmt: skip
    return RangeTest(float(f"{rates[best] / BELOW:.2g}"), tuple(rates[: len(smoothed)].tolist()), tuple(smoothed))


def _losses(
    trial: Network, dataset: Dataset, optimizer: Optimizer, rates: Any, batch_size: int, seed: int,
    augment: Augmentation | None, loss: Any,
) -> Iterator[float]:  # fmt: skip
    """The mean loss of one step after another, each at its rate; it changes the network."""
    rule, train = copy.deepcopy(optimizer), dataset.train
    rule.begin_anew()
    wanted = len(rates) * batch_size
    if wanted < len(train):
        train = train.take(stratified(train.y, wanted, seed))
    batches = store_of(trial, train, dataset.normalisation, trial.device, augment, answers=dataset.answers)
    step = Step(trial, batches, rule, loss=loss if loss is not None else loss_of(dataset.answers))
    batch = min(batch_size, len(train))
    whole = len(train) // batch  # of an epoch: all batches but one that is smaller
    for k, rate in enumerate(rates):
        epoch, place = divmod(k, whole)
        if place == 0:
            batches.shuffle(seed, epoch)
        rule.follow(float(rate))
        step.run(place * batch, batch)
        yield step.totals().mean_loss
