"""Arrays of other libraries: NumPy's, and whatever speaks DLPack. They are read where they lie, not copied.

float16 and bfloat16 are taken as inputs: they are widened to the dtype of the layer that gets them, which loses
nothing, and results come in that dtype.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

_HOST = (1, 3, 11, 13)
"""DLPack's numbers for memory that a processor reads: its own, pinned for CUDA or ROCm, and managed by CUDA."""


def on_host(x: Any) -> bool:
    """Whether NumPy can read this object's memory."""
    if hasattr(x, "__dlpack_device__"):
        try:
            return int(x.__dlpack_device__()[0]) in _HOST
        except ValueError:  # PyTorch's meta tensors, which have a shape only
            raise TypeError(f"expected an array with memory, got a {type(x).__name__} on {x.device}") from None
    return not hasattr(x, "__cuda_array_interface__")


def host_array(x: Any) -> np.ndarray[Any, Any]:
    """A NumPy array of x: sharing its memory if it is an array of any library, bfloat16 widened to float32.

    Raises
    ------
    TypeError
        If x lies on a GPU: nothing is copied between devices silently.
    """
    if isinstance(x, np.ndarray):
        array = x
    elif on_host(x):
        array = _imported(x)
    else:
        kind = type(x).__name__
        raise TypeError(f"expected a NumPy array or another in the host's memory, got a {kind} on a GPU: copy it")
    custom = array.dtype.isbuiltin == 2
    return array.astype(np.float32) if custom and array.dtype.name == "bfloat16" else array


def is_real(dtype: Any, *, truths: bool = True) -> bool:
    """Whether every number of a dtype is a real one that float64 holds: no complex ones, long doubles or objects.

    `truths` says whether False and True may stand for 0 and 1.
    """
    custom = dtype.isbuiltin == 2
    return dtype.kind in ("biuf" if truths else "iuf") and (dtype.kind != "f" or custom or dtype.itemsize <= 8)


def real_numbers(x: Any, owner: Any, name: str, *, truths: bool = True) -> Any:
    """What a user gives as numbers, as an array; the one place where it is decided what is none.

    Its memory is shared, unless its bytes are in another machine's order. An array on a GPU is given back as it is.

    Raises TypeError or ValueError, in whose message `owner` calls it `name`.
    """
    full = f"{owner if isinstance(owner, str) else repr(owner)}: {name}"
    array = x if hasattr(x, "__cuda_array_interface__") else plain_array(x, full)
    if not is_real(array.dtype, truths=truths):
        raise TypeError(f"{full} must hold real numbers, got {array.dtype}")
    return array


def plain_array(x: Any, name: str) -> np.ndarray[Any, Any]:
    """What a user gives, as an array on the host in this machine's byte order, of any dtype, with nothing hidden.

    Its memory is shared, unless its bytes are in another order; subclasses are taken for what they hold.

    Raises TypeError or ValueError, in whose message it is called `name`.
    """
    x = unhidden(x, name)
    try:
        array = host_array(x)
    except ValueError:
        raise ValueError(f"{name} must hold rows of one length, got ragged ones") from None
    array = array if type(array) is np.ndarray else array.view(np.ndarray)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def unhidden(x: Any, name: str) -> Any:
    """What a masked array holds, if it hides nothing; anything else as it is.

    Raises ValueError or TypeError, in whose message it is called `name`.
    """
    if not isinstance(x, np.ma.MaskedArray):
        return x
    if x.dtype.names:
        raise TypeError(f"{name} must hold numbers, got records of {x.dtype}")
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has hidden entries, which have no value: fill them, e.g. filled(0)")
    return x.data


def narrowed(array: Any, dtype: Any, owner: Any, name: str) -> Any:
    """Real numbers in the dtype that is computed in; the one place where numbers become fewer bits.

    Raises ValueError where a number is too large for it, and would become Inf.
    """
    if array.dtype == dtype:
        return array
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except FloatingPointError:
        whose = owner if isinstance(owner, str) else repr(owner)
        largest = np.abs(array, where=np.isfinite(array), out=np.zeros_like(array)).max()
        raise ValueError(f"{whose}: {name} must be numbers that {np.dtype(dtype)} holds, got {largest:.4g}") from None


def unfit(array: Any, *, written: bool = True) -> str:
    """What is wrong with an array that a kernel is to walk from its address on, and to write to; empty if nothing is.

    Kernels check nothing: this is asked once, where an array is given.
    """
    flags = array.flags
    if not flags.c_contiguous:
        return f"one with strides {array.strides}"
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray):
            return "a masked one"
        if not (flags.aligned and array.dtype.isnative):
            return f"one of {array.dtype.str} that lies askew" if array.dtype.isnative else f"one of {array.dtype.str}"
        if written and not flags.writeable:
            return "a read-only one"
    return ""


def rows_of(array: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    """A two-dimensional array in this dtype with its rows' elements side by side, itself if it is so already."""
    array = array.astype(dtype, copy=False)
    batch, size = array.shape
    whole_steps = array.flags.aligned and (batch < 2 or array.strides[0] % array.itemsize == 0)
    if whole_steps and (size < 2 or array.strides[1] == array.itemsize):
        return array
    return np.ascontiguousarray(array)


def _imported(x: Any) -> np.ndarray[Any, Any]:
    if hasattr(x, "resolve_neg"):  # PyTorch's views that say that numbers are negated, of which DLPack says nothing
        x = x.resolve_neg()
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError):  # a dtype that NumPy does not know, such as bfloat16
            if str(x.dtype) == "torch.bfloat16":  # which even PyTorch does not turn into an array
                x = x.float()
    array = np.asarray(x)
    if not array.dtype.hasobject or not hasattr(x, "columns"):
        return array
    # A data frame of several kinds of numbers, or of a kind that may be missing.
    return array.astype(np.float64) if all(isinstance(each, Real | np.bool_) for each in array.flat) else array
