"""Memory between two pages that nobody may touch: who reads or writes past its ends, by a byte, dies on the spot."""

from __future__ import annotations

import ctypes
import math
import mmap
from typing import Any

import numpy as np

_NONE, _READ = 0, 1
_libc: Any = None


def _protect(address: int, size: int, how: int) -> None:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if _libc.mprotect(address, size, how):
        raise OSError(ctypes.get_errno(), "mprotect")


def room(size: int) -> np.ndarray[Any, Any]:
    """Whole pages of zeros for at least `size` bytes, a forbidden page before and after them."""
    inner = max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, inner + 2 * mmap.PAGESIZE), np.uint8)
    start = memory.ctypes.data
    _protect(start, mmap.PAGESIZE, _NONE)
    _protect(start + mmap.PAGESIZE + inner, mmap.PAGESIZE, _NONE)
    return memory[mmap.PAGESIZE : -mmap.PAGESIZE]


def lock(pages: np.ndarray[Any, Any]) -> None:
    """Let nobody write to this room, whatever NumPy says of it."""
    _protect(pages.ctypes.data, pages.nbytes, _READ)


class Buffers:
    """Buffers in guarded memory that begins as garbage.

    Attributes
    ----------
    garbage : int
        The byte that new buffers are filled with. What depends on it was read before it was written.
    """

    garbage = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        pages = room(size)
        pages.fill(self.garbage)
        start = (len(pages) - size) & -64  # as near to the end as a buffer's alignment lets it
        return pages[start : start + size].view(kind).reshape(shape)
