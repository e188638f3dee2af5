"""The transpose of a pattern: a counting sort of its connections by column, which keeps the order of rows.

And the numbers of a pattern, or of its transpose, written into the arrays of a layout, whose addresses recorded kernels
know.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..compile import njit

Array = NDArray[Any]


@njit
def turn(indptr: Array, indices: Array, turned: Array, rows: Array, positions: Array) -> None:
    """Connection q of the transpose is in row-of-before `rows[q]` and stood at `positions[q]`.

    Parameters
    ----------
    indptr, indices : integer arrays
        Of the pattern.
    turned : zeros, shape (columns + 1,)
        The transpose's indptr is written here.
    rows, positions : integer arrays, shape (nnz,)
    """
    columns = len(turned) - 1
    for p in range(len(indices)):
        turned[indices[p] + 1] += 1
    for column in range(columns):
        turned[column + 1] += turned[column]
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            q = turned[indices[p]]
            rows[q], positions[q] = row, p
            turned[indices[p]] = q + 1
    for column in range(columns, 0, -1):  # each start has moved on to the next
        turned[column] = turned[column - 1]
    if columns >= 0:
        turned[0] = 0


@njit
def lay_rows(indptr: Array, indices: Array, starts: Array, cuts: Array, offsets: Array) -> None:
    """Write a pattern into a layout in which each row stands for itself, in one block.

    Parameters
    ----------
    indptr, indices : integer arrays
        Of the pattern.
    starts : int64 array, shape (rows + 1,)
        The layout's `indptr`; its `runs` and `work` are the same memory.
    cuts : int32 array, shape (2, rows)
        Its first row stays.
    offsets : int32 array, shape (at least nnz,)
    """
    for row in range(len(indptr)):
        starts[row] = indptr[row]
    for row in range(len(indptr) - 1):
        cuts[1, row] = indptr[row + 1] - indptr[row]
    for p in range(len(indices)):
        offsets[p] = indices[p]


@njit
def lay_turned(
    indptr: Array, indices: Array, starts: Array, cuts: Array, offsets: Array, positions: Array
) -> None:
    """The same of its transpose, and where each of the transpose's connections stood."""
    starts[:] = 0
    turn(indptr, indices, starts, offsets, positions)
    for row in range(len(starts) - 1):
        cuts[1, row] = starts[row + 1] - starts[row]
