"""The models by name: how each is built, which of its layers are sparse, and the recipe it is trained by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from sparsecore.models import lenet5, lenet300, mlp, resnet, vgg

from sparsecore.network import Network
from sparsecore.topology.wiring import Link

Kind = Literal["dense", "sparse", "pruned", "moving"]
"""Of a run: all connections from first to last, wired sparse, pruned on its way, or with connections that move."""


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
    augment: str = "none"
    padding: int | None = None
    width: float | None = None


Recipes = Mapping[tuple[str | None, Kind | None], Recipe]


@dataclass(frozen=True)
class Model:
    """A model that the command line trains.

    Attributes
    ----------
    build : callable
        `build(wiring, shape, classes=…, every=…, format=…, seed=…)` gives the network for samples of a shape.
    links : callable
        `links(shape, classes=…, every=…, hidden=…)` gives the layers to be wired: the sparse ones, or every one.
    hidden : tuple of int
        Sizes of the hidden layers where the user does not say.
    recipe : Recipe
        Where no other is for the run. What was tuned on held-out images, and what was not, is in docs/.
    recipes : mapping of (str or None, Kind or None) to Recipe
        Other recipes, by the data set and the kind of run that they are for; None is any.
    own : tuple of str
        Options that `build` and `links` take besides.
    """

    build: Callable[..., Network]
    links: Callable[..., tuple[Link, ...]]
    hidden: tuple[int, ...]
    recipe: Recipe
    recipes: Recipes = field(default_factory=dict)
    own: tuple[str, ...] = ()

    def recipe_for(self, dataset: str, kind: Kind) -> Recipe:
        """The recipe of a run of this kind on this data set."""
        for key in (dataset, kind), (dataset, None), (None, kind):
            if key in self.recipes:
                return self.recipes[key]
        return self.recipe


FULLY_CONNECTED: tuple[Recipe, Recipes] = (
    Recipe(epochs=40, batch_size=128, lr=0.1, momentum=0.9, weight_decay=3e-4, schedule="cosine", warm_up=0.5),
    {
        (None, "pruned"): Recipe(
            epochs=80, batch_size=128, lr=0.15, momentum=0.9, weight_decay=6e-4, schedule="cosine", warm_up=1.0
        ),
        (None, "moving"): Recipe(
            epochs=80, batch_size=128, lr=0.15, momentum=0.9, weight_decay=6e-4, schedule="cosine", warm_up=0.5
        ),
    },
)
RESIDUAL = Recipe(
    epochs=40, batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine", warm_up=0.5,
    augment="4,flip", width=1.0,
)  # fmt: skip


def _resnet(depth: int) -> Model:
    return Model(
        lambda wiring, shape, **options: resnet.resnet(depth, wiring, in_shape=shape, **options),
        partial(resnet.links, depth), (), RESIDUAL, own=("width",),
    )  # fmt: skip


MODELS = {
    "lenet300": Model(
        lambda wiring, shape, **options: lenet300.lenet300(wiring, **options),
        lenet300.links,
        lenet300.HIDDEN,
        *FULLY_CONNECTED,
    ),
    "lenet5": Model(
        lambda wiring, shape, **options: lenet5.lenet5(wiring, in_shape=shape, **options),
        lenet5.links,
        lenet5.HIDDEN,
        Recipe(
            epochs=16, batch_size=128, lr=0.03, momentum=0.9, weight_decay=1e-4, schedule="cosine", warm_up=0.5,
            augment="1", padding=0,
        ),
        {
            ("mnist", "dense"): Recipe(
                epochs=10, batch_size=128, lr=0.02, momentum=0.9, weight_decay=5e-4, schedule="cosine", warm_up=0.5,
                augment="2", padding=0,
            ),
            # Tried in docs/measured/lenet5.md: with fewer connections, less decay and more epochs.
            ("cifar10", "dense"): Recipe(
                epochs=40, batch_size=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", warm_up=0.5,
                augment="4,flip", padding=2,
            ),
            ("cifar10", "pruned"): Recipe(
                epochs=100, batch_size=128, lr=0.05, momentum=0.9, weight_decay=3e-4, schedule="cosine", warm_up=0.5,
                augment="4,flip", padding=2,
            ),
            ("cifar10", "moving"): Recipe(
                epochs=150, batch_size=128, lr=0.05, momentum=0.9, weight_decay=3e-4, schedule="cosine", warm_up=0.5,
                augment="4,flip", padding=2,
            ),
            ("cifar10", None): Recipe(
                epochs=150, batch_size=128, lr=0.05, momentum=0.9, weight_decay=2e-4, schedule="cosine", warm_up=0.5,
                augment="4,flip", padding=2,
            ),
        },
        own=("padding",),
    ),
    "mlp": Model(
        lambda wiring, shape, **options: mlp.mlp(wiring, in_shape=shape, **options),
        mlp.links,
        mlp.HIDDEN,
        *FULLY_CONNECTED,
        own=("batch_norm",),
    ),
    "vgg11": Model(
        lambda wiring, shape, **options: vgg.vgg11(wiring, in_shape=shape, **options),
        vgg.links, (), replace(RESIDUAL, lr=0.05), own=("width",),
    ),
    **{f"resnet{depth}": _resnet(depth) for depth in resnet.DEPTHS},
}  # fmt: skip
