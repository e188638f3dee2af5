"""Arrays as nobody expects them, and the same values as everybody does."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.reliability.fuzz import Rng
from tests.reliability.guarded import lock, room

Array = np.ndarray[Any, Any]

KINDS: list[Any] = [
    "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", "F", "D", "G", "O", "S6", "U6", "M8[s]",
    "m8[s]", "V8", [("a", "i4"), ("b", "f4")],
]  # fmt: skip
"""Dtypes that an array is given in."""


class Named(np.ndarray):
    """A subclass that does nothing."""


class Elsewhere:
    """An array of another library, known by DLPack alone."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


@dataclass
class Given:
    """What a door is given for one of its arrays.

    Attributes
    ----------
    array : object
        The strange one.
    clean : array
        Its values and dtype, in C order, this machine's byte order, aligned, in memory of its own.
    kind : dtype
        That the door asked for.
    strange : list of str
        What is strange about it, in words.
    hidden : bool
        Whether it is a masked array with entries that have no value.
    """

    array: Any
    clean: Array
    kind: np.dtype[Any]
    strange: list[str] = field(default_factory=list)
    hidden: bool = False

    def __post_init__(self) -> None:
        self._before = self._bytes()

    def __str__(self) -> str:
        words = f", {', '.join(self.strange)}" if self.strange else ""
        return f"{self.clean.dtype} {self.clean.shape}{words}"

    def is_untouched(self) -> bool:
        return self._bytes() == self._before

    def _bytes(self) -> Any:
        array = self.array._array if isinstance(self.array, Elsewhere) else self.array
        if isinstance(array, np.ma.MaskedArray):
            return array.data.tobytes(), np.ma.getmaskarray(array).tobytes()
        objects = isinstance(array, np.ndarray) and array.dtype.hasobject
        return repr(array) if objects or isinstance(array, list) else array.tobytes()


def strange(good: Array, rng: Rng, file: Path, *, other: bool, written: bool) -> Given:
    """Something of a good array.

    Parameters
    ----------
    file : Path
        Where a memory map may be made.
    other : bool
        Whether its values, shape or dtype may be others, too.
    written : bool
        Whether the door may write to it.
    """
    words: list[str] = []
    values = good
    if other:
        for chance, change in ((0.4, _other_values), (0.4, _other_shape), (0.6, _other_dtype)):
            if rng.random() < chance:
                values, word = change(values, rng)
                words += [word] if word else []
    kind = values.dtype
    if kind.itemsize > 1 and kind.kind in "iufcmMU" and rng.random() < 0.15:
        kind = kind.newbyteorder("S")
        words.append("byte order")
    if kind.hasobject:
        return Given(values, values.copy(), good.dtype, words)
    values, array = _laid_out(values, kind, rng, file, words, written)
    if not written and rng.random() < 0.5:
        array.flags.writeable = False
        words.append("read-only")
    clean = np.array(values, kind.newbyteorder("="), order="C", copy=True, subok=False)
    handed, hidden = _dressed(array, rng, words) if rng.random() < 0.3 else (array, False)
    if isinstance(handed, list):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clean = np.asarray(handed)
    return Given(handed, clean, good.dtype, words, hidden)


def _other_values(values: Array, rng: Rng) -> tuple[Array, str]:
    """One of its numbers is one that it had better not be."""
    if not values.size or values.dtype.kind not in "iuf":
        return values, ""
    values = values.copy()
    if values.dtype.kind == "f":
        planted: Any = rng.choice([np.nan, np.inf, -np.inf, -0.0, 1e30, 1e-45])
    else:
        ends = np.iinfo(values.dtype)
        planted = [ends.min, ends.max, -1, 0, 1, values.size, 1 << 31][int(rng.integers(0, 7))]
        planted = min(max(planted, ends.min), ends.max)
    values.flat[int(rng.integers(0, values.size))] = planted
    return values, "values"


def _other_shape(values: Array, rng: Rng) -> tuple[Array, str]:
    """The same numbers in another shape, or more or fewer of them."""
    shape = list(values.shape)
    match int(rng.integers(0, 8)):
        case 0:
            return values.reshape(1, *shape), "shape"
        case 1:
            return values.reshape(*shape, 1), "shape"
        case 2:
            return values.ravel(), "shape" if len(shape) > 1 else ""
        case 3:
            return values.T.copy(), "shape" if len(shape) > 1 else ""
        case 4:
            return values[:0], "shape"
        case 5 if values.size:
            return values.reshape(-1)[0:1].reshape(()), "shape"
        case 6 if shape:
            axis = int(rng.integers(0, len(shape)))
            shape[axis] = 0 if rng.random() < 0.2 else shape[axis] + int(rng.choice([-1, 1, 17]))
            shape[axis] = max(shape[axis], 0)
            return np.resize(values, shape), "shape"
        case _:
            return (values[:1], "shape") if shape else (values, "")


