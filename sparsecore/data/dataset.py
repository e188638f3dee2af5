"""What a run trains on: a training and a test split of labelled samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from sparsecore.data.answers import Answers
from sparsecore.data.arrays import Given, parts_of
from sparsecore.data.columns import places
from sparsecore.data.items import given_items
from sparsecore.data.normalisation import Normalisation
from sparsecore.data.splits import DataError as DataError
from sparsecore.data.splits import Split as Split
from sparsecore.data.splits import listed, not_finite, of_targets
from sparsecore.data.splits import rest as rest
from sparsecore.data.splits import stratified as stratified
from sparsecore.storage.sizes import spell


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
    columns : tuple of str
        What a table's columns are called, in their order; empty where they have no names.
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
    columns: tuple[str, ...] = ()

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
        return cls.of(Given(name, x, y, x_test, y_test), loss, held_out)

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
        return cls.of(given_items(items, test, name, words=loss == "cross-entropy"), loss, held_out)

    @classmethod
    def of(cls, given: Given, loss: str = "cross-entropy", held_out: float = 0.2) -> Dataset:
        """A data set of arrays as somebody gave them; see `from_arrays`."""
        return cls(**parts_of(given, loss=loss, held_out=held_out))

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

    @property
    def normalisation(self) -> Normalisation:
        """How a network takes these samples as they are stored."""
        return Normalisation(self.shape, self.mean, self.std, self.train.x.dtype.name, self.columns)

    def in_columns(self, names: tuple[str, ...]) -> Dataset:
        """This data set with a table's columns in the order of these names; itself where either have none.

        Raises
        ------
        DataError
            If a column is missing, or there are others beside them.
        """
        try:
            at = places(self.columns, names, self.name)
        except ValueError as error:
            raise DataError(error) from None
        if at is None:
            return self
        train, test = (split.in_columns(at) for split in (self.train, self.test))
        mean, std = (tuple(numbers[k] for k in at) if len(numbers) == len(at) else numbers
                     for numbers in (self.mean, self.std))  # fmt: skip
        return replace(self, train=train, test=test, mean=mean, std=std, columns=names)

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
        answers = self.answers if not self.numbers else of_targets(train)
        return replace(self, train=train, mean=mean, std=std, answers=answers), held_out
