"""What is timed: patterns, and a training problem that is the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.layers.initial import initial_values
from sparsecore.layers.linear import SparseLinear
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, fit_radix_net, uniform_random

Floats = NDArray[np.float32]

MODELS = {"lenet300": (784, 300, 100, 10)}
"""Sizes of the layers; all are wired but the last, which is dense."""

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.99)
RADIX = {0.5: 2, 0.75: 4, 0.9: 10}
"""Radix of both sparse layers of a RadiX-Net, which keep one connection in so many; larger ones do not fit."""


@dataclass(frozen=True)
class Problem:
    """A network and a batch to learn.

    Attributes
    ----------
    patterns : list of SparsityPattern
        One a layer; ReLU between layers, softmax cross-entropy behind the last.
    weights : list of float32 arrays
        Initial values in CSR order. Biases begin at zero.
    x : float32 array, shape (batch, in_features)
    labels : int32 array, shape (batch,)
    rate : float
        Of plain stochastic gradient descent.
    """

    patterns: Sequence[SparsityPattern]
    weights: Sequence[Floats]
    x: Floats
    labels: NDArray[np.int32]
    rate: float

    @property
    def sizes(self) -> list[int]:
        """Features of the input and of every layer."""
        return [self.patterns[0].shape[1], *(pattern.shape[0] for pattern in self.patterns)]

    @property
    def connections(self) -> int:
        return sum(pattern.nnz for pattern in self.patterns)

    @property
    def flops(self) -> int:
        """Of one step: forward, dW and, in all layers but the first, dX."""
        return 2 * len(self.x) * (3 * self.connections - self.patterns[0].nnz)

    def network(self) -> Network:
        """The same network as one of ours."""
        last = len(self.patterns) - 1
        return Network(
            SparseLinear(pattern, data, relu=k < last)
            for k, (pattern, data) in enumerate(zip(self.patterns, self.weights, strict=True))
        )


def training_problem(
    sizes: Sequence[int], topology: str, sparsity: float, batch: int, *, rate: float = 1e-3, seed: int = 0
) -> Problem:
    """A network of these sizes and a random batch; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    patterns = [*wiring(sizes[:-1], topology, sparsity, rng), dense(sizes[-1], sizes[-2])]
    weights = [initial_values(pattern, rng) for pattern in patterns]
    x = rng.standard_normal((batch, sizes[0]), np.float32)
    return Problem(patterns, weights, x, rng.integers(sizes[-1], size=batch, dtype=np.int32), rate)


def wiring(
    sizes: Sequence[int], topology: str, sparsity: float, rng: np.random.Generator
) -> Sequence[SparsityPattern]:
    """Patterns between layers of these sizes."""
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    if topology == "dense":
        return [dense(*shape) for shape in pairs]
    if topology == "random":
        return [uniform_random(*shape, sparsity, rng) for shape in pairs]
    return fit_radix_net([[RADIX[sparsity]] * len(pairs)], sizes).patterns


def layer_topologies(shape: tuple[int, int], sparsities: Sequence[float]) -> list[tuple[str, float]]:
    """The ways a single layer is wired for timing: dense, random, and as part of a RadiX-Net if one has its size."""
    radix = [("radix", sparsity) for sparsity in sparsities if _radix(shape, sparsity)]
    return [("dense", 0.0), *(("random", sparsity) for sparsity in sparsities), *radix]


@lru_cache(maxsize=8)
def layer_pattern(shape: tuple[int, int], topology: str, sparsity: float) -> SparsityPattern:
    """The pattern of a single layer."""
    if topology == "dense":
        return dense(*shape)
    if topology == "random":
        return uniform_random(*shape, sparsity, np.random.default_rng(0))
    radices = [_radix(shape, sparsity), round(1 / (1 - sparsity))]
    return fit_radix_net([radices], (shape[1], shape[0], shape[0])).patterns[0]


def _radix(shape: tuple[int, int], sparsity: float) -> int:
    """The largest radix of a first layer that keeps this share of connections and fits, or 0."""
    one_in = round(1 / (1 - sparsity))
    return next((radix for radix in (10, 5, 2) if radix * one_in <= min(shape)), 0)


def as_dense(pattern: SparsityPattern, data: Any) -> Floats:
    """The matrix (out_features, in_features) of these values."""
    if pattern.is_full:
        return np.asarray(data, np.float32).reshape(pattern.shape)
    return np.asarray(pattern.to_scipy(data).toarray(), np.float32)
