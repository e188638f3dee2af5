"""Convolutions of many shapes: forward and backward, and how many times as fast as PyTorch's dense ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .conv_problem import SHAPES, conv_layer
from .engines import Contender, conv_contenders
from .options import ConvShape, Options
from .tables import fastest, markdown, number, pick, ratio, wires
from .timing import Entry, Row, fastest_rows

ENGINES = ("sparsecore", "torch-eager", "torch-channels-last")
BATCHES = (8, 16, 32, 128)


def measure(options: Options) -> list[Row]:
    """Every shape at every batch; the patterns of one shape and batch take turns with PyTorch's dense layer."""
    rows: list[Row] = []
    for shape in options.shapes or (SHAPES[2:4] if options.quick else SHAPES):
        for batch in options.batches or ((8,) if options.quick else BATCHES):
            entries = []
            for topology, sparsity in layers(options.sparsities or (0.9,), shape):
                among = conv_contenders("layer", options.threads)
                entries += entries_of(shape, topology, sparsity, batch, among, options.threads)
            rows += fastest_rows(entries, options.budget(4))
    return rows


def layers(sparsities: tuple[float, ...], shape: ConvShape) -> list[tuple[str, float]]:
    """Topology and sparsity of what is timed, the dense one first: single weights, and whole filters of more than
    one."""
    topologies = ("random", "channel") if shape.kernel > 1 else ("random",)
    return [("dense", 0.0), *((topology, each) for topology in topologies for each in sparsities)]


def entries_of(
    shape: ConvShape, topology: str, sparsity: float, batch: int, among: Sequence[Contender], threads: int
) -> list[Entry]:
    """One entry for each contender that suits the layer."""
    layer = conv_layer(shape, topology, sparsity)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((batch, *shape), np.float32) for shape in (layer.in_shape, layer.out_shape))
    fields = {
        "bench": "conv", "model": str(shape), "topology": topology, "sparsity": sparsity, "batch": batch,
        "threads": threads, "connections": layer.pattern.nnz,
        "flops": 6 * batch * prod(layer.out_shape[1:]) * layer.pattern.nnz,
    }  # fmt: skip
    return [
        Entry(fields | {"engine": each.engine, "variant": each.variant}, each.make(layer, x, dy).run)
        for each in among
        if each.suits(topology, 0)
    ]


def table(rows: list[Row]) -> str:
    """One table for each pattern and number of threads: a line a shape and batch."""
    return "\n".join(
        _table(pick(rows, topology=topology, sparsity=sparsity, threads=threads), rows)
        for topology, sparsity, threads in dict.fromkeys(
            (row["topology"], row["sparsity"], row["threads"]) for row in rows
        )
    )


def _table(ours: list[Row], rows: list[Row]) -> str:
    """Our layers of one pattern beside the faster of PyTorch's layouts; `rows` are those of all patterns."""
    topology, sparsity, threads = (ours[0][name] for name in ("topology", "sparsity", "threads"))
    body = []
    for row in pick(ours, ENGINES[0]):
        same = {name: row[name] for name in ("model", "batch", "threads")}
        eager, last = (fastest(pick(rows, engine, **same)) for engine in ENGINES[1:])
        best = fastest(pick(rows, *ENGINES[1:], **same))
        times = map(number, (row["ms"], eager, last))
        body.append([row["model"], str(row["batch"]), *times, ratio(best, row["ms"]), number(row["gflops"])])
    plural, pattern = "s" * (threads > 1), wires(topology, sparsity)
    title = f"Convolutions, forward and backward, {pattern}, {threads} thread{plural}, ms"
    return markdown(title, ["shape", "batch", *ENGINES, "over the faster", "GFLOP/s"], body)


def beside_torch(rows: list[Row], what: str) -> str:
    """Our engine at every pattern beside PyTorch's dense one in both layouts; rows of one batch size."""
    batch, threads = rows[0]["batch"], rows[0]["threads"]
    eager, last = (fastest(pick(rows, engine)) for engine in ENGINES[1:])
    body = []
    for topology, sparsity in dict.fromkeys((row["topology"], row["sparsity"]) for row in rows):
        these = pick(rows, topology=topology, sparsity=sparsity)
        times = [fastest(pick(these, engine)) for engine in ENGINES]
        gflops = next((row["gflops"] for row in pick(these, "sparsecore")), None)
        ratios = [ratio(other, times[0]) for other in (eager, last)]
        connections = f"{these[0]['connections']:,}"
        body.append([wires(topology, sparsity), connections, *map(number, times), *ratios, number(gflops)])
    title = f"{what}, batch {batch}, {threads} thread{'s' * (threads > 1)}, ms"
    head = ["pattern", "connections", *ENGINES, "over torch-eager", "over torch-channels-last", "GFLOP/s"]
    return markdown(title, head, body)
