"""What the card can do, measured: memory and cache by copies, float32 by cuBLAS, and an empty launch in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench import cuda as bench
from bench.engines.cupy_peers import Captured

from . import results

_LAUNCHES = 100


class _Launches(Captured):
    """Launches that do next to nothing, one after another."""

    def __init__(self) -> None:
        import cupy

        self.one = cupy.zeros(32, np.float32)
        super().__init__(True)

    def work(self) -> None:
        for _ in range(_LAUNCHES):
            self.one += 1


def ceilings(small: bool) -> Iterator[results.Found]:
    """Rates in numbers a second, and the seconds of a launch."""
    import cupy

    cache = cupy.cuda.runtime.getDeviceProperties(0)["l2CacheSize"]
    for what, nbytes in (("memory", 1 << 14 if small else 1 << 30), ("cache", cache // 4)):
        yield {"what": what, "rate": 2 * nbytes / _seconds(_copy(nbytes), 2 if small else 10), "bytes": nbytes}
    side = 64 if small else 8192
    a, b = (cupy.asarray(np.random.default_rng(k).standard_normal((side, side), np.float32)) for k in range(2))
    out = cupy.empty((side, side), np.float32)
    seconds = _seconds(lambda: cupy.matmul(a, b, out=out), 2 if small else 5)
    yield {"what": "float32", "rate": 2 * side**3 / seconds, "side": side}
    launches = _Launches()
    yield {"what": "launch", "seconds": _seconds(launches.run, 2 if small else 20) / _LAUNCHES}


def _copy(nbytes: int) -> Any:
    import cupy

    source, target = cupy.ones(nbytes // 4, np.float32), cupy.empty(nbytes // 4, np.float32)

    def run() -> None:
        target[...] = source

    return run


def _seconds(run: Any, count: int) -> float:
    run()
    return 1e-3 * sorted(bench.milliseconds(run, count) for _ in range(5))[2]
