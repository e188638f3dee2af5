"""Several threads of the engine over one: on a quiet machine, beside a process that spins, beside PyTorch's threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import fmean, median
from time import perf_counter
from typing import Any

from sparsecore.runtime.devices import cpu, set_threads

from .engines import has_torch, sparsecore
from .options import Options
from .problem import layer_pattern
from .tables import markdown, number, pick, ratio
from .timing import Row

LAYERS = (((784, 300), 0.9), ((784, 300), 0.99), ((1024, 1024), 0.9), ((4096, 4096), 0.99))
MODULES = (((784, 300), 0.95), ((1024, 1024), 0.9), ((4096, 4096), 0.99), ((384, 1536), 0.9))
"""in_features, out_features, sparsity; a module of PyTorch takes turns with `nn.Linear` on as many threads."""
BLOCK = 0.2
"""Seconds that one number of threads has before another does: longer than the system's slices of time."""


def measure(options: Options) -> list[Row]:
    """One thread and several take turns at everything."""
    several = max(2, options.threads)
    seconds = 0.0 if options.quick else 4.0
    rows: list[Row] = []
    for batch in options.batches or (128,):
        for size, sparsity in LAYERS[:1] if options.quick else LAYERS:
            for where, beside in (("quiet", _nothing), ("a spinning process", _spinning)):
                rows += _layer(size, sparsity, batch, several, where, beside, seconds)
        if has_torch():
            for size, sparsity in MODULES[:1] if options.quick else MODULES:
                rows += _module(size, sparsity, batch, several, seconds)
    return rows


def _layer(
    size: tuple[int, int], sparsity: float, batch: int, several: int, where: str, beside: Any, seconds: float
) -> list[Row]:
    """Forward, dX, dW and update of a layer in the middle of a network."""
    pattern = layer_pattern(size[::-1], "random", sparsity)
    steps = {threads: sparsecore.LayerStep(pattern, batch, threads).run for threads in (1, several)}
    with beside():
        return _rows("layer", where, size, sparsity, batch, {each: [step] for each, step in steps.items()}, seconds)


def _module(size: tuple[int, int], sparsity: float, batch: int, several: int, seconds: float) -> list[Row]:
    """Forward and backward of a module after the same of `nn.Linear`, whose threads then spin for a while."""
    import torch

    from sparsecore.interop.torch import SparseLinear

    torch.set_num_threads(several)
    ours, dense = SparseLinear(*size, pattern=layer_pattern(size[::-1], "random", sparsity)), torch.nn.Linear(*size)
    x, dy = torch.randn(batch, size[0], requires_grad=True), torch.randn(batch, size[1])

    def step(layer: Any, threads: int | None) -> None:
        if threads is not None and threads != cpu().pool.threads:
            set_threads(threads)
        for each in (x, *layer.parameters()):
            each.grad = None
        layer(x).backward(dy)

    calls: dict[int, Sequence[Callable[[], object]]] = {
        threads: [partial(step, dense, None), partial(step, ours, threads)] for threads in (1, several)
    }
    before = cpu().given
    try:
        return _rows("module", "PyTorch's threads", size, sparsity, batch, calls, seconds)
    finally:
        set_threads(before)


def _rows(
    what: str, where: str, size: tuple[int, int], sparsity: float, batch: int,
    calls: dict[int, Sequence[Callable[[], object]]], seconds: float,
) -> list[Row]:  # fmt: skip
    """A row for each number of threads: of its calls the last is timed. Means count too, since what happens seldom and
    takes long is what one is after."""
    times = _in_blocks(calls, seconds)
    fields = {"bench": "busy", "model": f"{size[0]}x{size[1]}", "topology": "random", "sparsity": sparsity,
              "batch": batch, "engine": "sparsecore", "what": what, "where": where}  # fmt: skip
    return [
        fields | {"threads": threads, "ms": 1e3 * median(found), "mean_ms": 1e3 * fmean(found)}
        for threads, found in times.items()
    ]


def _in_blocks(calls: dict[int, Sequence[Callable[[], object]]], seconds: float) -> dict[int, list[float]]:
    times: dict[int, list[float]] = {threads: [] for threads in calls}
    began = perf_counter()
    while not times[max(times)] or perf_counter() - began < seconds:
        for threads, (*before, timed) in calls.items():
            timed()  # threads start, and what slept wakes
            end = perf_counter() + (BLOCK if seconds else 0)
            while True:
                for each in before:
                    each()
                start = perf_counter()
                timed()
                times[threads].append(perf_counter() - start)
                if perf_counter() >= end:
                    break
    return times


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _spinning() -> Iterator[None]:
    """A process that takes a processor for itself."""
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


def table(rows: list[Row]) -> str:
    """Medians, and how long several threads take over one, by medians and by means."""
    body = []
    for key in dict.fromkeys((r["what"], r["model"], r["sparsity"], r["batch"], r["where"]) for r in rows):
        what, model, sparsity, batch, where = key
        one, several = pick(rows, what=what, model=model, sparsity=sparsity, batch=batch, where=where)
        body.append([
            what, model, f"{100 * sparsity:g}%", f"{batch}", where, number(one["ms"]), number(several["ms"]),
            ratio(several["ms"], one["ms"]), ratio(several["mean_ms"], one["mean_ms"]),
        ])  # fmt: skip
    threads = max((row["threads"] for row in rows), default=2)
    head = ["", "size", "sparsity", "batch", "beside", "1 thread, ms", f"{threads} threads, ms", "over one", "by means"]
    return markdown("Several threads over one: time, so that less than 1 is faster", head, body)
