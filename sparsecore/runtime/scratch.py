"""Memory that calls need while they run, and nobody afterwards: all that run one after another use the same."""

from __future__ import annotations

import math
import mmap
import weakref
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np

from .devices import cpu


def nowhere(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array to record calls on: it has addresses of its own, on pages that there are once somebody writes."""
    kind, size = np.dtype(dtype), math.prod(shape)
    pages = mmap.mmap(-1, max(1, size * kind.itemsize))
    return np.frombuffer(pages, kind, size).reshape(shape)


class Room:
    """A stretch of memory that one caller has at a time.

    Attributes
    ----------
    nbytes, address : int
    """

    def __init__(self, nbytes: int) -> None:
        self._array = cpu().empty((nbytes,), "uint8")  # pages that nobody writes to cost nothing
        self.nbytes, self.address = nbytes, int(self._array.ctypes.data)


class Scratch:
    """Rooms that callers take turns in: as many as have been used at the same time, as large as the largest need.

    Threads may share it, and so may finalizers, which come at any time: every line is one step of the interpreter's, or
    may happen twice.
    """

    def __init__(self) -> None:
        self._free: list[Room] = []
        self._needs: dict[int, int] = {}
        self._numbers = count()
        self._largest = 0

    def need(self, owner: Any, nbytes: int) -> None:
        """Be ready for an owner who takes so much, as long as it lives: then rooms that nobody else needs are freed."""
        key = next(self._numbers)
        self._needs[key] = nbytes
        self._largest = max(self._largest, nbytes)
        weakref.finalize(owner, self._forget, key).atexit = False

    def take(self, nbytes: int) -> Room:
        """A room of at least so many bytes, until it is given back; what is in it is anything."""
        try:
            found = self._free.pop()
        except IndexError:
            return Room(nbytes)
        return found if found.nbytes >= nbytes else Room(max(nbytes, self._largest))

    def give(self, room: Room) -> None:
        """Let others have it."""
        if room.nbytes <= self._largest:
            self._free.append(room)

    @property
    def nbytes(self) -> int:
        """Bytes of the rooms that nobody has at the moment."""
        return sum(room.nbytes for room in list(self._free))

    def _forget(self, key: int) -> None:
        self._needs.pop(key)
        self._largest = max(list(self._needs.values()), default=0)
        for room in list(self._free):
            if room.nbytes > self._largest:
                with suppress(ValueError):  # somebody has taken it, and will not give it back
                    self._free.remove(room)


scratch = Scratch()
"""The processor's."""
