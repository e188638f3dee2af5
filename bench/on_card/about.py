"""Part (a): what is there, and everything compiled once, so that later parts find it in the caches.

Whatever is missing or too old is said, and the rest goes on; without the package or the card this part fails.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from . import results

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("llvmlite", "torch", "pytest", "hypothesis", "pytest-benchmark")
FAMILIES = {
    "spmm": "spmm_1", "sddmm": "sddmm_1", "pack": "pack", "loss": "tally", "update": "sgd", "coo": "spmm_coo",
    "relu": "relu", "place": "place", "add": "add", "norm": "settle", "fold": "fold",
    "pooling": "max_pool", "dropout": "dropout",
}  # fmt: skip
"""Of kernels, with a kernel of each, by how much depends on them. Whoever asks for one compiles all of its family."""


def main() -> None:
    for found in (*libraries(), card(), *compiled()):
        results.write("about", found)


def libraries() -> Iterator[results.Found]:
    """Each library's version beside the one that the package asks for; "old" and "missing" are for whoever reads."""
    yield {"what": "python", "version": platform.python_version(), "machine": platform.machine(),
           "processors": len(os.sched_getaffinity(0)), "executable": sys.executable}  # fmt: skip
    for name, least in (*required(), *((name, "") for name in OTHERS)):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield {"what": name, "missing": True, "least": least}
            continue
        yield {"what": name, "version": version, "least": least, "old": _numbers(version) < _numbers(least)}


def required() -> Iterator[tuple[str, str]]:
    """Names and least versions of what pyproject.toml asks for, the GPU's included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in (*project["dependencies"], *project["optional-dependencies"]["cuda"]):
        name, least = re.match(r"([\w-]+)(?:\[.*?\])?>=([\d.]+)", line).groups()  # type: ignore[union-attr]
        yield name, least


def card() -> results.Found:
    """The card, its driver, CuPy and NVRTC."""
    import cupy

    from .cards import like

    runtime = cupy.cuda.runtime
    of = runtime.getDeviceProperties(0)
    name = of["name"].decode()
    known = like(name)
    return {
        "what": "card", "name": name, "capability": f"{of['major']}.{of['minor']}",
        "multiprocessors": of["multiProcessorCount"], "cache": of["l2CacheSize"], "memory": of["totalGlobalMem"],
        "cupy": cupy.__version__, "runtime": runtime.runtimeGetVersion(), "driver": runtime.driverGetVersion(),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())), "like": known and known.name,
    }  # fmt: skip


def compiled() -> Iterator[results.Found]:
    """The package imported, Numba's kernels and NVRTC's, with their seconds."""
    began = perf_counter()
    import sparsecore
    from bench.engines import sparsecore as engine
    from bench.problem import training_problem
    from sparsecore.runtime.devices import cuda

    from .six import device_step

    yield {"what": "import", "package": str(Path(sparsecore.__file__).parent), "version": sparsecore.__version__,
           "seconds": round(perf_counter() - began, 2)}  # fmt: skip
    problem = training_problem((60, 40, 20, 10) if results.small() else (784, 300, 100, 10), "random", 0.9, 16)
    yield {"what": "a step on the processor", "seconds": _seconds(lambda: engine.Step(problem, 1).run())}
    yield {"what": "a step on the card", "seconds": _seconds(lambda: device_step(problem, cuda()))}
    from sparsecore.kernels.cuda import launch

    for family, name in list(FAMILIES.items())[: 2 if results.small() else None]:
        yield {"what": f"NVRTC, {family}", "seconds": _seconds(partial(launch.kernel, family, name, 4))}


def _seconds(work: Callable[[], Any]) -> float:
    began = perf_counter()
    work()
    return round(perf_counter() - began, 2)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


if __name__ == "__main__":
    main()
