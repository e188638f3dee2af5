"""A data set's sizes, which are known before it is read, and splits of such sizes on paper."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from sparsecore.data.catalogue import CATALOGUE, EMBEDDED, MNIST
from sparsecore.data.dataset import Dataset
from sparsecore.data.loading import load
from sparsecore.data.splits import Split
from sparsecore.data.subset import TEST, TRAIN
from sparsecore.runtime.paper import sized


@dataclass(frozen=True)
class Outline:
    """How large a data set is.

    Attributes
    ----------
    shape : tuple of int
        Of a sample.
    classes : int
        Or numbers to be told.
    channels : int
        That are normalised apart.
    train, test : int
        Samples.
    dtype : str
        Of the samples as they are stored.
    numbers : bool
        Whether numbers are told, not classes.
    mapped : bool
        Whether samples stay in their file, and are read as they are used.
    """

    shape: tuple[int, ...]
    classes: int
    channels: int
    train: int
    test: int
    dtype: str = "uint8"
    numbers: bool = False
    mapped: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Outline:
        """That of a data set which is there."""
        train, test = dataset.train, dataset.test
        return cls(
            dataset.shape, dataset.classes, len(dataset.mean), len(train), len(test), train.x.dtype.name,
            dataset.numbers, train.rows is not None,
        )  # fmt: skip

    def split(self, samples: int) -> Split:
        """So many samples, on paper; their labels are zeros but for one, which is the largest."""
        labels = np.zeros(samples, np.int32)
        if not self.numbers:
            labels[-1:] = self.classes - 1
        rows = np.arange(samples) if self.mapped else None
        targets = np.zeros((samples, self.classes), np.float32) if self.numbers else None
        return Split(sized((samples, prod(self.shape)), self.dtype), labels, targets, rows)

    def nbytes(self, samples: int) -> int:
        """Bytes of so many samples, labels included, where they are kept as they were loaded."""
        each = 0 if self.mapped else prod(self.shape) * np.dtype(self.dtype).itemsize
        return samples * (each + 4 + (8 if self.mapped else 0) + (4 * self.classes if self.numbers else 0))


def outline(name: str, **how: Any) -> Outline:
    """The sizes of the data set that `load` would give, which takes the same; a data set of one's own is loaded.

    "mnist" counts as whole, even if it may turn out that it cannot be fetched.

    Raises
    ------
    DataError
        As `load` does.
    """
    entry = CATALOGUE.get(name)
    if entry is None and name != EMBEDDED:
        return Outline.of(load(Path(name), **how))
    train, test = entry.samples if entry is not None else (TRAIN, TEST)
    entry = entry if entry is not None else MNIST
    return Outline(entry.shape, entry.classes, len(entry.mean), train, test)
