"""Places without a connection, and the pattern that is left when some connections go and others come."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .indices import index_dtype
from .pattern import SparsityPattern

Integers = NDArray[np.integer]
Mask = NDArray[np.bool_]


class Places(NamedTuple):
    """Positions in a layer's matrix, in order, row by row.

    Attributes
    ----------
    rows, columns : integer arrays of one length
    """

    rows: Integers
    columns: Integers

    def pattern(self, shape: tuple[int, int]) -> SparsityPattern:
        """These places as connections."""
        indptr = np.searchsorted(self.rows, np.arange(shape[0] + 1))
        return SparsityPattern._from_valid(shape, indptr, self.columns)

    def where(self, mask: Mask) -> Places:
        """Those where a boolean array is true."""
        from ..kernels.cpu.change import pick_places

        count = int(np.count_nonzero(mask))
        found = Places(np.empty(count, self.rows.dtype), np.empty(count, self.columns.dtype))
        pick_places(mask, self.rows, self.columns, *found)
        return found


def free_places(pattern: SparsityPattern, edges: Integers, counts: Integers, key: int) -> Places:
    """Draw places without a connection, all equally likely and none twice.

    Parameters
    ----------
    pattern : SparsityPattern
    edges : int64 array, shape (stretches + 1,)
        Stretch s is rows `edges[s]` to `edges[s + 1]`.
    counts : int64 array, shape (stretches,)
        How many to draw from each stretch, at most as many as are free.
    key : int
        From 0 to 2**64 − 1. The same key draws the same places.
    """
    drawn = free_pattern(pattern, edges, counts, key)
    return Places(drawn.rows, drawn.indices)


def free_pattern(pattern: SparsityPattern, edges: Integers, counts: Integers, key: int) -> SparsityPattern:
    """The same places as connections."""
    from ..kernels.cpu.change import draw_free  # compiling waits until a structure changes

    drawn = int(counts.sum())
    indptr = np.empty(pattern.shape[0] + 1, index_dtype(drawn))
    rows = np.empty(drawn, index_dtype(pattern.shape[0]))
    columns = np.empty(drawn, index_dtype(pattern.shape[1]))
    draw_free(pattern.indptr, pattern.indices, pattern.shape[1], edges, counts, np.uint64(key), indptr, rows, columns)
    return SparsityPattern._from_valid(pattern.shape, indptr, columns, rows)


def changed(pattern: SparsityPattern, keep: Mask, coming: Places) -> tuple[SparsityPattern, NDArray[np.int64], int]:
    """The pattern of the connections that stay and of those that come.

    Parameters
    ----------
    pattern : SparsityPattern
    keep : boolean array, shape (nnz,)
        Which connections stay.
    coming : Places
        Each is free or that of a connection that was to go, which then stays as it was.

    Returns
    -------
    pattern : SparsityPattern
    sources : int64 array, shape (nnz of the new pattern,)
        Where each connection stood, −1 for new ones.
    stayed : int
        How many were to go and came back.
    """
    from ..kernels.cpu.change import change_rows

    most = int(np.count_nonzero(keep)) + len(coming.rows)
    indptr = np.empty(len(pattern.indptr), pattern.indptr.dtype)
    indices, sources = np.empty(most, pattern.indices.dtype), np.empty(most, np.int64)
    stayed = change_rows(
        pattern.indptr, pattern.indices, keep, coming.rows, coming.columns, indptr, indices, sources
    )  # fmt: skip
    return SparsityPattern._from_valid(pattern.shape, indptr, indices), sources, int(stayed)


@lru_cache(maxsize=8)
def all_places(shape: tuple[int, int]) -> SparsityPattern:
    """All places of a small layer, as connections; the same object as long as few layers ask."""
    return SparsityPattern.full(shape)


def rows_between(pattern: SparsityPattern, first: int, last: int) -> SparsityPattern:
    """All places of the rows from `first` to `last`, and none of the others, as connections."""
    rows, columns = pattern.shape
    if (first, last) == (0, rows):
        return all_places(pattern.shape)
    counts = np.zeros(rows, np.int64)
    counts[first:last] = columns
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.tile(np.arange(columns, dtype=index_dtype(columns)), last - first)
    return SparsityPattern._from_valid(pattern.shape, indptr, indices)


def whole_units(pattern: SparsityPattern, size: int) -> SparsityPattern:
    """A pattern of units of `size` neighbouring columns, such as filters, as one of connections."""
    if size == 1:
        return pattern
    rows, columns = pattern.shape
    indices = pattern.indices[:, np.newaxis] * size + np.arange(size, dtype=pattern.indices.dtype)
    return SparsityPattern._from_valid((rows, columns * size), pattern.indptr * size, indices.ravel())


def units_of(pattern: SparsityPattern, size: int) -> SparsityPattern | None:
    """The pattern of units whose connections these are; None if some unit is stored in part."""
    if size == 1:
        return pattern
    rows, columns = pattern.shape
    if columns % size or (pattern.fan_in % size).any():
        return None
    indptr, indices = pattern.indptr // size, pattern.indices[::size] // size
    units = SparsityPattern._from_valid((rows, columns // size), indptr, indices)
    return units if whole_units(units, size) == pattern else None
