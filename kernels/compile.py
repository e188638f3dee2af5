"""How the engine's Numba functions are compiled, and what this processor offers."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import config, sigutils
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock

from .cache import cache_of


def njit(function: Callable[..., Any]) -> Any:
    """Compile without the GIL and without the checks that a kernel's contract already makes; kept on disk.

    With NUMBA_DISABLE_JIT=1 too, which is meant for functions that Python could run as well: intrinsics it cannot.
    """
    disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        compiled = numba.njit(nogil=True, error_model="numpy")(versioned(function))
    finally:
        config.DISABLE_JIT = disabled
    compiled._cache = cache_of(function)
    return compiled


def cfunc(signature: Any, function: Callable[..., Any]) -> CFunc:
    """Compile to C's calling convention, now; kept on disk."""
    args, result = sigutils.normalize_signature(signature)
    compiled: Any = CFunc(versioned(function), (args, result), locals={}, options={"error_model": "numpy"})
    compiled._cache = cache_of(function)
    compiled.compile()
    return compiled


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


# A fork waits for whoever compiles: the child would inherit Numba's lock, held by a thread that it does not have.
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )  # fmt: skip
