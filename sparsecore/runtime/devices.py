"""Devices by name. A process has one CPU device, with one pool of threads; nothing is made at import."""

from __future__ import annotations

import copyreg
import os
from functools import cache
from typing import Any

from .cpu import CPU
from .cuda import CUDA
from .device import Device, DeviceError, place_of

__all__ = [
    "CPU",
    "CUDA",
    "Device",
    "DeviceError",
    "cpu",
    "cuda",
    "default_threads",
    "device",
    "get_threads",
    "gpu",
    "place_of",
    "set_threads",
]


def default_threads() -> int:
    """As many threads as this process may use: the processors it is bound to, or fewer if OMP_NUM_THREADS says so.

    That may be a list, of which the first number is for the outermost level; what OpenMP could not read is ignored.
    """
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        available = os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    readable = limit.isascii() and limit.isdecimal() and len(limit) < 10  # more than any machine has
    return min(available, int(limit) or available) if readable else available


@cache
def cpu() -> CPU:
    """The processor with its pool of threads."""
    return CPU(default_threads())


def cuda(index: int = 0) -> CUDA:
    """A GPU, with the kernels and patterns that have been put on it.

    Raises
    ------
    DeviceError
        If it cannot be used.
    """
    return gpu(index)


gpu = cache(CUDA)


def device(name: str | Device) -> Device:
    """The device of a name: "cpu", "cuda", "cuda:1", or "auto" for the first GPU that works and otherwise the CPU.

    Raises
    ------
    DeviceError
        If there is none of that name.
    """
    if not isinstance(name, str):
        return name
    kind, _, number = name.partition(":")
    if name == "cpu":
        return cpu()
    if name == "auto":
        try:
            return cuda()
        except DeviceError:
            return cpu()
    if kind != "cuda" or name.endswith(":") or (number and not (number.isascii() and number.isdecimal())):
        raise DeviceError(f"device: expected auto, cpu, cuda or cuda:1, got {name!r}")
    return cuda(int(number or 0))


def _by_name(given: Any) -> tuple[Any, tuple[str]]:
    return device, (given.name,)


for _kind in (CPU, CUDA):  # a copy, or what comes out of a file, is on this process's device of that name
    copyreg.pickle(_kind, _by_name)


def set_threads(threads: int) -> None:
    """Compute on this many threads from now on. Results are the same bits for any number.

    Raises
    ------
    ValueError
        If `threads` is not a whole number of at least 1.
    """
    if threads != int(threads) or threads < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads}")
    cpu().pool.resize(int(threads))


def get_threads() -> int:
    """How many threads are in use."""
    return cpu().pool.threads
