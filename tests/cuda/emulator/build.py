"""Compile the device and CUDA sources with g++, once for each content, into a folder of shared libraries."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / f"sparsecore-emulated-cuda-{os.getuid() if hasattr(os, 'getuid') else 0}"

_FLAGS = ("-std=gnu++20", "-O2", "-march=native", "-fPIC", "-g1", "-fno-strict-aliasing")
# What the sanitizers' hooks should see is what the source does: no access joined with another, none taken apart.
_CHECKED = (
    "-O1", "-fsanitize=thread,bounds", "--param=tsan-instrument-func-entry-exit=0", "-fno-tree-sra",
    "-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-fno-store-merging",
)  # fmt: skip
_RUNTIME = ("fibers.cpp", "memory.cpp", "check.cpp")


class CompileError(RuntimeError):
    """g++ does not take the source; its messages."""


def why_not() -> str | None:
    """Why nothing can be emulated here and what to do, or None."""
    if platform.machine() not in ("x86_64", "AMD64") or os.name != "posix":
        return "the emulated CUDA device needs Linux on x86-64"
    return None if shutil.which("g++") else "the emulated CUDA device needs g++: apt-get install g++"


@cache
def runtime() -> ctypes.CDLL:
    """The device; kernels' libraries find its functions by name."""
    sources = [HERE / name for name in _RUNTIME]
    text = "".join(path.read_text() for path in sorted(HERE.glob("*.[hc]*")))
    library = _cached(text, _FLAGS, lambda out: _gxx(*_FLAGS, "-shared", "-o", out, *map(str, sources)))
    device = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    device.device_allocate.restype = ctypes.c_void_p
    device.device_allocate.argtypes = [ctypes.c_size_t]
    device.device_release.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    device.device_error.restype = ctypes.c_char_p
    device.device_order.argtypes = [ctypes.c_int, ctypes.c_uint64]
    device.device_count.argtypes = [ctypes.c_int, ctypes.c_void_p]
    return device


@cache
def kernels(source: str, options: tuple[str, ...], checking: bool) -> tuple[ctypes.CDLL, list[str]]:
    """The library of a CUDA source, and the names of its kernels.

    Parameters
    ----------
    source : str
        CUDA C without includes, its kernels `extern "C"`.
    options : tuple of str
        As for NVRTC; only definitions, -DNAME=VALUE, matter here.
    checking : bool
        Whether every access goes through `check.cpp`.

    Raises
    ------
    CompileError
    """
    runtime()
    define = [option for option in options if option.startswith("-D")] + [f"-DEMULATED_CHECKED={int(checking)}"]
    flags = (*_FLAGS, *(_CHECKED if checking else ()), "-w", f"-I{HERE}", *define)
    expanded = _gxx(*flags, "-E", "-x", "c++", "-include", str(HERE / "cuda.h"), "-", stdin=source)
    names = re.findall(r'extern\s+"C"\s+EMULATED_KERNEL\s+void\s+(\w+)\s*\(', expanded)
    exports = "".join(
        f'extern "C" int run_{name}(const unsigned* g, const unsigned* b, void** a) '
        f"{{ return emulated::Entry<{name}>::run(g, b, a); }}\n"
        f'extern "C" const char* parameters_{name}() {{ return emulated::Entry<{name}>::parameters(); }}\n'
        for name in names
    )
    text = expanded.replace("EMULATED_KERNEL", "") + "\n" + exports

    def build(out: str) -> None:
        # In two steps: asked to link, g++ would bring in ThreadSanitizer's own library.
        _gxx(*flags, "-x", "c++-cpp-output", "-c", "-o", out + ".o", "-", stdin=text)
        _refuse_hidden_memory(out + ".o")
        _gxx("-shared", "-o", out, out + ".o")
        os.unlink(out + ".o")

    return ctypes.CDLL(str(_cached(text, flags, build))), names


def _refuse_hidden_memory(file: str) -> None:
    """Refuse __shared__ in a template: g++ puts that where the device neither poisons nor checks it."""
    listing = subprocess.run(["nm", "-C", file], capture_output=True, text=True, check=True).stdout
    hidden = re.findall(r"^\w+ [bBuV] (?!.*emulated::)(.*::\w+)$", listing, re.M)
    if hidden:
        raise CompileError(f"declare __shared__ in the kernel itself and pass it on, got {hidden[0]}")


def _cached(text: str, flags: tuple[str, ...], build: Callable[[str], object]) -> Path:
    key = hashlib.sha256("\0".join((text, *flags)).encode()).hexdigest()[:24]
    library = CACHE / f"{key}.so"
    if not library.exists():
        CACHE.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            out = f"{folder}/{key}.so"
            build(out)
            os.replace(out, library)
    return library


def _gxx(*arguments: str, stdin: str | None = None) -> str:
    run = subprocess.run(["g++", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompileError(run.stderr)
    return run.stdout
