"""Which connections of one pattern are in another: a merge of two sorted lists, row by row."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..compile import njit

Array = NDArray[Any]


@njit
def merge_rows(indptr: Array, indices: Array, new_indptr: Array, new_indices: Array, sources: Array) -> None:
    """sources[q] = where the new pattern's connection q stands in the old one, or −1 where it is new."""
    for row in range(len(indptr) - 1):
        p, end = indptr[row], indptr[row + 1]
        for q in range(new_indptr[row], new_indptr[row + 1]):
            column = new_indices[q]
            while p < end and indices[p] < column:
                p += 1
            sources[q] = p if p < end and indices[p] == column else -1
