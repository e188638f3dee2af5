"""What is timed of deep networks: a model by name, wired in some way, and a batch of images to learn."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sparsecore.models.catalogue import MODELS

from sparsecore.network import Network
from sparsecore.topology.wiring import Wiring

from .conv_problem import ConvProblem
from .problem import Floats, Problem

SHAPE, CLASSES = (3, 32, 32), 10

NETWORKS: dict[str, tuple[tuple[str, float], ...]] = {
    "resnet20": (("dense", 0.0), ("random", 0.9), ("random", 0.95), ("erk", 0.9), ("rows:4", 0.9)),
    "vgg11": (("dense", 0.0), ("random", 0.9), ("random", 0.95), ("rows:4", 0.9)),
}
"""Topology and sparsity of the networks to time, by model."""


@dataclass(frozen=True)
class DeepProblem:
    """A network, made anew from the same seed each time, and a batch of images.

    Attributes
    ----------
    model, topology, sparsity
        What it is and how it is wired.
    x : float32 array, shape (batch, 3072)
    labels : int32 array, shape (batch,)
    rate : float
        Of plain stochastic gradient descent.
    width : float
        What multiplies all channels.
    """

    model: str
    topology: str
    sparsity: float
    x: Floats
    labels: NDArray[np.int32]
    rate: float = 1e-2
    width: float = 1.0

    @property
    def sizes(self) -> list[int]:
        """Features of the input, and classes."""
        return [self.x.shape[1], CLASSES]

    def network(self) -> Network:
        """The network as one of ours."""
        known, wiring = MODELS[self.model], _wiring(self.topology, self.sparsity)
        patterns, _ = wiring.patterns(known.links(SHAPE, classes=CLASSES, width=self.width), 0)
        return known.build(patterns, SHAPE, classes=CLASSES, seed=0, width=self.width)

    @property
    def connections(self) -> int:
        """Of all layers."""
        return self.network().connections

    @property
    def flops(self) -> int:
        """Of one step's products: forward, dW and, in all layers but the first, dX, at every position."""
        network = self.network()
        work = [pattern.nnz * prod(network[path].out_shape[1:]) for path, pattern in network.patterns.items()]
        return 2 * len(self.x) * (3 * sum(work) - work[0])


AnyProblem = Problem | ConvProblem | DeepProblem
"""A network and a batch, as a step is made from."""


def deep_problem(model: str, topology: str, sparsity: float, batch: int, width: float = 1.0) -> DeepProblem:
    """A network and a random batch; the same for the same arguments."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, prod(SHAPE)), np.float32)
    return DeepProblem(model, topology, sparsity, x, rng.integers(CLASSES, size=batch, dtype=np.int32), width=width)


def _wiring(topology: str, sparsity: float) -> Wiring:
    options: dict[str, Any] = {"distribution": "erk"} if topology == "erk" else {}
    if ":" in topology:
        options = {"granularity": topology}
    return Wiring() if topology == "dense" else Wiring("random", sparsity=sparsity, **options)
