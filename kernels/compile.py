"""How the engine's Numba functions are compiled, and for what registers."""

from __future__ import annotations

import os
import re
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
from numba.core.registry import cpu_target

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
    """Bytes of the widest vector registers that Numba compiles for: 64 (AVX-512), 32 (AVX2) or 16 (NEON, SSE).

    They are this processor's, unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES ask for another's.
    """
    return register_bytes_of(*cpu_target.target_context.codegen().magic_tuple())


def register_bytes_of(triple: str, name: str, features: str) -> int:
    """The same for a target of LLVM's, which alone knows what a name and a list of features come to: it compiles a
    multiply-add."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    text = machine.emit_assembly(llvm.parse_assembly(_MULTIPLY_ADD))
    found = re.findall(r"\bvfmadd\w*\s.*\b([yz])mm", text)
    return 64 if "z" in found else 32 if "y" in found else 16


_MULTIPLY_ADD = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define <16 x float> @square(<16 x float> %x) {
  %y = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %x, <16 x float> %x)
  ret <16 x float> %y
}
"""


# A fork waits for whoever compiles: the child would inherit Numba's lock, held by a thread that it does not have.
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )  # fmt: skip
