"""The processor as a device: aligned NumPy arrays, and kernels compiled by Numba on one pool of threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arrays import host_array, on_host
from .processors import default_threads


class CPU:
    """The processor, its kernels compiled by Numba.

    Parameters
    ----------
    threads : int, optional
        As many as the process may use if not given, which is looked at again whenever something is recorded.

    Attributes
    ----------
    given : int or None
        The number of threads that somebody has asked for.
    pool : Pool
    """

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        from ..kernels.cpu.threads import Pool  # compiling waits until a device is wanted

        self.given = threads
        self.pool = Pool(default_threads() if threads is None else threads)

    def use(self, threads: int | None) -> None:
        """Compute on so many threads, or on as many as the process may use."""
        self.given = threads
        self.pool.resize(default_threads() if threads is None else threads)

    def _follow(self) -> None:
        """Where nobody has said how many threads, go by what the process may use now."""
        if self.given is None and (threads := default_threads()) != self.pool.threads:
            self.pool.resize(threads)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        raw = np.empty(size + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + size].view(kind).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def put(self, array: Any) -> np.ndarray[Any, Any]:
        copy = self.empty(np.shape(array), np.asarray(array).dtype)
        copy[...] = array
        return copy

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def fill(self, array: Any, values: Any) -> None:
        array[...] = values

    def pick(self, array: Any, positions: Any) -> np.ndarray[Any, Any]:
        out = self.empty((len(positions),), array.dtype)
        return np.take(array, positions, out=out, mode="clip")  # positions are valid: this mode saves a copy

    def owns(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def wait(self) -> None:
        pass  # every call returns when it has finished

    def take(self, array: Any) -> Any:
        return array if on_host(array) else host_array(array)  # which refuses it

    def launcher(self) -> Any:
        from ..kernels.cpu.launch import Launcher

        return Launcher(self.pool)

    def recorder(self) -> tuple[Any, Any]:
        from ..kernels.cpu.launch import Launcher, Tape

        self._follow()
        tape = Tape()
        return Launcher(self.pool, tape), tape
