"""The part of CuPy that the engine uses, on the emulated device, stricter than the original.

An array is a class of its own, not NumPy's: what NumPy does with it by mistake raises. Kernels take arrays of exactly
their parameters' dtypes, on the current device, and scalars of exactly the right NumPy type; CuPy itself would pass on
anything. New memory is all NaN. `installed` puts this module in the place of `cupy`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import build

__version__ = "emulated"

CUPY = ("RawModule", "__version__", "array", "cuda", "empty", "ndarray", "zeros")
"""What is CuPy's here; the rest is for tests."""

DEVICES = 2
"""How many cards there are: one processor core in all of them."""


class Traffic:
    """What went between host and device, for tests that say when nothing may."""

    def __init__(self) -> None:
        self.to_device = self.to_host = self.synchronised = self.launches = 0


class _Settings:
    checking = False
    current = 0
    stream: Any = None
    traffic = Traffic()


# ------------------------------------------------------------------------------------------------ arrays


class _Memory:
    """Bytes on the device, given back when nobody holds them any more."""

    def __init__(self, nbytes: int) -> None:
        self.address = build.runtime().device_allocate(nbytes)
        if not self.address:
            raise MemoryError(f"the emulated device has no room for {nbytes:,} bytes")
        self.nbytes, self.device = nbytes, Device(_Settings.current)
        self.bytes = np.frombuffer((ctypes.c_ubyte * nbytes).from_address(self.address), np.uint8)

    def __del__(self) -> None:
        if getattr(self, "address", None):
            build.runtime().device_release(self.address, self.nbytes)


class _Flags:
    def __init__(self, flags: Any) -> None:
        self.c_contiguous = bool(flags.c_contiguous)


class ndarray:
    """A device array: a NumPy view of device memory, out of NumPy's reach."""

    def __init__(self, memory: _Memory, view: Any) -> None:
        self._memory, self._view = memory, view

    shape = property(lambda self: self._view.shape)
    dtype = property(lambda self: self._view.dtype)
    ndim = property(lambda self: self._view.ndim)
    size = property(lambda self: self._view.size)
    nbytes = property(lambda self: self._view.nbytes)
    itemsize = property(lambda self: self._view.itemsize)
    strides = property(lambda self: self._view.strides)
    flags = property(lambda self: _Flags(self._view.flags))
    device = property(lambda self: self._memory.device)
    data = property(lambda self: types.SimpleNamespace(ptr=self._view.ctypes.data))

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: Any) -> ndarray:
        keys = _host_only(key)
        return type(self)(self._memory, self._view[keys if ... in keys else (*keys, ...)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, ndarray):
            value = value._view
        elif not np.isscalar(value):
            raise TypeError(f"a device array can be given a number or a device array, got {type(value).__name__}")
        self._view[_host_only(key)] = value

    def __iand__(self, bits: np.generic) -> ndarray:
        self._view &= bits
        return self

    def fill(self, value: Any) -> None:
        self._view.fill(value)

    def reshape(self, *shape: Any) -> ndarray:
        return type(self)(self._memory, self._view.reshape(*shape))

    def get(self) -> np.ndarray[Any, Any]:
        _Settings.traffic.to_host += 1
        return self._view.copy()

    def set(self, values: np.ndarray[Any, Any]) -> None:
        """CuPy takes a host array of exactly this shape and dtype, in C order."""
        if not isinstance(values, np.ndarray) or (values.shape, values.dtype) != (self.shape, self.dtype):
            raise TypeError(f"set must be given a NumPy array of {self.dtype} {self.shape}")
        if not (values.flags.c_contiguous and self._view.flags.c_contiguous):
            raise ValueError("set must be given an array in C order, for one in C order")
        self._view[...] = values
        _Settings.traffic.to_device += 1

    def __deepcopy__(self, memo: object) -> ndarray:
        with self.device:
            copy = empty(self.shape, self.dtype)
        copy._view[...] = self._view
        return copy

    def __reduce__(self) -> Any:
        """As CuPy's: through the host, to the device that is the current one then."""
        return _from_pickle, (self.get(),)

    __cuda_array_interface__ = property(lambda self: {"shape": self.shape, "typestr": self.dtype.str, "version": 3})

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("NumPy's functions do not work on device arrays")

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("NumPy's functions do not work on device arrays")

    def _refuse(self, *args: Any) -> Any:
        raise TypeError("a device array must be brought to the host to be read")

    __eq__ = __bool__ = __int__ = __float__ = __index__ = __iter__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def _host_only(key: Any) -> tuple[Any, ...]:
    keys = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(k, int | slice | type(...)) for k in keys):
        raise TypeError(f"the stand-in takes numbers and slices as indices, got {key}")
    return keys


