"""CSR beside COO, the kernels alone, one thread: `python -m bench.formats`. LeNet's layers and hypersparse ones."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan
from sparsecore.topology import uniform_random


def zipf_rows(size: int, draws: int, rng: np.random.Generator) -> SparsityPattern:
    """A square pattern whose few first rows have most of the connections."""
    rows = np.minimum(rng.zipf(1.5, draws) - 1, size - 1)
    keys = np.unique(rows * size + rng.integers(0, size, draws))
    return SparsityPattern.from_coo((size, size), keys // size, keys % size)


def median_ms(run: Callable[[], None], times: int) -> float:
    """Of `times` runs after one that is not counted."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) * 1e3


def main() -> None:
    set_threads(1)
    device, rng = cpu(), np.random.default_rng(0)
    kernels = device.launcher()
    cases = [
        ("784→300, 90%", 8, uniform_random(300, 784, 0.9, rng)),
        ("784→300, 99%", 8, uniform_random(300, 784, 0.99, rng)),
        ("1M×1M, 10 a row", 2, uniform_random(10**6, 10**6, 1 - 1e-5, rng)),
        ("1M×1M, 1 a row", 2, uniform_random(10**6, 10**6, 1 - 1e-6, rng)),
        ("100k×100k, Zipf rows", 2, zipf_rows(10**5, 10**6, rng)),
    ]
    print("| pattern | connections | batch | spmm csr, ms | coo | sddmm csr, ms | coo |\n|---|---|---|---|---|---|---|")
    for name, tiles, pattern in cases:
        data, grad = (device.zeros((pattern.nnz,), np.float32) for _ in range(2))
        x = device.zeros((tiles, pattern.shape[1], 16), np.float32)
        y = device.zeros((tiles, pattern.shape[0], 16), np.float32)
        times = 200 if pattern.nnz < 10**5 else 3
        plans = [Plan(pattern, form) for form in ("csr", "coo")]
        cells = [
            median_ms(lambda p=plan: kernels.spmm(p.forward, p.grid(tiles), data, x, None, y), times)  # type: ignore[misc]  # noqa: B023
            for plan in plans
        ] + [
            median_ms(lambda p=plan: kernels.sddmm(p.forward, p.grid(tiles), y, x, grad, None), times)  # type: ignore[misc]  # noqa: B023
            for plan in plans
        ]
        print(f"| {name} | {pattern.nnz:,} | {16 * tiles} | " + " | ".join(f"{ms:.3f}" for ms in cells) + " |")


if __name__ == "__main__":
    main()