def _other_dtype(values: Array, rng: Rng) -> tuple[Array, str]:
    kind = np.dtype(KINDS[int(rng.integers(0, len(KINDS)))])
    if kind == values.dtype:
        return values, ""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind.kind in "mM":
            return values.astype("i8").astype(kind), f"dtype {kind}"
        if kind.kind == "V":
            return np.zeros(values.shape, kind), "dtype void"
        cast = values.astype(kind)
    if kind.kind == "c":
        cast = cast + kind.type(1j)
    return cast, f"dtype {kind}"


def _laid_out(
    values: Array, kind: Any, rng: Rng, file: Path, words: list[str], written: bool
) -> tuple[Array, Array]:  # fmt: skip
    """The values, and an array of them in some corner of guarded memory, or of a mapped file, with any strides."""
    count, item = values.ndim, kind.itemsize
    if not written and rng.random() < 0.1:
        values.astype(kind).tofile(file) if values.size else file.write_bytes(b"\0" * item)
        words.append("memory map")
        return values, np.memmap(file, kind, str(rng.choice(["r", "c", "r+"])), shape=values.shape or (1,)).reshape(
            values.shape
        )  # fmt: skip
    order = list(range(count))[::-1]  # the innermost axis first
    steps, odd = [1] * count, 0
    if values.size and count:
        if count > 1 and rng.random() < 0.3:
            order = rng.permutation(count).tolist()
            words.append("axes") if order != list(range(count))[::-1] else None
        if rng.random() < 0.35:
            for axis in range(count):
                steps[axis] = int(rng.choice([1, 1, -1, 2, -3, 0]))
            words += [
                name for name, found in (("reversed", min(steps) < 0), ("apart", max(map(abs, steps)) > 1)) if found
            ]  # fmt: skip
        if 0 in steps and not written:
            first = tuple(slice(0, 1) if step == 0 else slice(None) for step in steps)
            values = np.array(np.broadcast_to(values[first], values.shape))
            words.append("broadcast")
        else:
            steps = [step or 1 for step in steps]
        odd = int(rng.random() < 0.1)
    strides, span = [0] * count, item + odd
    for axis in order:
        strides[axis] = span * steps[axis]
        span *= max(values.shape[axis], 1) * max(abs(steps[axis]), 1) if steps[axis] else 1
    low = sum(min((size - 1) * stride, 0) for size, stride in zip(values.shape, strides, strict=True) if size)
    high = sum(max((size - 1) * stride, 0) for size, stride in zip(values.shape, strides, strict=True) if size) + item
    askew = int(rng.random() < 0.2) if item > 1 else 0
    if askew or odd:
        words.append("askew")
    pages = room(high - low + askew)
    pages.fill(0xA7)
    start = len(pages) - askew - (high - low) if rng.random() < 0.7 else askew
    array: Array = np.ndarray(values.shape, kind, pages.data, start - low, tuple(strides))
    array[...] = values
    if not written:
        lock(pages)
    return values, array


def _dressed(array: Array, rng: Rng, words: list[str]) -> tuple[Any, bool]:
    """The array as something else than an ndarray, and whether some of it is hidden."""
    plain = array.dtype.isnative and array.dtype.kind in "iufb" and array.dtype.itemsize <= 8
    match int(rng.integers(0, 7)):
        case 0:
            words.append("subclass")
            return array.view(Named), False
        case 1 if array.ndim == 2:
            words.append("np.matrix")
            return array.view(np.matrix), False
        case 2:
            words.append("masked")
            return np.ma.masked_array(array), False
        case 3 if array.size:
            words.append("hidden")
            mask = np.asarray(rng.random(array.shape) < 0.2)
            mask.flat[int(rng.integers(0, mask.size))] = True
            return np.ma.masked_array(array, mask), True
        case 4 if plain and array.ndim and math.prod(array.shape) < 1000:
            words.append("list")
            return array.tolist(), False
        case 5 if plain and array.dtype != "f2":
            words.append("memory view")
            return memoryview(array), False
        case 6 if plain and all(stride % array.itemsize == 0 for stride in array.strides) and array.flags.writeable:
            words.append("DLPack")
            return Elsewhere(array), False
        case _:
            return array, False
