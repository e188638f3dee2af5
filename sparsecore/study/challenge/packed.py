"""A layer as the challenge's kernel walks it: rows of one class side by side, and a class's columns only once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...kernels.layout import Layout
from ...storage.plan import layout_of
from .networks import Weights

Array = NDArray[Any]


class Packed(NamedTuple):
    """A layer in an order of its own.

    Attributes
    ----------
    layout : Layout
        Its row i is the layer's row `order[i]`.
    data : float32 array, shape (nnz,)
        A value for each connection, in that order of rows.
    order : int32 array, shape (rows,)
    """

    layout: Layout
    data: Array
    order: Array

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (*self.layout[:-1], self.data, self.order)
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def packed(weights: Weights, place: Array, lines: int) -> Packed:
    """Order a layer's rows so that those that share their columns lie side by side, and keep these columns once.

    Whoever reads a class's columns finds them behind those of the class before, and values follow each other as they
    are used: nothing has to be fetched from anywhere else. What a row sums up, and in which order, stays.

    Parameters
    ----------
    weights : Weights
    place : integer array, shape (columns,)
        Where each input lies.
    lines : int
        From one input to the next.
    """
    pattern = weights.pattern
    found = layout_of(pattern, pattern.indices, 0)
    groups = np.argsort(found.runs, kind="stable")
    sizes, length = np.diff(found.starts)[groups], found.cuts[-1][groups]
    order = found.rows[_ranges(found.starts[groups], sizes)]
    fan_in = pattern.fan_in[order]
    classes, own = np.unique(found.runs[groups], return_inverse=True)
    longest = np.zeros(len(classes), np.int64)
    np.maximum.at(longest, own, length)  # rows without columns may seem to begin where another class does
    offsets = place[pattern.indices[_ranges(classes, longest)]] * lines
    layout = Layout(
        _edges(fan_in), np.arange(len(order), dtype=np.int32), _edges(sizes).astype(np.int32),
        _edges(longest)[:-1][own], np.stack([np.zeros_like(length), length]), _edges(length.astype(np.int64) * sizes),
        offsets.astype(np.int32), found.most_group,
    )  # fmt: skip
    return Packed(layout, weights.data[_ranges(pattern.indptr[order], fan_in)], order)


def _edges(lengths: Array) -> Array:
    """Where stretches of these lengths begin, one behind the other, and where the last one ends."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=edges[1:])
    return edges


def _ranges(starts: Array, lengths: Array) -> Array:
    """The numbers from each start on, as many as its length, one range after the other."""
    edges = _edges(lengths)
    return np.arange(edges[-1]) + np.repeat(starts - edges[:-1], lengths)
