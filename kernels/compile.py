"""How the engine's Numba functions are compiled, and what this processor offers."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba


def njit(function: Callable[..., Any]) -> Any:
    """Compile without the GIL and without the checks that a kernel's contract already makes; kept on disk."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(versioned(function))


def versioned(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function a name that changes with the source of any kernel, for Numba to keep it under.

    Numba looks only at the file that a function stands in, not at the intrinsics and constants it takes from others.
    """
    function.__qualname__ += f"_{source():08x}"
    return function


@cache
def source() -> int:
    """A number that changes when any Python file does that a CPU kernel may be made of."""
    here = Path(__file__).parent
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted([*here.glob("*.py"), *here.glob("cpu/**/*.py")])))


@cache
def register_bytes() -> int:
    """Bytes of this processor's widest vector register: 64 (AVX-512), 32 (AVX2) or 16 (NEON, SSE)."""
    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:  # the platform does not tell
        return 16
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") and features.get("fma") else 16
