"""The networks of the study and the recipes they are trained by, all pinned here: in full, or quickly for a look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .run import Run, prune, train

QUICK_EPOCHS = {"L300": 5, "L5": 2, "R20": 1}


@dataclass(frozen=True)
class Net:
    """A network on a data set, and the runs that studies make of it.

    Attributes
    ----------
    name : str
        The slides', as in `slides.py`.
    title : str
        Of its tables.
    model, dataset : str
        As on the command line.
    samples : int
        For training.
    recipe : mapping
        Options of every run.
    seconds : (float, float)
        Estimate of an epoch's training on one core beside another busy one: without connections in the sparse layers,
        and what they add when dense.
    unstructured : float
        What a connection takes in a layer of scattered ones, over one in a dense layer.
    every : int
        Steps between two prunings, 200 as the slides had it, in proportion where a run is cut short.
    """

    name: str
    title: str
    model: str
    dataset: str
    samples: int
    recipe: Mapping[str, Any]
    seconds: tuple[float, float]
    unstructured: float
    every: int = 200

    @property
    def steps(self) -> int:
        """Of a whole run."""
        return math.ceil(self.samples / self.recipe["batch_size"]) * int(self.recipe["epochs"])

    def train(self, source: Run | None = None, **options: Any) -> Run:
        """A run by this network's recipe, with these options; None leaves one out."""
        return train(self.model, self.dataset, dict(self.recipe), source, **options)

    def dense(self, **options: Any) -> Run:
        """All connections: what several studies start from, and train once."""
        return self.train(dense=True, **options)

    def one_time(self, removed: float) -> Run:
        """The trained dense network without its smallest weights, layer by layer, and without more training."""
        return prune(self.dense(), sparsity=fraction(removed))

    def iterative(self, removed: float, every: int | None = None, **options: Any) -> Run:
        """Pruned while it trains: Zhu and Gupta's cubic curve from a twentieth of the run to its half."""
        goal = {"prune": "gradual", "prune_to": fraction(removed), "prune_exponent": 3.0}
        when = {
            "prune_start": round(0.05 * self.steps), "prune_end": round(0.5 * self.steps),
            "prune_every": every or self.every,
        }  # fmt: skip
        return self.dense(**goal | when | options)

    def retrained(self, structure: Run, values: str = "initial", **options: Any) -> Run:
        """Trained anew on the structure that pruning left, from the values of its beginning or from fresh ones."""
        return self.train(structure, rewind=values, padding=None, **options)


@dataclass(frozen=True, kw_only=True)
class LeNet(Net):
    """A network with two sparse layers that follow one another.

    Attributes
    ----------
    hidden : tuple of int
        Sizes of its hidden layers: neurons or channels. Random wirings that are wider widen `hidden[wide]`, which lies
        between the two sparse layers.
    wide : int
    first : int
        The first of the two sparse layers, of all that have connections.
    sparse, positions : (int, int)
        Connections of the two sparse layers where they are dense, and at how many places each is used.
    """

    hidden: tuple[int, ...]
    wide: int
    first: int
    sparse: tuple[int, int]
    positions: tuple[int, int]

    def random(self, factor: float, kind: str = "bernoulli") -> Run:
        """Wired at random: with a fraction of the connections, or with as many in a layer that is wider by a factor."""
        if factor == 1:
            return self.dense()
        kept = factor if factor < 1 else 1 / factor
        return self.train(expander=kind, sparsity=round(1 - kept, 6), hidden=self.widened(factor))

    def widened(self, factor: float) -> str | None:
        """Hidden sizes with the layer between the two sparse ones wider by a factor; None if it is not above 1."""
        if factor <= 1:
            return None
        sizes = list(self.hidden)
        sizes[self.wide] = round(sizes[self.wide] * factor)
        return ",".join(map(str, sizes))

    def radix(self, radices: tuple[int, int], widths: str | None = None) -> Run:
        """Wired as a RadiX-Net of one list of radices."""
        return self.train(radix=",".join(map(str, radices)), widths=widths)

    def kept(self, radices: tuple[int, int]) -> float:
        """The fraction of its connections that the sparse layers keep as a RadiX-Net."""
        nodes = radices[0] * radices[1]
        kept = sum(size * radix / nodes for size, radix in zip(self.sparse, radices, strict=True))
        return round(kept / sum(self.sparse), 3)


def fraction(percent: float) -> str:
    """A percentage as options have it."""
    return f"{percent / 100:g}"


SLIDES_RECIPE: dict[str, Any] = {"batch_size": 100, "lr": 0.2, "momentum": 0.0, "weight_decay": 0.0, "warm_up": 0.0}
"""The slides' plain SGD; the rate falls to 0.1 and 0.05, each after a third of the run."""

