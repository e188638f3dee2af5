"""How the engine's Numba functions are compiled, and what this processor offers."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
import zlib

import llvmlite.binding as llvm
import numba

njit = partial(numba.njit, nogil=True, cache=True, error_model="numpy")
"""Compiled without the GIL, kept on disk, no checks that a kernel's contract already makes."""


@cache
def source() -> int:
    """A number that changes when any CPU kernel's source does.

    Numba keeps compiled code by the file a function stands in, and does not see a change in an intrinsic of another
    file. Kernels close over this number, which makes it part of their key.
    """
    folder = Path(__file__).parent / "cpu"
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))))


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
