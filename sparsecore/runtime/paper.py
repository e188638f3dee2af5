"""A device on paper: its arrays have shapes and no memory, and its kernels do nothing.

What is made on it is made by the code that makes the real thing, so its sizes are the real thing's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .recording import Buffer

_NOTHING = np.zeros(2)  # sixteen bytes, aligned for any element: all that arrays on paper share


class Sized(Buffer):
    """An array on paper: nobody can read it, and what is written goes nowhere.

    Attributes
    ----------
    own : int
        Bytes that such an array would take; 0 for a view of another.
    """

    own: int = 0

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def fill(self, value: Any) -> None:
        pass

    def copy(self, order: Any = "C") -> Any:
        return sized(self.shape, self.dtype)


class Paper:
    """Stands for a device of this name, which need not be there.

    Parameters
    ----------
    name : str
        Such as "cpu" or "cuda".
    """

    def __init__(self, name: str = "cpu") -> None:
        self.name = name

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return sized(shape, dtype)

    zeros = empty

    def put(self, array: Any) -> Any:
        return sized(np.shape(array), array.dtype)

    def get(self, array: Any) -> Any:
        return array

    def fill(self, array: Any, values: Any) -> None:
        pass

    def pick(self, array: Any, positions: Any) -> Any:
        return sized((len(positions),), array.dtype)

    def owns(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def wait(self) -> None:
        pass

    def take(self, array: Any) -> Any:
        return array

    def launcher(self) -> Any:
        return _Unheard(recording=False)

    def recorder(self) -> tuple[Any, Any]:
        return _Unheard(recording=True), _Blank()


class _Unheard:
    """Kernels that are called by name and do nothing."""

    def __init__(self, *, recording: bool) -> None:
        self.recording = recording

    def __getattr__(self, name: str) -> Any:
        return _nothing


class _Blank:
    """A tape that nothing is written on."""

    count = 0
    hosts: tuple[Any, ...] = ()


def _nothing(*_: Any, **__: Any) -> None:
    pass


def sized(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array on paper.

    Raises
    ------
    MemoryError
        If no machine could address it.
    """
    kind = np.dtype(dtype)
    steps, size = [], kind.itemsize
    for length in reversed(shape):
        steps.append(size)
        size *= int(length)
    if size > np.iinfo(np.int64).max:
        raise MemoryError(f"an array of {size:,} bytes")
    made = np.lib.stride_tricks.as_strided(_NOTHING.view(kind), shape, steps[::-1]).view(Sized)
    made.own = size
    return made


def bytes_of(arrays: Iterable[Any]) -> int:
    """Bytes that arrays on paper would take: those that are no views of others, each counted once."""
    return sum({id(array): array.own for array in arrays if isinstance(array, Sized)}.values())