def empty(shape: Any, dtype: Any = float) -> ndarray:
    sizes = tuple(shape) if np.iterable(shape) else (shape,)
    kind = np.dtype(dtype)
    memory = _Memory(math.prod(sizes) * kind.itemsize)
    return ndarray(memory, memory.bytes.view(kind).reshape(sizes))


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    array = empty(shape, dtype)
    array.fill(0)
    return array


def _from_pickle(values: np.ndarray[Any, Any]) -> ndarray:
    return array(values, order="C")


def array(values: Any, *, order: str) -> ndarray:
    """A copy of a host array on the device; it is CuPy that would keep Fortran's order if it were not told."""
    if order != "C":
        raise ValueError(f"order must be 'C', got {order!r}")
    host = np.asarray(values)
    copy = empty(host.shape, host.dtype)
    copy._view[...] = host
    _Settings.traffic.to_device += 1
    return copy


# ------------------------------------------------------------------------------------------------ kernels


class RawModule:
    """CUDA source, compiled when a kernel is first asked for."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        self._library, self._names = build.kernels(code, options, _Settings.checking)

    def get_function(self, name: str) -> RawKernel:
        if name not in self._names:
            raise CUDADriverError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(self._library, name)


class RawKernel:
    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._run = getattr(library, f"run_{name}")
        spelled = getattr(library, f"parameters_{name}")
        spelled.restype = ctypes.c_char_p
        self.parameters = spelled().decode().rstrip(",").split(",")

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        shapes = [tuple(sizes) + (1,) * (3 - len(sizes)) for sizes in (grid, block)]
        self._check_shapes(*shapes)
        if shared_mem:
            raise ValueError(f"{self.name}: the emulated device has no dynamic shared memory")
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: takes {len(self.parameters)} arguments, got {len(args)}")
        values = [self._value(k, *pair) for k, pair in enumerate(zip(self.parameters, args, strict=True))]
        if isinstance(_Settings.stream, Stream) and _Settings.stream.captured is not None:
            _Settings.stream.captured.append((self, shapes, values, args))
        else:
            self._launch(shapes, values)

    def _launch(self, shapes: list[tuple[int, ...]], values: list[Any]) -> None:
        _Settings.traffic.launches += 1
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        if self._run((ctypes.c_uint * 3)(*shapes[0]), (ctypes.c_uint * 3)(*shapes[1]), pointers):
            raise KernelFault(f"{self.name}: {build.runtime().device_error().decode()}")

    def _check_shapes(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        if not (0 < grid[0] < 2**31 and all(0 < size < 2**16 for size in grid[1:])):
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: grid {grid}")
        if not (all(size > 0 for size in block) and math.prod(block) <= 1024 and block[2] <= 64):
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: block {block}")

    def _value(self, k: int, kind: str, value: Any) -> Any:
        """What is passed for a parameter: one word of host memory."""
        what = f"{self.name}, argument {k}"
        if not kind.startswith("*"):
            if not isinstance(value, np.generic) or value.dtype.kind + str(value.itemsize) != kind:
                raise TypeError(f"{what}: must be a NumPy scalar {kind}, got {type(value).__name__} {value!r}")
            return np.array([value])
        if value is None:
            return np.zeros(1, np.uint64)
        if not isinstance(value, ndarray):
            raise TypeError(f"{what}: must be a device array, got {type(value).__name__}")
        if value.device.id != _Settings.current:
            raise TypeError(f"{what}: is on device {value.device.id}, and the current one is {_Settings.current}")
        if value.dtype.kind + str(value.itemsize) != kind[1:]:
            raise TypeError(f"{what}: must be of {kind[1:]}, got {value.dtype}")
        return np.array([value._view.ctypes.data], np.uint64)


class KernelFault(RuntimeError):
    """A kernel did what it must not."""


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


# ------------------------------------------------------------------------------------------------ devices and streams


class Device:
    def __init__(self, id: int = 0) -> None:
        if not 0 <= id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = id
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(_Settings.current)
        _Settings.current = self.id
        return self

    def __exit__(self, *error: object) -> None:
        _Settings.current = self._before.pop()

    def synchronize(self) -> None:
        _Settings.traffic.synchronised += 1


class Stream:
    """Kernels run at once on any stream, unless one is capturing: then they are only written down."""

    def __init__(self, *, non_blocking: bool = False) -> None:
        self.captured: list[Any] | None = None
        self._before: list[Any] = []

    def __enter__(self) -> Stream:
        self._before.append(_Settings.stream)
        _Settings.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        _Settings.stream = self._before.pop()

    def synchronize(self) -> None:
        _Settings.traffic.synchronised += 1

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        graph, self.captured = Graph(self.captured or []), None
        return graph


class Graph:
    def __init__(self, launches: list[Any]) -> None:
        self._launches = launches

    def launch(self) -> None:
        for kernel, shapes, values, _ in self._launches:
            kernel._launch(shapes, values)


class Event:
    """A moment on the current stream, by the host's clock, since whatever was launched has run."""

    def __init__(self) -> None:
        self._at: float | None = None

    def record(self) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        """CuPy returns at once where nothing was recorded; a bench that forgets to is wrong, and hears of it."""
        if self._at is None:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: the event was not recorded")
        _Settings.traffic.synchronised += 1


