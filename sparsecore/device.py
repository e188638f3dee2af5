"""Where arrays live and kernels run. Nothing happens at import, and nothing is global but the CPU's pool of threads."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """What layers, workspaces and optimizers need of a place to compute."""

    name: str

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array, aligned for the kernels."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of zeros, aligned for the kernels."""

    def put(self, array: Any) -> Any:
        """A copy of a host array on this device."""

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        """A device array as a host array."""

    def launcher(self) -> Any:
        """Kernels that run when called."""

    def recorder(self) -> tuple[Any, Any]:
        """Kernels that only write down what is called, and the tape they write to."""


class CPU:
    """The processor, its kernels compiled by Numba."""

    name = "cpu"

    def __init__(self, threads: int) -> None:
        from .kernels.cpu.pool import Pool  # compiling waits until a device is wanted

        self.pool = Pool(threads)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
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

    def launcher(self) -> Any:
        from .kernels.cpu.launch import Launcher

        return Launcher(self.pool)

    def recorder(self) -> tuple[Any, Any]:
        from .kernels.cpu.launch import Launcher, Tape

        tape = Tape()
        return Launcher(self.pool, tape), tape


def default_threads() -> int:
    """As many threads as this process may use: the processors it is bound to, or fewer if OMP_NUM_THREADS says so."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        available = os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(limit)) if limit.isdigit() and int(limit) > 0 else available


@cache
def cpu() -> CPU:
    """The processor with its pool of threads."""
    return CPU(default_threads())


def set_threads(threads: int) -> None:
    """Compute on this many threads from now on. Results are the same bits for any number.

    Raises
    ------
    ValueError
        If `threads` is less than 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    device = cpu()
    device.pool.resize(threads)


def get_threads() -> int:
    """How many threads are in use."""
    return cpu().pool.threads
