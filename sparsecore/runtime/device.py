"""What a device is: where arrays lie and kernels run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """What layers, workspaces and optimizers need of a device."""

    name: str

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array, aligned for the kernels."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of zeros, aligned for the kernels."""

    def put(self, array: Any) -> Any:
        """A copy of a host array on this device."""

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        """A device array as a host array; waits for what is still computing it."""

    def fill(self, array: Any, values: Any) -> None:
        """Write host values into an array of this device."""

    def pick(self, array: Any, positions: Any) -> Any:
        """`array[positions]` of a flat array of floats on this device, for valid positions on the host."""

    def owns(self, array: Any) -> bool:
        """Whether it is an array on this device."""

    def wait(self) -> None:
        """Wait for everything that was launched, as before reading a clock."""

    def take(self, array: Any) -> Any:
        """An array of any library on this GPU as the device's own, its memory shared; one on the host as it is."""

    def launcher(self) -> Any:
        """Kernels that run when called."""

    def recorder(self) -> tuple[Any, Any]:
        """Kernels that only write down what is called, and the tape they write to."""


class DeviceError(ValueError):
    """A device that is missing or has no such name; one line that says what to do."""


def moved(arrays: Mapping[str, Any], here: Device, there: Device) -> dict[str, Any]:
    """Copies of named arrays of one device on another."""
    return {name: there.put(here.get(array)) for name, array in arrays.items()}


def place_of(array: Any) -> str:
    """Where an array is, for messages."""
    if hasattr(array, "__cuda_array_interface__"):
        return f"cuda:{array.device.id}"
    return "the host" if hasattr(array, "dtype") else f"the host, no array but a {type(array).__name__}"
