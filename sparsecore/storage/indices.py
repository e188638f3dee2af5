"""Shapes and index arrays as they come from outside, taken only if they are sorted, unique and in range."""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.arrays import plain_array

Shape = tuple[int, int]
Array = np.ndarray[Any, np.dtype[Any]]

INT32_MAX = int(np.iinfo(np.int32).max)


def index_dtype(largest: int) -> type[np.signedinteger]:
    """The integer type that holds counts and indices up to `largest`: int32 as long as it can."""
    return np.int32 if largest <= INT32_MAX else np.int64


def checked_shape(shape: Shape) -> Shape:
    try:
        out_features, in_features = shape
    except (TypeError, ValueError):
        raise ValueError(f"shape must be (out_features, in_features), got {shape!r}") from None
    sizes = []
    for name, size in (("out_features", out_features), ("in_features", in_features)):
        if isinstance(size, bool):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        try:
            number = operator.index(size)
        except TypeError:
            raise TypeError(f"{name} must be an integer, got {size!r}") from None
        if not 0 <= number < sys.maxsize:
            raise ValueError(f"{name} must be at least 0 and below {sys.maxsize:,}, got {number}")
        sizes.append(number)
    return sizes[0], sizes[1]


def integers(name: str, values: npt.ArrayLike) -> Array:
    array = plain_array(values, name)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.int32)  # numpy takes [] for floats
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {array.shape}")
    return array


def check_range(name: str, values: Array, size: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        at = int(np.argmax((values < 0) | (values >= size)))
        raise ValueError(f"{name} must be at least 0 and below {size:,}, got {values[at]} at position {at:,}")


def check_csr(shape: Shape, indptr: Array, indices: Array) -> None:
    """Refuse index arrays that are not sorted, unique and in range; comparisons only, which no dtype can wrap."""
    out_features, in_features = shape
    if indptr.size != out_features + 1:
        raise ValueError(f"indptr must have out_features + 1 = {out_features + 1:,} entries, got {indptr.size:,}")
    check_rising(indptr)
    if indptr[-1] != indices.size:
        raise ValueError(f"indptr must end at the number of indices, {indices.size:,}, got {indptr[-1]}")
    check_range("indices", indices, in_features)
    disordered = indices[1:] <= indices[:-1]
    row_starts = indptr[(indptr > 0) & (indptr < indices.size)]
    disordered[row_starts.astype(np.intp) - 1] = False  # the last of a row and the first of the next
    if disordered.any():
        at = int(np.argmax(disordered))
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        raise ValueError(
            f"indices of a row must increase strictly, got {indices[at]} then {indices[at + 1]} in row {row:,} "
            f"(positions {at:,} and {at + 1:,})"
        )


def check_rising(indptr: Array) -> None:
    """Refuse row pointers that do not start at 0 or that decrease."""
    if indptr[0] != 0:
        raise ValueError(f"indptr must start at 0, got {indptr[0]}")
    if (falls := indptr[1:] < indptr[:-1]).any():
        row = int(np.argmax(falls))
        raise ValueError(f"indptr must never decrease, got {indptr[row]} then {indptr[row + 1]} at row {row:,}")


def rebuilt(matrix: Any) -> Any:
    """A copy of a scipy.sparse matrix, built anew from its arrays.

    scipy's C++ follows broken indices out of bounds, and its cached flags (sorted, canonical) outlive a change of them.
    """
    if matrix.format == "coo":
        row, column = integers("row", matrix.row), integers("col", matrix.col)
        return type(matrix)((values_of(matrix), (row, column)), shape=matrix.shape, copy=True)
    if matrix.format in ("csr", "csc", "bsr"):
        indices, indptr = integers("indices", matrix.indices), integers("indptr", matrix.indptr)
        matrix = type(matrix)((values_of(matrix), indices, indptr), shape=matrix.shape, copy=True)
        matrix.check_format(full_check=True)
        check_rising(matrix.indptr)  # which that takes on trust where the last pointer is 0
        return matrix
    return matrix.copy()


def values_of(matrix: Any) -> Array:
    """The stored values of a scipy.sparse matrix, whose attributes anyone may have replaced."""
    return plain_array(matrix.data, "the matrix's data")
