"""The transpose of a pattern: a counting sort of its connections by column, which keeps the order of rows."""

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
