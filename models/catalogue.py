"""The models by name: how each is built, which of its layers are sparse, and the recipe it is trained by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from sparsecore.models.lenet300 import lenet300

from sparsecore.network import Network


@dataclass(frozen=True)
class Recipe:
    """What a run uses where the user does not say."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    warm_up: float


@dataclass(frozen=True)
class Model:
    """A model that the command line trains.

    Attributes
    ----------
    build : callable
        `build(wiring, classes=…, format=…, seed=…)` gives the network.
    sizes : callable
        From the shape of a sample to the sizes of the chain of sparse layers, inputs first.
    recipe : Recipe
        Tuned on a validation split of the training set.
    """

    build: Callable[..., Network]
    sizes: Callable[[tuple[int, ...]], tuple[int, ...]]
    recipe: Recipe


MODELS = {
    "lenet300": Model(
        lenet300,
        lambda shape: (prod(shape), 300, 100),
        Recipe(epochs=40, batch_size=128, lr=0.1, momentum=0.9, weight_decay=3e-4, schedule="cosine", warm_up=0.5),
    ),
}
