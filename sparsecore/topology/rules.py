"""Sparsity patterns made from rules: dense and uniform random layers, expanders, and whole filters.

Pure functions. Random ones draw only from the generator that they are given. Memory grows with the connections kept,
not with the dense size of the layer. A pattern's shape is (out_features, in_features).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from ..storage.indices import checked_shape, index_dtype
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair, pair

Array = np.ndarray[Any, np.dtype[Any]]
ExpanderKind = Literal["fixed", "bernoulli", "explicit"]
"""What `expander` calls its ways of choosing connections."""


def dense(out_features: int, in_features: int) -> SparsityPattern:
    """Every connection: sparsity 0."""
    return SparsityPattern.full((out_features, in_features))


def uniform_random(out_features: int, in_features: int, sparsity: float, rng: np.random.Generator) -> SparsityPattern:
    """A uniformly random choice of exactly round((1 - sparsity)·out_features·in_features) connections."""
    out_features, in_features = checked_shape((out_features, in_features))
    possible = out_features * in_features
    return _random_subset(out_features, in_features, round(_kept(sparsity) * possible), _checked_rng(rng))


def expander(
    out_features: int,
    in_features: int,
    sparsity: float,
    kind: ExpanderKind = "fixed",
    rng: np.random.Generator | None = None,
) -> SparsityPattern:
    """A sparse but well-connected layer.

    - ``"fixed"``: random with the same fan-in in every row, round((1 - sparsity)·in_features) but at least 1, and
      fan-outs that differ by at most 1.
    - ``"bernoulli"``: each connection kept independently with probability 1 - sparsity.
    - ``"explicit"``: the degrees of ``"fixed"``, by construction and without chance. As in Gallager's codes, the
      larger side's nodes are listed in one order after another, and each node of the smaller side takes the next
      block. Listing t holds the Möbius images (t + 1)/x - t² of x = 0, 1, 2, … modulo the first prime above the
      number of nodes; maps of this kind generate known explicit expanders. No bound is proved for this arrangement:
      `spectral_gap` measures it, and its ratio comes out near that of a large random regular graph,
      (√(fan_in - 1) + √(fan_out - 1)) / √(fan_in·fan_out).

    Parameters
    ----------
    out_features, in_features : int
    sparsity : float
        Fraction removed, at least 0 and below 1.
    kind : {"fixed", "bernoulli", "explicit"}
    rng : numpy.random.Generator, optional
        Not needed by ``"explicit"``, and not used by it.

    References
    ----------
    A. Prabhu, G. Varma, A. Namboodiri, Deep Expander Networks: Efficient Deep Networks from Graph Theory, ECCV 2018
    (arXiv:1711.08757): layers as random or explicit expanders. R. G. Gallager, Low-Density Parity-Check Codes, 1962:
    regular bipartite graphs from permuted blocks. J. Eichenauer-Herrmann, Mathematics of Computation 60, 1993:
    inverses modulo a prime as explicit pseudo-random numbers. S. Hoory, N. Linial, A. Wigderson, Expander graphs and
    their applications, Bulletin of the AMS 43, 2006: expanders from x + 1 and 1/x modulo a prime.
    """
    out_features, in_features = checked_shape((out_features, in_features))
    kept = _kept(sparsity)
    if kind not in get_args(ExpanderKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(ExpanderKind))}, got {kind!r}")
    larger = max(out_features, in_features)
    fan_in = max(1, round(kept * in_features))
    if kind == "explicit":
        return _regular(out_features, in_features, fan_in, _moebius_orders(larger))
    generator = _checked_rng(rng)
    if kind == "bernoulli":
        connections = int(generator.binomial(out_features * in_features, kept))
        return _random_subset(out_features, in_features, connections, generator)
    return _regular(out_features, in_features, fan_in, lambda turn: generator.permutation(larger))


def filters(channels: SparsityPattern, kernel_size: int | Pair) -> SparsityPattern:
    """The pattern of a convolution whose filters are stored whole or not at all.

    Rows with the same input channels share all their columns, which kernels use.

    Parameters
    ----------
    channels : SparsityPattern
        Shape (out_channels, in_channels): which output channels read which input channels.
    kernel_size : int or (int, int)
        Height and width of a filter.

    Returns
    -------
    SparsityPattern
        Shape (out_channels, in_channels · height · width), as `SparseConv2d` takes it.
    """
    height, width = pair("kernel_size", kernel_size)
    pixels, (out_channels, in_channels) = height * width, channels.shape
    columns = channels.indices.astype(np.int64)[:, np.newaxis] * pixels + np.arange(pixels)
    indptr = channels.indptr.astype(np.int64) * pixels
    return SparsityPattern((out_channels, in_channels * pixels), indptr, columns.reshape(-1))


def _kept(sparsity: float) -> float:
    if not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity, the fraction removed, must be at least 0 and below 1, got {sparsity!r}")
    return 1 - float(sparsity)


def _checked_rng(rng: np.random.Generator | None) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator such as np.random.default_rng(seed), got {rng!r}")
    return rng


def _random_subset(out_features: int, in_features: int, connections: int, rng: np.random.Generator) -> SparsityPattern:
    positions = _distinct(out_features * in_features, connections, rng)
    row_starts = np.arange(out_features + 1, dtype=np.int64) * in_features
    indptr = np.searchsorted(positions, row_starts)
    positions -= np.repeat(row_starts[:-1], np.diff(indptr))
    return SparsityPattern((out_features, in_features), indptr, positions)


def _distinct(total: int, count: int, rng: np.random.Generator) -> Array:
    """`count` distinct integers below `total`, sorted; every set of them is equally likely."""
    if total > np.iinfo(np.int64).max:
        raise ValueError(f"a layer with {total:,} possible connections is too large to draw from")
    if count > total // 2:
        return np.delete(np.arange(total), _distinct(total, total - count, rng))
    drawn = np.empty(0, dtype=np.int64)
    while drawn.size < count:  # drawn with replacement, and a little too many: nearly always once is enough
        missing = count - drawn.size
        more = rng.integers(total, size=missing + missing * count // total + 16)
        drawn = np.sort(np.concatenate([drawn, more]))
        drawn = drawn[np.concatenate([[True], drawn[1:] != drawn[:-1]])]
    surplus = rng.choice(drawn.size, drawn.size - count, replace=False, shuffle=False)
    return np.delete(drawn, surplus)


def _regular(out_features: int, in_features: int, fan_in: int, order: Callable[[int], Array]) -> SparsityPattern:
    """Rows of one fan-in and columns of one fan-out (within 1), from orders of the larger side's nodes.

    The orders are laid end to end, and each node of the smaller side takes the next block of them. Each order has every
    node of the larger side once, which balances their connections whatever the sizes.
    """
    blocks, nodes = sorted((out_features, in_features))
    if not blocks:
        return SparsityPattern.full((out_features, in_features))
    connections = out_features * fan_in
    starts = np.arange(blocks + 1, dtype=np.int64) * connections // blocks
    met = np.empty(connections, dtype=index_dtype(nodes))
    for turn, begin in enumerate(range(0, connections, nodes)):
        block = int(np.searchsorted(starts, begin, side="right")) - 1
        next_nodes = _avoiding(order(turn), met[starts[block] : begin], int(starts[block + 1]) - begin)
        met[begin : begin + nodes] = next_nodes[: connections - begin]
    by_block = SparsityPattern.from_coo((blocks, nodes), np.repeat(np.arange(blocks), np.diff(starts)), met)
    return by_block if blocks == out_features else by_block.transpose()[0]


def _avoiding(order: Array, taken: Array, needed: int) -> Array:
    """`order`, with its first `needed` nodes that are not in `taken` moved to the front.

    For a block that began in the order before, and must not have a node twice.
    """
    if not taken.size:
        return order
    free = np.ones(order.size, dtype=np.bool_)
    free[taken] = False
    front = np.flatnonzero(free[order])[:needed]
    return np.concatenate([order[front], np.delete(order, front)])


def _moebius_orders(nodes: int) -> Callable[[int], Array]:
    prime = max(nodes + 1, 3)
    while any(prime % divisor == 0 for divisor in range(2, math.isqrt(prime) + 1)):
        prime += 1
    inverses, square = np.ones(prime, dtype=np.int64), np.arange(prime, dtype=np.int64)
    for bit in bin(prime - 2)[:1:-1]:  # x^(prime - 2), by squaring: Fermat's inverse, with 0 for 0
        if bit == "1":
            inverses = inverses * square % prime
        square = square * square % prime

    def order(turn: int) -> Array:
        images = ((turn + 1) * inverses - turn * turn) % prime
        return images[images < nodes]

    return order
