"""A split: labelled samples, and how some are drawn out of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.answers import Answers
from sparsecore.errors import OneLineError, one_line

BLOCK = 4096
"""Rows that are looked at at once: of a memory map there is then never more than a part in memory."""


class DataError(OneLineError):
    """Data that is missing or cannot be used; one line that says which, what was expected and what was found."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled samples, one a row.

    Attributes
    ----------
    x : ndarray of uint8 or float32, shape (n, features)
        Contiguous. Images are flattened channel by channel, row by row.
    y : ndarray of int32, shape (n,)
        Classes, from 0; all 0 where there are targets.
    targets : ndarray of float32, shape (n, outputs), optional
        Numbers that the samples should give, instead of classes.
    rows : ndarray of int64, shape (n,), optional
        Which rows of x are this split's, ascending, where x is a memory map of more: it is then read as it is used and
        never copied. All if not given.

    Raises
    ------
    DataError
        Where the arrays are not of these dtypes and shapes.
    """

    x: NDArray[np.uint8] | NDArray[np.float32]
    y: NDArray[np.int32]
    targets: NDArray[np.float32] | None = None
    rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        x, y, targets, rows = self.x, self.y, self.targets, self.rows
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
            raise DataError(f"x and y must be NumPy's arrays, got {type(x).__name__} and {type(y).__name__}")
        if isinstance(x, np.ma.MaskedArray) or isinstance(y, np.ma.MaskedArray):
            raise DataError("x and y must be plain arrays, got masked ones, whose hidden entries have no value")
        if x.ndim != 2 or x.dtype not in (np.uint8, np.float32) or not x.flags.c_contiguous:
            raise DataError(f"x must be contiguous uint8 or float32 of shape (n, features), got {x.dtype} {x.shape}")
        count = len(x) if rows is None else len(rows)
        if y.shape != (count,) or y.dtype != np.int32:
            raise DataError(f"y must be int32 of shape ({count},), one label a row of x, got {y.dtype} {y.shape}")
        if targets is not None and (targets.ndim != 2 or len(targets) != count or targets.dtype != np.float32):
            raise DataError(f"targets must be float32 of shape ({count}, outputs), got {targets.dtype} {targets.shape}")
        if rows is not None and count:
            if rows.ndim != 1 or rows.dtype != np.int64 or (np.diff(rows) <= 0).any():
                raise DataError(f"rows must be int64, ascending, got {rows.dtype} of shape {rows.shape}")
            if rows[0] < 0 or rows[-1] >= len(x):
                raise DataError(f"rows must be of the {len(x)} of x, got {rows[0]} to {rows[-1]}")

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Split({len(self):,} samples of {self.x.shape[1]:,} features in {self.x.dtype})"

    def take(self, rows: NDArray[np.intp]) -> Split:
        """The samples at `rows`, in that order: copied, or of a memory map chosen, and then ascending."""
        targets = None if self.targets is None else self.targets[rows]
        if self.rows is not None:
            return Split(self.x, self.y[rows], targets, self.rows[rows])
        return Split(self.x[rows], self.y[rows], targets)

    def in_columns(self, columns: NDArray[np.intp]) -> Split:
        """The same samples, their numbers in another order."""
        x: Any = np.ascontiguousarray(self.x[:, columns])
        return Split(x, self.y, self.targets, self.rows)

    def samples(self, start: int, stop: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The samples at these places, as rows: a view, or of a memory map a copy."""
        found: Any = self.x[start:stop] if self.rows is None else np.asarray(self.x[self.rows[start:stop]])
        return found

    def blocks(self, size: int | None = None) -> Iterator[NDArray[np.uint8] | NDArray[np.float32]]:
        """All samples, so many at once."""
        step = size if size is not None else BLOCK
        return (self.samples(start, start + step) for start in range(0, len(self), step))


def stratified(y: NDArray[np.integer], count: int, seed: int) -> NDArray[np.intp]:
    """Draw `count` samples, of each class in proportion, so that every class also has samples left.

    Shares are rounded by largest remainder. Within a class, samples are ranked by Philox's raw words, the part of
    NumPy's random numbers that never changes between versions.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        Classes.
    count : int
        At most n. Where classes are too small to give their share and keep one sample, fewer are drawn.
    seed : int
        At least 0.

    Returns
    -------
    ndarray of intp
        Positions in `y`, ascending.
    """
    sizes = np.bincount(y)
    spare = np.maximum(sizes - 1, 0)
    quota, remainder = np.divmod(sizes * count, len(y))
    quota = np.minimum(quota, spare)
    by_remainder = np.argsort(-remainder, kind="stable")
    able = by_remainder[(quota < spare)[by_remainder]]
    quota[able[: count - quota.sum()]] += 1
    order = np.lexsort((np.random.Philox(key=seed).random_raw(len(y)), y))
    rank = np.arange(len(y)) - (np.cumsum(sizes) - sizes)[y[order]]
    return np.sort(order[rank < quota[y[order]]])


def rest(drawn: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """The positions below `n` that are not in `drawn`, ascending."""
    left = np.ones(n, dtype=bool)
    left[drawn] = False
    return np.flatnonzero(left)


def not_finite(split: Split) -> int | None:
    """The first sample with a NaN or an Inf, or None."""
    start = 0
    for block in split.blocks():
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            return start + int(finite.argmin())
        start += len(block)
    return None


def of_targets(split: Split) -> Answers:
    """The mean and the deviation of a split's targets; a deviation of 1 where they are all the same."""
    targets = np.asarray(split.targets, np.float64)
    std = targets.std(axis=0)
    constant = np.ptp(targets, axis=0) == 0
    return Answers(mean=tuple(targets.mean(axis=0).tolist()), std=tuple(np.where(constant, 1.0, std).tolist()))


def listed(names: Sequence[Any] | NDArray[Any]) -> str:
    """Some names for a message, and not without end."""
    return one_line(", ".join(map(str, names[:12])) + (", …" if len(names) > 12 else ""), 160)
