"""The machine a timing was taken on: its processor, its libraries, and what its BLAS reaches."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from sparsecore.kernels.compile import register_bytes

from .environment import FORCED
from .options import Options
from .timing import Entry, Row, fastest_rows


def describe() -> str:
    """Processor, cores, register width and libraries, in two lines."""
    packages = ["numpy", "scipy", "numba", "torch"]
    libraries = ", ".join(f"{name} {found}" for name in packages if (found := _version(name)))
    forced = "".join(f" (slowed down by {name}={os.environ[name]})" for name in FORCED if name in os.environ)
    return (
        f"{processor()}, {os.cpu_count()} cores, {8 * register_bytes()}-bit registers; "
        f"Python {platform.python_version()}, {libraries}\nNumPy's BLAS: {blas()}{forced}"
    )


def processor() -> str:
    """The processor's name, as exactly as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return facts.get("model name", platform.machine()) + family


def blas() -> str:
    """Name, version, kernel and threads of the BLAS that NumPy calls, as far as they can be learned."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        built: Any = np.show_config(mode="dicts")
        found = built["Build Dependencies"]["blas"]
        return f"{found['name']} {found['version']} (its kernel is known only with threadpoolctl installed)"
    for pool in threadpool_info():
        if pool["user_api"] == "blas" and "numpy" in pool["filepath"]:
            kernel = pool.get("architecture", "unknown")
            return f"{pool['internal_api']} {pool['version']}, kernel {kernel}, threads {pool['num_threads']}"
    return "unknown"


def ceiling(options: Options) -> list[Row]:
    """sgemm at a size that suits it: what this machine can be expected to reach."""
    size = 256 if options.quick else 1024
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)
    fields = {
        "bench": "ceiling", "model": f"{size}x{size}", "topology": "dense", "sparsity": 0.0, "batch": size,
        "threads": options.threads, "engine": "numpy-hand", "flops": 2 * size**3, "machine": describe(),
    }  # fmt: skip
    return fastest_rows([Entry(fields, lambda: np.matmul(a, b, out=out))], options.budget(1))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
