"""A user's own compiled functions as kernels: called by address, cut into parts and recorded as the engine's are.

The function is called as `function(*inputs, *outputs, first, last)` and does the things from `first` to before `last`.
Around it stands a C function of a kernel's form, which makes arrays of the call's words; so a tape knows no difference.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import from_dtype

from .call import SIGNATURE, WORDS, share
from .ir.atomics import jump
from .ir.vector import I32, I64, SCALAR, Builder, Value

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def is_python(function: Any) -> bool:
    """Whether a function is Python because Numba is told to compile nothing."""
    return not isinstance(function, Dispatcher)


def check_own(function: Any, count: int, inputs: Sequence[Any], outputs: Sequence[Any], *, recorded: bool) -> None:
    """Refuse a function that is no kernel, and what it would misread. Raises TypeError or ValueError.

    Arrays cannot be written to while a call is `recorded`.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not isinstance(function, Dispatcher) and not (config.DISABLE_JIT and callable(function)):
        raise TypeError(f"{name}: a kernel must be a function compiled by numba.njit, got {type(function).__name__}")
    if isinstance(function, Dispatcher) and function.targetoptions.get("parallel"):
        raise ValueError(f"{name}: a kernel is cut into parts by the engine, got one compiled with parallel=True")
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
        raise ValueError(f"{name}: count must be a whole number of at least 0, got {count!r}")
    words = 3  # the kernel, its parts, and the count
    for k, value in enumerate((*inputs, *outputs)):
        words += 1 + getattr(value, "ndim", 0)
        if isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise ValueError(f"{name}: argument {k} must be contiguous, got strides {value.strides}")
            if k >= len(inputs) and not (recorded or value.flags.writeable):
                raise ValueError(f"{name}: argument {k} is written to, got a read-only array")
            if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8 or not value.dtype.isnative:
                raise TypeError(f"{name}: argument {k} must hold ordinary numbers, got {value.dtype}")
        elif k >= len(inputs) or not isinstance(value, int | float | np.integer | np.floating):
            wanted = "an array or a number" if k < len(inputs) else "an array, which is written to"
            raise TypeError(f"{name}: argument {k} must be {wanted}, got {type(value).__name__}")
    if words > WORDS:
        raise ValueError(
            f"{name}: a call must fit {WORDS} words, one of a number and 1 + dimensions of an array, got {words}"
        )


def own_kernel(function: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The kernel that calls a function for arrays and numbers of these types.

    Raises
    ------
    TypeError
        If Numba cannot compile the function for them.
    """
    given = *(_kind(value, readonly=True) for value in inputs), *(_kind(value, readonly=False) for value in outputs)
    try:
        return _compiled(function, given, len(outputs))
    except NumbaError as error:
        name, kinds, told = function.__name__, ", ".join(map(str, given)), " ".join(str(error).split())
        raise TypeError(f"{name}: Numba cannot compile it for ({kinds}, int64, int64): {told:.300}") from None


def words_of(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """A call's words after the count, by made-up names: numbers, and arrays followed by their shapes."""
    words: dict[str, Any] = {}
    for value in (*inputs, *outputs):
        words[f"word {len(words)}"] = value if isinstance(value, np.ndarray) else _bits(value)
        for size in value.shape if isinstance(value, np.ndarray) else ():
            words[f"word {len(words)}"] = size
    return words


def _kind(value: Any, *, readonly: bool) -> Any:
    if isinstance(value, np.ndarray):
        return types.Array(from_dtype(value.dtype), value.ndim, "C", readonly=readonly)
    if isinstance(value, np.float32):
        return types.float32
    return types.float64 if isinstance(value, float | np.floating) else types.int64


def _bits(value: Any) -> int:
    if isinstance(value, np.float32):
        return int(value.view(np.int32))
    return int(np.float64(value).view(np.int64)) if isinstance(value, float | np.floating) else int(value)


@cache
def _compiled(function: Any, kinds: tuple[Any, ...], outputs: int) -> Any:
    given, failed = _reader(kinds), _failure(function.__name__, kinds, outputs)
    address = ctypes.cast(failed, ctypes.c_void_p).value

    def run(call, part, until, parts):  # type: ignore[no-untyped-def]
        count, values = given(call)
        first, last = share(count, part, until, parts)
        arguments = (*values, first, last)
        try:
            function(*arguments)
        except Exception:
            jump(address, call, part, until, parts)

    made: Any = CFunc(run, (SIGNATURE.args, SIGNATURE.return_type), locals={}, options={"error_model": "numpy"})
    made.compile()
    made.failed = failed  # which must live as long
    return made


def _reader(kinds: tuple[Any, ...]) -> Any:
    """What reads a call's words: the count, and a tuple of values of these types."""
    result = types.Tuple([types.int64, types.Tuple(kinds)])

    @intrinsic
    def given(_: Any, call: Any) -> Any:
        def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
            words = b.bitcast(args[0], I64.as_pointer())
            at = iter(range(WORDS))

            def word() -> Value:
                return b.load(b.gep(words, [I64(next(at))]))

            count = word()
            values = [_value(context, b, kind, word) for kind in kinds]
            return context.make_tuple(b, result, [count, context.make_tuple(b, result.types[1], values)])

        return result(types.voidptr), emit

    return given


def _value(context: Any, b: Builder, kind: Any, word: Any) -> Value:
    if not isinstance(kind, types.Array):
        bits = word()
        if kind == types.float32:
            bits = b.trunc(bits, I32)
        return b.bitcast(bits, SCALAR[kind]) if kind in SCALAR else bits
    array = make_array(kind)(context, b)
    data, shape = word(), [word() for _ in range(kind.ndim)]
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [I64(size)]
    for length in reversed(shape[1:]):
        strides.insert(0, b.mul(strides[0], length))
    populate_array(
        array, data=b.inttoptr(data, array.data.type), shape=shape, strides=strides[: kind.ndim],
        itemsize=ir.Constant(context.get_value_type(types.intp), size), meminfo=None,
    )  # fmt: skip
    return array._getvalue()


def _failure(name: str, kinds: tuple[Any, ...], outputs: int) -> Any:
    """What an exception in a function comes to, which cannot pass through a tape: it is said, and outputs become NaN,
    so that a run notices."""

    def failed(call: int, part: int, until: int, parts: int) -> None:
        words, at = (ctypes.c_int64 * WORDS).from_address(call), 1
        for k, kind in enumerate(kinds):
            dimensions = kind.ndim if isinstance(kind, types.Array) else 0
            if dimensions and k >= len(kinds) - outputs and kind.dtype in SCALAR:
                size = int(np.prod(words[at + 1 : at + 1 + dimensions]))
                number: Any = ctypes.c_float if kind.dtype == types.float32 else ctypes.c_double
                np.ctypeslib.as_array((number * size).from_address(words[at])).fill(np.nan)
            at += 1 + dimensions
        what = f"{name}: raised an exception on a tape; what it was to write is NaN"
        warnings.warn(what, RuntimeWarning, stacklevel=1)

    return _CALLBACK(failed)
