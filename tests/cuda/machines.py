"""Devices to run a test on: the emulated one, its threads in one order or another, or a real card."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sparsecore.runtime import devices
from sparsecore.runtime.devices import CUDA

from .emulator import build, stand_in

CARD = pytest.param("card", marks=pytest.mark.gpu)


@contextlib.contextmanager
def machine(kind: str, *, checking: bool = False) -> Iterator[CUDA]:
    """A CUDA device, until the block ends.

    Parameters
    ----------
    kind : {"forward", "reverse", "random", "card"}
        The emulated device with its threads in this order, or a real one.
    checking : bool
        Check every access; on the emulated device only.
    """
    if kind == "card":
        yield devices.cuda()
        return
    if reason := build.why_not():
        pytest.skip(reason)
    with stand_in.installed(checking=checking, order=kind):
        devices.gpu.cache_clear()
        try:
            yield devices.cuda()
        finally:
            devices.gpu.cache_clear()


class OnDevice:
    """A launcher for NumPy arrays: puts them on a device, calls the device's launcher, and brings every array back."""

    def __init__(self, device: CUDA) -> None:
        self._device, self._launcher = device, device.launcher()

    def put(self, array: Any) -> tuple[Any, Any, Any]:
        """A host array, its copy, and what the launcher is given of that."""
        copy = self._device.put(array)
        return array, copy, copy

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            copies: list[Any] = []

            def moved(value: Any) -> Any:
                if not isinstance(value, np.ndarray):
                    return value
                copies.append(self.put(value))
                return copies[-1][2]

            getattr(self._launcher, name)(*map(moved, arguments), **{key: moved(value) for key, value in named.items()})
            for host, copy, _ in copies:
                host[...] = self._device.get(copy)

        return call
