"""What is timed with convolutions: LeNet-5 and a batch to learn, and single layers."""

from __future__ import annotations

from math import prod

import numpy as np
from sparsecore.models.lenet5 import lenet5, links

from sparsecore.layers.conv import SparseConv2d
from sparsecore.network import Network
from sparsecore.topology.wiring import Link, Wiring, full

from .options import ConvShape
from .problem import Problem

RADICES = {0.894: ((10, 5),)}
"""LeNet-5's RadiX layers over weights, by their sparsity: the sparsest that fit."""

WIDE, WIDE_BATCH = ConvShape(128, 128, 28), 32
SHAPES = (
    ConvShape(3, 16, 32), ConvShape(16, 16, 32), ConvShape(16, 32, 32, stride=2), ConvShape(16, 32, 32, 2, kernel=1),
    ConvShape(32, 32, 16), ConvShape(32, 64, 16, stride=2), ConvShape(64, 64, 8), ConvShape(64, 64, 32),
    ConvShape(64, 128, 16), WIDE,
)  # fmt: skip
"""ResNet-20's convolutions, and wider ones."""


class ConvProblem(Problem):
    """LeNet-5 of Caffe's sizes, and a batch of images to learn; `x` has shape (batch, 784)."""

    @property
    def sizes(self) -> list[int]:
        """Features of the input, and what every layer gives in one position."""
        return [self.x.shape[1], *(pattern.shape[0] for pattern in self.patterns)]

    @property
    def flops(self) -> int:
        """Of one step: forward, dW and, in all layers but the first, dX, at every position."""
        first, *others = (p.nnz * at for p, at in zip(self.patterns, (24 * 24, 8 * 8, 1, 1), strict=True))
        return 2 * len(self.x) * (2 * first + 3 * sum(others))

    def network(self) -> Network:
        """The same network as one of ours."""
        network = lenet5(self.patterns[1:3])
        for k, weight in zip(network.patterns, self.weights, strict=True):
            network[k].params["weight"][:] = weight
        return network


def lenet5_problem(
    topology: str, sparsity: float, batch: int, *, rate: float = 1e-3, seed: int = 0
) -> ConvProblem:  # fmt: skip
    """LeNet-5 with its first and last layer dense, and a random batch; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    shape = (1, 28, 28)
    first, *_, last = links(shape, every=True)
    patterns = [full(first), *wiring(topology, sparsity).patterns(links(shape), seed)[0], full(last)]
    values = lenet5(patterns[1:3], seed=seed)
    weights = [values[k].params["weight"].copy() for k in values.patterns]
    x = rng.standard_normal((batch, prod(shape)), np.float32)
    return ConvProblem(patterns, weights, x, rng.integers(10, size=batch, dtype=np.int32), rate)


def wiring(topology: str, sparsity: float) -> Wiring:
    """How layers are wired under a benchmark's names."""
    if topology == "dense":
        return Wiring()
    if topology == "radix":
        return Wiring("radix", RADICES[sparsity], granularity="weight")
    if topology == "channel":
        return Wiring("expander", sparsity=sparsity, granularity="channel")
    return Wiring("random", sparsity=sparsity)


def conv_layer(shape: ConvShape, topology: str, sparsity: float) -> SparseConv2d:
    """A convolution of this shape."""
    sides = shape.kernel, shape.kernel
    (pattern,), _ = wiring(topology, sparsity).patterns([Link(shape.channels, shape.filters, sides)], 0)
    images = shape.channels, shape.side, shape.side
    padding, rng = shape.kernel // 2, np.random.default_rng(0)
    return SparseConv2d(pattern, images, shape.kernel, shape.stride, padding, rng=rng)
