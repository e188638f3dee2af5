"""How well a layer is connected: the spectral gap of its pattern."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..storage.pattern import SparsityPattern

Array = np.ndarray[Any, np.dtype[Any]]


class SpectralGap(NamedTuple):
    """The two largest singular values of a layer's 0/1 matrix."""

    sigma1: float
    sigma2: float

    @property
    def gap(self) -> float:
        """sigma1 - sigma2: the wider, the better connected."""
        return self.sigma1 - self.sigma2

    @property
    def ratio(self) -> float:
        """sigma2 / sigma1: 0 for a dense layer, 1 for one in disconnected equal parts, or without connections."""
        return self.sigma2 / self.sigma1 if self.sigma1 else 1.0


def spectral_gap(pattern: SparsityPattern) -> SpectralGap:
    """Singular values σ1 and σ2 of the pattern's biadjacency matrix, in float64, to about nine digits."""
    matrix = pattern.to_scipy(np.ones(pattern.nnz))
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T.tocsr()
    size = matrix.shape[0]
    if size <= 256 or not pattern.nnz:
        squares = np.linalg.eigvalsh((matrix @ matrix.T).toarray()) if pattern.nnz else np.zeros(2)
        second, first = np.sqrt(np.maximum(np.concatenate([[0.0], squares])[-2:], 0.0))
        return SpectralGap(float(first), float(second))
    start = np.random.default_rng(0).standard_normal(size)
    turned = matrix.T.tocsr()

    def gram(x: Array) -> Any:
        return matrix @ (turned @ x)

    (first_square,), leading = _largest(gram, start)
    leading = leading[:, 0]
    # The first is subtracted, and the largest found again: Lanczos from one start finds a repeated value only once.
    (second_square,), _ = _largest(lambda x: gram(x) - first_square * (leading @ x) * leading, start)
    return SpectralGap(math.sqrt(first_square), math.sqrt(max(second_square, 0.0)))


def _largest(apply: Callable[[Array], Array], start: Array) -> Any:
    import scipy.sparse.linalg  # which takes a tenth of a command's start, and few commands need it

    operator = scipy.sparse.linalg.LinearOperator(
        (start.size, start.size), matvec=lambda x: apply(x.ravel()), dtype=float
    )
    return scipy.sparse.linalg.eigsh(operator, k=1, which="LA", v0=start, tol=1e-9)
