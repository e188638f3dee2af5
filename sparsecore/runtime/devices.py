"""Devices by name. A process has one CPU device, with one pool of threads; nothing is made at import."""

from __future__ import annotations

import copyreg
from functools import cache
from typing import Any

from .cpu import CPU
from .cuda import CUDA
from .device import Device, DeviceError, place_of
from .processors import default_threads

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


@cache
def cpu() -> CPU:
    """The processor with its pool of threads."""
    return CPU()


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


def set_threads(threads: int | None) -> None:
    """Compute on this many threads from now on. Results are the same bits for any number.

    Parameters
    ----------
    threads : int or None
        None for as many as the process may use, which is looked at again whenever something is recorded.

    Raises
    ------
    ValueError
        If `threads` is not a whole number of at least 1.
    """
    if threads is not None and (threads != int(threads) or threads < 1):
        raise ValueError(f"threads must be a whole number of at least 1, got {threads}")
    cpu().use(None if threads is None else int(threads))


def get_threads() -> int:
    """How many threads are in use."""
    return cpu().pool.threads
