"""A GPU as a device: CuPy's arrays, and kernels compiled by NVRTC."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import one_line
from .arrays import on_host
from .device import DeviceError


class CUDA:
    """An NVIDIA GPU, through CuPy.

    Everything runs on CuPy's current stream, so that nothing waits until a result is read.

    Parameters
    ----------
    index : int
        Which one, from 0.

    Raises
    ------
    DeviceError
        If CuPy, the card, its driver or NVRTC is missing.
    """

    def __init__(self, index: int = 0) -> None:
        self.name = f"cuda:{index}" if index else "cuda"
        self._cupy = _working_cupy(index, self.name)
        from ..kernels.cuda.layout import Uploads

        self._device = self._cupy.cuda.Device(index)
        self._uploads = Uploads()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        with self._device:
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        with self._device:
            return self._cupy.zeros(shape, dtype)

    def put(self, array: Any) -> Any:
        with self._device:
            return self._cupy.array(np.asarray(array), order="C")

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        if not self.owns(array):
            raise TypeError(f"expected an array on {self.name}, got a {type(array).__name__}")
        return array.get()

    def fill(self, array: Any, values: Any) -> None:
        with self._device:
            array.set(np.ascontiguousarray(np.broadcast_to(values, array.shape), array.dtype))

    def pick(self, array: Any, positions: Any) -> Any:
        out = self.empty((len(positions),), array.dtype)
        self.launcher().reorder(array, positions, out)
        return out

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._cupy.ndarray) and array.device.id == self._device.id

    def wait(self) -> None:
        self._device.synchronize()

    def take(self, array: Any) -> Any:
        if self.owns(array) or on_host(array):
            return array
        with self._device:
            cupy = self._cupy
            taken = cupy.asarray(array) if hasattr(array, "__cuda_array_interface__") else cupy.from_dlpack(array)
        if not self.owns(taken):
            raise TypeError(f"expected an array on {self.name}, got one on cuda:{taken.device.id}: copy it first")
        return taken

    def launcher(self) -> Any:
        from ..kernels.cuda.launch import Launcher

        return Launcher(self._device, self._uploads)

    def recorder(self) -> tuple[Any, Any]:
        from ..kernels.cuda.launch import Launcher, Tape

        tape = Tape()
        return Launcher(self._device, self._uploads, tape), tape


def _working_cupy(index: int, name: str) -> Any:
    """CuPy, once it is known to work on this GPU."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"{name}: needs CuPy, which cannot be imported ({one_line(error)}): pip install 'sparsecore[cuda]', or "
            f"compute on cpu"
        ) from None
    try:
        count, reason = cupy.cuda.runtime.getDeviceCount(), "no card"
    except RuntimeError as error:
        count, reason = 0, one_line(error)
    if count == 0:
        raise DeviceError(
            f"{name}: needs an NVIDIA GPU and its driver, got none ({reason}): install the driver, or compute on cpu"
        )
    if index >= count:
        raise DeviceError(f"{name}: expected the number of one of {count} GPUs, from 0, got {index}: try cuda:0")
    try:
        cupy.cuda.nvrtc.getVersion()
    except (RuntimeError, ImportError, AttributeError):
        raise DeviceError(
            f"{name}: CuPy finds no NVRTC, which compiles the kernels: pip install 'cupy-cuda13x[ctk]', or compute on "
            f"cpu"
        ) from None
    return cupy