def get_elapsed_time(begin: Event, end: Event) -> float:
    """Milliseconds between two events, both recorded."""
    if begin._at is None or end._at is None:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: an event was not recorded")
    return 1e3 * (end._at - begin._at)


_PROPERTIES = {
    "name": b"emulated", "major": 0, "minor": 0, "multiProcessorCount": 1, "l2CacheSize": 1 << 16,
    "totalGlobalMem": 1 << 30,
}  # fmt: skip

cuda = types.SimpleNamespace(
    Device=Device,
    Event=Event,
    Stream=Stream,
    get_elapsed_time=get_elapsed_time,
    is_available=lambda: True,
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: 13000,
        getDeviceCount=lambda: DEVICES,
        getDeviceProperties=lambda number: dict(_PROPERTIES),
        profilerStart=lambda: None,
        profilerStop=lambda: None,
        runtimeGetVersion=lambda: 13000,
    ),
    nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
)


# ------------------------------------------------------------------------------------------------ for tests


@contextlib.contextmanager
def installed(*, checking: bool = False, order: str = "forward", seed: int = 1) -> Iterator[types.ModuleType]:
    """Let `import cupy` give this module, and the engine's CUDA modules be imported anew, until the block ends.

    Parameters
    ----------
    checking : bool
        Compile kernels so that every access is checked.
    order : {"forward", "reverse", "random"}
        Of the threads of a block.
    seed : int
        Of the random order.
    """
    before = {name: sys.modules.pop(name) for name in _affected()}
    sys.modules["cupy"] = sys.modules[__name__]
    _Settings.checking, _Settings.traffic = checking, Traffic()
    build.runtime().device_order(["forward", "reverse", "random"].index(order), seed)
    try:
        yield sys.modules[__name__]
    finally:
        for name in _affected():
            del sys.modules[name]
        sys.modules.update(before)
        _Settings.checking, _Settings.stream, _Settings.current = False, None, 0


def _affected() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "cupy" or name.startswith("sparsecore.kernels.cuda")]


def traffic() -> Traffic:
    """What went between host and device since this module was installed."""
    return _Settings.traffic


@contextlib.contextmanager
def sectors() -> Iterator[list[int]]:
    """Count the 32-byte sectors that warps ask global memory for: read and written, in the list once the block ends.

    Only launches of checked kernels count.
    """
    counted = (ctypes.c_uint64 * 2)()
    found: list[int] = []
    build.runtime().device_count(1, counted)
    try:
        yield found
    finally:
        build.runtime().device_count(0, counted)
        found.extend(counted)