# Fewer epochs than the slides' 25 and 60, for time's sake. On CIFAR-10 a border of one pixel gives LeNet-5's fully
# connected layer 1,800 inputs, as padded crops of 24×24 would, for two thirds of the time that two pixels take.
LENET300 = LeNet(
    "L300", "LeNet-300-100, MNIST", "lenet300", "mnist", 60_000,
    {"epochs": 20, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 3e-4, "schedule": "cosine",
     "warm_up": 0.5, "augment": "none"},
    hidden=(300, 100), wide=0, first=0, sparse=(235_200, 30_000), positions=(1, 1), seconds=(0.06, 0.76),
    unstructured=1.35,
)  # fmt: skip
LENET5 = LeNet(
    "L5", "LeNet-5, MNIST", "lenet5", "mnist", 60_000,
    {"epochs": 6, "batch_size": 128, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine",
     "warm_up": 0.5, "augment": "1", "padding": 0},
    hidden=(20, 50, 500), wide=1, first=1, sparse=(25_000, 400_000), positions=(64, 1), seconds=(1.7, 8.0),
    unstructured=1.8,
)  # fmt: skip
LENET5_CIFAR = LeNet(
    "L5 CIFAR-10", "LeNet-5, CIFAR-10", "lenet5", "cifar10", 50_000,
    {"epochs": 20, "batch_size": 128, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine",
     "warm_up": 0.5, "augment": "2,flip", "padding": 1},
    hidden=(20, 50, 500), wide=1, first=1, sparse=(25_000, 900_000), positions=(169, 1), seconds=(5.1, 14.7),
    unstructured=1.8,
)  # fmt: skip
RESNET20 = Net(
    "R20", "ResNet-20, CIFAR-10", "resnet20", "cifar10", 50_000,
    {"epochs": 30, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine",
     "warm_up": 0.5, "augment": "4,flip", "width": 1.0},
    seconds=(16.0, 150.0), unstructured=1.8,
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """The networks that are studied, and how many columns their tables have.

    Attributes
    ----------
    nets : tuple of Net
    quick : bool
        Fewer columns.
    """

    nets: tuple[Net, ...]
    quick: bool = False

    def choose(self, *names: str) -> list[LeNet]:
        """Those of these LeNets that are studied."""
        return [net for net in self.lenets if net.name in names]

    @property
    def lenets(self) -> list[LeNet]:
        """All LeNets that are studied."""
        return [net for net in self.nets if isinstance(net, LeNet)]

    @property
    def deep(self) -> list[Net]:
        """The deep networks that are studied."""
        return [net for net in self.nets if not isinstance(net, LeNet)]

    def some(self, values: tuple[float, ...], quick: tuple[float, ...]) -> tuple[float, ...]:
        """The columns of a table: all, or those for a look."""
        return quick if self.quick else values


def full(datasets: tuple[str, ...] = ("mnist", "cifar10")) -> Scale:
    """What the report is made of."""
    return Scale(tuple(net for net in (LENET300, LENET5, LENET5_CIFAR, RESNET20) if net.dataset in datasets))


_QUARTER = replace(
    RESNET20, title="ResNet-20 at ¼ width, CIFAR-10",
    recipe={**RESNET20.recipe, "width": 0.25, "batch_size": 32, "lr": 0.05}, seconds=(8.0, 20.0),
    every=2400,  # a look needs few prunings, each of which is evaluated twice: that took longer than the training
)  # fmt: skip


def quick(dataset: str = "mnist-subset", samples: int = 8_000) -> Scale:
    """Every study on a few thousand digits and for a few epochs, to see that all is in order."""
    nets: list[Net] = []
    for net in LENET300, LENET5, _QUARTER:
        title = f"{net.title.split(',')[0]}, {samples:,} digits"
        nets.append(replace(_shortened(net, samples), dataset=dataset, title=title))
    return Scale(tuple(nets), quick=True)


def by_slides(net: Net) -> dict[str, Any]:
    """The slides' recipe for a run as long as this network's."""
    third = max(-(-int(net.recipe["epochs"]) // 3), 1)
    return SLIDES_RECIPE | {"schedule": f"step:{third}:0.5"}


def _shortened(net: Net, samples: int) -> Net:
    short = replace(net, samples=samples, recipe=dict(net.recipe) | {"epochs": QUICK_EPOCHS[net.name]})
    share = samples / net.samples
    return replace(
        short, every=max(round(net.every * short.steps / net.steps), 1),
        seconds=(net.seconds[0] * share, net.seconds[1] * share),
    )  # fmt: skip
