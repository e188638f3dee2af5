"""What a run trains on: a training and a test split of labelled samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import OneLineError
from sparsecore.storage.sizes import spell


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
        Classes, from 0.

    Raises
    ------
    DataError
        Where the arrays are not of these dtypes and shapes.
    """

    x: NDArray[np.uint8] | NDArray[np.float32]
    y: NDArray[np.int32]

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
            raise DataError(f"x and y must be NumPy's arrays, got {type(x).__name__} and {type(y).__name__}")
        if isinstance(x, np.ma.MaskedArray) or isinstance(y, np.ma.MaskedArray):
            raise DataError("x and y must be plain arrays, got masked ones, whose hidden entries have no value")
        if x.ndim != 2 or x.dtype not in (np.uint8, np.float32) or not x.flags.c_contiguous:
            raise DataError(f"x must be contiguous uint8 or float32 of shape (n, features), got {x.dtype} {x.shape}")
        if y.shape != x.shape[:1] or y.dtype != np.int32:
            raise DataError(f"y must be int32 of shape ({len(x)},), one label a row of x, got {y.dtype} {y.shape}")

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Split({len(self):,} samples of {self.x.shape[1]:,} features in {self.x.dtype})"

    def take(self, rows: NDArray[np.intp]) -> Split:
        """The samples at `rows`, copied, in that order."""
        return Split(self.x[rows], self.y[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split, and what is known of both.

    Attributes
    ----------
    name : str
        The name or path that it was loaded by.
    source : str
        For a run's first line: which data these are, and where they came from.
    train, test : Split
    shape : tuple of int
        Of one sample: (channels, height, width) or (features,).
    classes : int
    mean, std : tuple of float
        One for each channel (one in all for (features,)): of x/255 where x is uint8, and of x itself where it is
        float32. A network's input is (x/255 − mean)/std, or (x − mean)/std.
    moments : callable, optional
        How mean and std follow from a training split. None where they are not this split's but the ones that everybody
        uses for the set.
    """

    name: str
    source: str
    train: Split
    test: Split
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    moments: Callable[[Split], tuple[tuple[float, ...], tuple[float, ...]]] | None = None

    def __post_init__(self) -> None:
        for split, part in (("train", self.train), ("test", self.test)):
            if not len(part):
                raise DataError(f"{self.name}: the {split} split is empty")
            if part.x.shape[1] != prod(self.shape):
                raise DataError(f"{self.name}: {split} x must have {prod(self.shape)} features for shape "
                                f"{self.shape}, got {part.x.shape[1]}")
            if part.x.dtype == np.float32 and not (finite := np.isfinite(part.x).all(axis=1)).all():
                raise DataError(f"{self.name}: {split} x must hold finite numbers, got NaN or Inf, first in sample "
                                f"{finite.argmin()}")
            if part.y.min() < 0 or part.y.max() >= self.classes:
                raise DataError(f"{self.name}: {split} labels must be 0 to {self.classes - 1}, "
                                f"got {part.y.min()} to {part.y.max()}")
        if self.train.y.min() == self.train.y.max():
            raise DataError(f"{self.name}: train labels must be of two or more classes, got only {self.train.y[0]}")

    def __repr__(self) -> str:
        return (f"Dataset({self.name!r}, {len(self.train):,} train, {len(self.test):,} test, samples of "
                f"{spell(self.shape)} in {self.train.x.dtype}, {self.classes} classes)")  # fmt: skip

    def holdout(self, fraction: float, seed: int) -> tuple[Split, Split]:
        """Set a validation split aside from the training split.

        Parameters
        ----------
        fraction : float
            Of the training samples, in (0, 1), the same of every class up to rounding.
        seed : int
            At least 0. The same seed draws the same samples, on any machine.

        Returns
        -------
        train, validation : Split
            Disjoint, together the training split; each keeps its order.

        Raises
        ------
        DataError
            Where the fraction is out of range, or leaves nothing to validate on.
        """
        if not 0 < fraction < 1:
            raise DataError(f"{self.name}: the validation fraction must be between 0 and 1, e.g. 0.1, got {fraction}")
        held = stratified(self.train.y, round(fraction * len(self.train)), seed)
        if not len(held):
            raise DataError(f"{self.name}: a fraction of {fraction} of {len(self.train)} training samples leaves none "
                            "to validate on (each class keeps at least one for training); ask for more")
        return self.train.take(rest(held, len(self.train))), self.train.take(held)

    def without(self, fraction: float, seed: int) -> tuple[Dataset, Split]:
        """This data set without the validation split that `holdout` sets aside, and that split.

        Nothing of the held-out samples is left in it: where mean and std were the training split's, they are now those
        of what is left of it.
        """
        train, held_out = self.holdout(fraction, seed)
        mean, std = (self.mean, self.std) if self.moments is None else self.moments(train)
        return replace(self, train=train, mean=mean, std=std), held_out


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
