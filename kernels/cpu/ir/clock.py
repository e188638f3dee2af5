"""A clock that compiled code can read in a few nanoseconds, for comparing how long one thing took with another."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...compile import njit
from .vector import I64, Builder, Value

if platform.machine().lower() in ("x86_64", "amd64"):

    @intrinsic
    def ticks(_: Any) -> Any:
        """The time in ticks, of which there are a few in a nanosecond."""

        def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
            kind = ir.FunctionType(I64, [])
            return b.call(b.module.declare_intrinsic("llvm.readcyclecounter", (), kind), [])

        return types.int64(), emit

else:
    import numpy as np

    _clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.voidptr))
    _MONOTONIC = 6 if platform.system() == "Darwin" else 1

    @njit
    def ticks() -> int:
        """The time in ticks, of which there is one in a nanosecond."""
        time = np.empty(2, np.int64)
        _clock_gettime(_MONOTONIC, time.ctypes)
        return time[0] * 1_000_000_000 + time[1]
