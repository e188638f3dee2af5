"""Where arrays live and kernels run. Nothing happens at import; the CPU's pool of threads is the one there is."""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Any, Protocol

import numpy as np

from .arrays import host_array, on_host
from .errors import one_line


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
        """A device array as a host array; waits for what is still computing it."""

    def fill(self, array: Any, values: Any) -> None:
        """Write host values into an array of this device."""

    def pick(self, array: Any, positions: Any) -> Any:
        """`array[positions]` of a flat array of floats on this device, for valid positions on the host."""

    def owns(self, array: Any) -> bool:
        """Whether it is an array on this device."""

    def wait(self) -> None:
        """Until all that was launched is done: before a clock is read."""

    def take(self, array: Any) -> Any:
        """Any library's array on a GPU as this device's, its memory shared; what lies on the host as it is."""

    def launcher(self) -> Any:
        """Kernels that run when called."""

    def recorder(self) -> tuple[Any, Any]:
        """Kernels that only write down what is called, and the tape they write to."""


class CPU:
    """The processor, its kernels compiled by Numba."""

    name = "cpu"

    def __init__(self, threads: int) -> None:
        from .kernels.cpu.threads import Pool  # compiling waits until a device is wanted

        self.pool = Pool(threads)

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
        return np.take(array, positions, out=out, mode="clip")  # valid: the mode spares a copy

    def owns(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def wait(self) -> None:
        pass  # calls return when they are done

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.name,)  # what is copied, or comes out of a file, is on the processor that there is

    def take(self, array: Any) -> Any:
        return array if on_host(array) else host_array(array)  # which refuses it

    def launcher(self) -> Any:
        from .kernels.cpu.launch import Launcher

        return Launcher(self.pool)

    def recorder(self) -> tuple[Any, Any]:
        from .kernels.cpu.launch import Launcher, Tape

        tape = Tape()
        return Launcher(self.pool, tape), tape


class DeviceError(ValueError):
    """A device that is not there, or that nobody knows; one line that says what to do."""


class CUDA:
    """An NVIDIA GPU, through CuPy.

    Everything runs on CuPy's current stream, so that nothing waits until a result is asked for.

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
        from .kernels.cuda.layout import Uploads

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

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.name,)

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
        from .kernels.cuda.launch import Launcher

        return Launcher(self._device, self._uploads)

    def recorder(self) -> tuple[Any, Any]:
        from .kernels.cuda.launch import Launcher, Tape

        tape = Tape()
        return Launcher(self._device, self._uploads, tape), tape


def _working_cupy(index: int, name: str) -> Any:
    """The module, if there is such a card for it to work on."""
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


def place_of(array: Any) -> str:
    """Where an array is, for messages."""
    return f"cuda:{array.device.id}" if hasattr(array, "__cuda_array_interface__") else "the host"


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
