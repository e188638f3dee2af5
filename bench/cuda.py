"""`python -m bench --device cuda`: this engine on a GPU, beside cuBLAS, cupyx's sparse products and PyTorch.

It has never run on a GPU here: what it prints on one is the first measurement.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sparsecore.runtime.device import Device, DeviceError
from sparsecore.runtime.devices import device

from . import kernels, steps
from .engines import BOTH, DENSE, SPARSE, Contender
from .options import Options
from .problem import MODELS, SPARSITIES, layer_pattern, layer_topologies, training_problem
from .tables import fastest, markdown, number, pick, ratio, wires
from .timing import Entry, Row

BENCHES = ("step", "gather", "sample")
ENGINES = ("sparsecore", "bfloat16", "cublas", "cupyx", "torch-eager", "torch-graph")
_ROUNDS, _FEWEST, _MS = 15, 3, 3.0  # turns of each engine, and how long one is
_ALL = 1000.0  # milliseconds for all that take turns; whoever is slow gets fewer turns, and three at least


def gpu(name: str) -> Device:
    """The GPU of this name. Raises DeviceError, which says that nothing ever ran on one here, and why."""
    try:
        return device(name)
    except DeviceError as error:
        raise DeviceError(f"never run on hardware here: {error}") from None


def contenders(what: str, on: Device, model: str = "lenet300") -> list[Contender]:
    """All that can do a "step" of a model, a "gather" or a "sample" there."""
    from .engines import cupy_peers, sparsecore

    found = [Contender("sparsecore", way, BOTH, partial(make, threads=1, device=on))
             for way, make in sparsecore.WHAT[what].items()]  # fmt: skip
    if what != "step" or model == "lenet300":  # there are no convolutions in cuBLAS
        for engine, patterns, ways in (("cublas", DENSE, cupy_peers.DENSE), ("cupyx", SPARSE, cupy_peers.SPARSE)):
            found += [Contender(engine, way, patterns, make) for way, make in ways.get(what, {}).items()]
    if what == "step" and torch_sees_a_card():
        from .engines import torch_cuda

        found += [Contender(engine, "", DENSE, make) for engine, make in torch_cuda.STEPS[model].items()]
    return found


def in_halves(on: Device) -> Contender:
    """A step of this engine whose activations are stored in bfloat16."""
    from .engines import sparsecore

    return Contender("bfloat16", "", BOTH, partial(sparsecore.Step, threads=1, device=on, activations="bfloat16"))


def torch_sees_a_card() -> bool:
    """Whether PyTorch is installed, and for GPUs."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def measure(options: Options, what: str, on: Device) -> list[Row]:
    """Every engine at every size, batch and wiring; all of one size and batch take turns."""
    rows: list[Row] = []
    among = contenders(what, on)
    if what == "step":
        among.append(in_halves(on))
        for batch in options.batches or ((32,) if options.quick else (128, 1024)):
            entries = []
            for topology, sparsity in steps.networks(options.sparsities or ((0.9,) if options.quick else SPARSITIES)):
                problem = training_problem(MODELS[options.model], topology, sparsity, batch)
                entries += steps.entries_of(problem, options.model, topology, sparsity, among, 1)
            rows += fastest_rows(entries, options.quick)
        return rows
    for size, batch in kernels.sizes(options):
        entries = []
        for topology, sparsity in layer_topologies(size[::-1], options.sparsities or (0.9, 0.99)):
            pattern = layer_pattern(size[::-1], topology, sparsity)
            entries += kernels.entries_of(what, topology, pattern, batch, among, 1)
        rows += fastest_rows(entries, options.quick)
    return rows


def table(rows: Sequence[Row]) -> str:
    """One table for each benchmark, size and batch: microseconds, by the GPU's own clock."""
    tables = []
    for bench, model, batch in dict.fromkeys((row["bench"], row["model"], row["batch"]) for row in rows):
        some = pick(rows, bench=bench, model=model, batch=batch)
        dense, body = fastest(pick(some, "cublas", topology="dense")), []
        for topology, sparsity in dict.fromkeys((row["topology"], row["sparsity"]) for row in some):
            these = pick(some, topology=topology, sparsity=sparsity)
            times = [fastest(pick(these, engine)) for engine in ENGINES]
            shown = [number(None if ms is None else 1e3 * ms) for ms in times]
            body.append([wires(topology, sparsity), f"{these[0]['connections']:,}", *shown, ratio(dense, times[0])])
        head = ["pattern", "connections", *ENGINES, "over cublas dense"]
        tables.append(markdown(f"{bench}, {model}, batch {batch}, µs", head, body))
    return "\n".join(tables)


def describe(on: Device) -> str:
    """The card, and the libraries."""
    import cupy

    number = int(on.name.partition(":")[2] or 0)
    name = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
    runtime, driver = cupy.cuda.runtime.runtimeGetVersion(), cupy.cuda.runtime.driverGetVersion()
    return f"{name}; cupy {cupy.__version__}, CUDA {runtime}, driver {driver}"


def fastest_rows(entries: Sequence[Entry], quick: bool) -> list[Row]:
    """Median times of all entries, which take turns; of those that differ only in "variant" the fastest."""
    best: dict[tuple[Any, ...], Row] = {}
    plans = [_plan(entry.run, quick) for entry in entries]
    turn = sum((count + 1) * ms for count, ms in plans)
    times: list[list[float]] = [[] for _ in plans]
    for _ in range(1 if quick else min(_ROUNDS, max(_FEWEST, round(_ALL / turn)))):
        for entry, (count, _), own in zip(entries, plans, times, strict=True):
            own.append(milliseconds(entry.run, count))
    for entry, own in zip(entries, times, strict=True):
        row = entry.fields | {"ms": statistics.median(own), "device": "cuda"}
        row["gflops"] = row.pop("flops") / row["ms"] / 1e6
        key = tuple(value for name, value in entry.fields.items() if name != "variant")
        if key not in best or row["ms"] < best[key]["ms"]:
            best[key] = row
    return list(best.values())


def _plan(run: Callable[[], object], quick: bool) -> tuple[int, float]:
    """Calls of a turn, and about what each takes. The first two compile, and capture what can be captured."""
    for _ in range(3):
        run()
    ms = max(milliseconds(run, 1 if quick else 2), 1e-3)
    return 1 if quick else max(2, round(_MS / ms)), ms


def milliseconds(run: Callable[[], object], count: int) -> float:
    """Of one call, between two events on the stream; one call before them brings its data into the caches."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    run()
    begin.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / count
