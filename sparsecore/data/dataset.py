"""What a run trains on: a training and a test split of labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
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

    def take(self, rows: NDArray[np.intp]) -> Split:
        """The samples at `rows`, in that order: copied, or of a memory map chosen, and then ascending."""
        targets = None if self.targets is None else self.targets[rows]
        if self.rows is not None:
            return Split(self.x, self.y[rows], targets, self.rows[rows])
        return Split(self.x[rows], self.y[rows], targets)

    def samples(self, start: int, stop: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The samples at these places, as rows: a view, or of a memory map a copy."""
        found: Any = self.x[start:stop] if self.rows is None else np.asarray(self.x[self.rows[start:stop]])
        return found

    def blocks(self, size: int | None = None) -> Iterator[NDArray[np.uint8] | NDArray[np.float32]]:
        """All samples, so many at once."""
        step = size if size is not None else BLOCK
        return (self.samples(start, start + step) for start in range(0, len(self), step))


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
    answers : Answers, optional
        The classes' names, where they are not their numbers; or the targets' mean and deviation, by which they are
        standardised for training.
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
    answers: Answers | None = None

    @classmethod
    def from_arrays(
        cls, x: Any, y: Any, *, x_test: Any = None, y_test: Any = None, loss: str = "cross-entropy",
        held_out: float = 0.2, name: str = "arrays",
    ) -> Dataset:  # fmt: skip
        """A data set of arrays: NumPy's, pandas', PyTorch's or JAX's, SciPy's sparse ones, lists.

        Parameters
        ----------
        x : array of shape (n, features), (n, height, width), (n, channels, height, width) or (n, height, width, 3)
            uint8 is taken for pixels, and divided by 255; all else for numbers, in float32. Images whose channels come
            last are transposed, which the result's `source` says. A memory map stays one.
        y : array of shape (n,) or (n, outputs)
            Classes, as numbers or words of any kind; with loss "mse" the numbers to predict, one or several a sample.
        x_test, y_test : arrays, optional
            Of the same kinds. Without them a part of the samples is held out, the same in every run.
        loss : {"cross-entropy", "mse"}
            Whether y are classes or numbers.
        held_out : float
            Fraction that is held out for testing, of each class in proportion.
        name : str

        Raises
        ------
        DataError
            Names the array, what was expected and what was got.
        """
        from sparsecore.data.arrays import Given, dataset_of

        return dataset_of(Given(name, x, y, x_test, y_test), loss=loss, held_out=held_out)

    @classmethod
    def from_items(
        cls, items: Any, *, test: Any = None, loss: str = "cross-entropy", held_out: float = 0.2, name: str = "items"
    ) -> Dataset:
        """A data set of any map-style one, such as PyTorch's, torchvision's or Hugging Face's.

        Parameters
        ----------
        items : has a length and can be indexed
            Each item is a pair (x, y), or a mapping with an entry such as "image" or "x" and one such as "label" or
            "y". x is an image of Pillow's or an array; y a class, or with loss "mse" a number or several.
        test : the same, optional
        loss, held_out, name
            As for `from_arrays`.

        Raises
        ------
        DataError
            Names the item, what was expected and what was got.
        """
        from sparsecore.data.items import read_items

        return read_items(items, test, loss=loss, held_out=held_out, name=name)

    def __post_init__(self) -> None:
        for split, part in (("train", self.train), ("test", self.test)):
            if not len(part):
                raise DataError(f"{self.name}: the {split} split is empty")
            if part.x.shape[1] != prod(self.shape):
                raise DataError(f"{self.name}: {split} x must have {prod(self.shape)} features for shape "
                                f"{self.shape}, got {part.x.shape[1]}")
            if part.x.dtype == np.float32 and (found := not_finite(part)) is not None:
                raise DataError(f"{self.name}: {split} x must hold finite numbers, got NaN or Inf, first in sample "
                                f"{found}")
            if self.numbers:
                self._check_targets(split, part)
            elif part.y.min() < 0 or part.y.max() >= self.classes:
                raise DataError(f"{self.name}: {split} labels must be 0 to {self.classes - 1}, "
                                f"got {part.y.min()} to {part.y.max()}")
        if not self.numbers and self.train.y.min() == self.train.y.max():
            raise DataError(f"{self.name}: train labels must be of two or more classes, got only {self.train.y[0]}")
        if self.answers is not None and len(self.answers) != self.classes:
            raise DataError(f"{self.name}: answers must be of {self.classes} outputs, got {len(self.answers)}")

    def _check_targets(self, split: str, part: Split) -> None:
        targets = part.targets
        if targets is None or targets.shape[1] != self.classes:
            got = "none" if targets is None else f"{targets.shape[1]} a sample"
            raise DataError(f"{self.name}: {split} targets must be {self.classes} a sample, got {got}")
        if not (finite := np.isfinite(targets).all(axis=1)).all():
            raise DataError(f"{self.name}: {split} targets must be finite, got NaN or Inf, first in sample "
                            f"{finite.argmin()}")

    @property
    def numbers(self) -> bool:
        """Whether numbers are to be predicted, not classes."""
        return self.answers is not None and self.answers.numbers

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called: their names, or else their numbers; empty where there are none."""
        if self.answers is not None:
            return self.answers.names
        return tuple(map(str, range(self.classes)))

    def answered_by(self, answers: Answers | None, outputs: int) -> Dataset:
        """This data set as a network's outputs have it: the same classes, by the numbers that the network gives them.

        Parameters
        ----------
        answers : Answers or None
            The network's.
        outputs : int
            How many it has.

        Raises
        ------
        DataError
            If a class is none of the network's, or one has classes and the other numbers.
        """
        if self.numbers != (answers is not None and answers.numbers):
            kinds = "classes", "numbers"
            raise DataError(f"{self.name}: expected {kinds[not self.numbers]}, which the network tells, got "
                            f"{kinds[self.numbers]}")
        if self.numbers:
            return replace(self, answers=answers)
        theirs = answers.names if answers is not None else tuple(map(str, range(outputs)))
        if self.names == theirs[: len(self.names)] or (answers is None and self.answers is None):
            return replace(self, answers=answers, classes=len(answers)) if answers is not None else self
        number = {name: k for k, name in enumerate(theirs)}
        used = {int(k) for split in (self.train, self.test) for k in np.unique(split.y)}
        if unknown := [name for k, name in enumerate(self.names) if k in used and name not in number]:
            raise DataError(f"{self.name}: expected the network's classes, {listed(theirs)}, got {listed(unknown)}")
        table = np.array([number.get(name, -1) for name in self.names], np.int32)
        train, test = (replace(split, y=table[split.y]) for split in (self.train, self.test))
        return replace(self, train=train, test=test, classes=len(theirs), answers=answers)

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
        answers = self.answers if not self.numbers else of_targets(train)
        return replace(self, train=train, mean=mean, std=std, answers=answers), held_out


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
