"""Map-style data sets of other libraries: whatever has a length and gives an item for a number. None is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.arrays import Given
from sparsecore.data.splits import DataError, listed
from sparsecore.errors import one_line
from sparsecore.files import memory
from sparsecore.runtime.arrays import plain_array

INPUTS = ("image", "img", "x", "pixel_values", "inputs", "input", "features")
LABELS = ("label", "labels", "y", "target", "targets", "fine_label", "class")
"""What the entries of an item that is a mapping are called; the first that is there."""


def given_items(items: Any, test: Any, name: str, *, words: bool) -> Given:
    """What `Dataset.from_items` makes a data set of; `words` says whether labels may have names."""
    x, y = _stacked(items, name)
    x_test, y_test = (None, None) if test is None else _stacked(test, f"{name} (test)")
    names = _names_of(items) if words and y.dtype.kind in "iub" else ()
    plain = names == tuple(map(str, range(len(names))))
    return Given(name, x, y, x_test, y_test, names=() if plain else names)


def _stacked(items: Any, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """All samples and all labels, each item asked for once."""
    try:
        count = len(items)
    except TypeError:
        raise DataError(f"{name}: expected items with a length, numbered from 0, got {type(items).__name__}, which has "
                        "none") from None  # fmt: skip
    if not count:
        raise DataError(f"{name}: expected items, got none")
    first, _ = _pair(items, 0, name)
    if (needed := count * first.nbytes) > (there := memory() // 2):
        raise DataError(f"{name}: {count:,} items need {needed:,} bytes of memory, of which this machine has {there:,} "
                        "to spare: write them into x.npy, which is read in place")  # fmt: skip
    x, labels = np.empty((count, *first.shape), first.dtype), []
    for k in range(count):
        sample, label = _pair(items, k, name)
        if sample.shape != first.shape or sample.dtype != first.dtype:
            raise DataError(f"{name}: item {k}: expected {first.dtype} of shape {first.shape} as of item 0, got "
                            f"{sample.dtype} of shape {sample.shape}")  # fmt: skip
        x[k] = sample
        labels.append(label)
    try:
        return x, np.array(labels)
    except ValueError:
        raise DataError(f"{name}: expected labels of one shape, got others") from None


def _pair(items: Any, k: int, name: str) -> tuple[NDArray[Any], Any]:
    """One item's sample and label as NumPy has them."""
    try:
        item = items[k]
    except Exception as error:  # whatever the library or the user's transforms raise
        said = one_line(error, 200) or type(error).__name__
        raise DataError(f"{name}: item {k}: cannot be had ({said})") from error
    if isinstance(item, Mapping):
        found: list[Any] = [next((item[key] for key in keys if key in item), None) for keys in (INPUTS, LABELS)]
        if found[0] is None or found[1] is None:
            raise DataError(f"{name}: item {k}: expected an entry such as image and one such as label, got "
                            f"{listed(list(item))}")  # fmt: skip
        sample, label = found
    elif isinstance(item, tuple | list) and len(item) == 2:
        sample, label = item
    else:
        raise DataError(f"{name}: item {k}: expected a pair of sample and label, or a mapping with both, got "
                        f"{type(item).__name__}")  # fmt: skip
    if hasattr(sample, "convert") and getattr(sample, "mode", "L") not in ("L", "RGB"):
        sample = sample.convert("L" if sample.mode == "1" else "RGB")
    try:
        sample = np.asarray(sample) if hasattr(sample, "convert") else plain_array(sample, f"item {k}")
        label = label if isinstance(label, str) else plain_array(label, f"item {k}")
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: item {k}: {error}") from None
    return np.atleast_1d(sample), label


def _names_of(items: Any) -> tuple[str, ...]:
    """The classes' names, where the data set tells them as torchvision or Hugging Face do."""
    features = getattr(items, "features", None)
    if isinstance(features, Mapping):
        entry = next((features[key] for key in LABELS if key in features), None)
        return tuple(map(str, getattr(entry, "names", None) or ()))
    names = getattr(items, "classes", None)
    return tuple(map(str, names)) if isinstance(names, tuple | list) else ()
