"""Convolutions: forward and backward of one wide layer, and how many times as fast as PyTorch's dense one."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .conv_problem import WIDE_BATCH, wide_layer
from .engines import Contender, conv_contenders
from .options import Options
from .problem import SPARSITIES
from .tables import fastest, markdown, number, pick, ratio, wires
from .timing import Entry, Row, fastest_rows

ENGINES = ("sparsecore", "torch-eager", "torch-channels-last")
MODEL = "128x128 3x3 28x28"


def measure(options: Options) -> list[Row]:
    """The layer at every sparsity, over single weights and over whole filters."""
    rows: list[Row] = []
    for batch in options.batches or ((16,) if options.quick else (WIDE_BATCH,)):
        entries = []
        for topology, sparsity in layers(options.sparsities or ((0.9,) if options.quick else SPARSITIES)):
            among = conv_contenders("layer", options.threads)
            entries += entries_of(topology, sparsity, batch, among, options.threads)
        rows += fastest_rows(entries, options.budget(20))
    return rows


def layers(sparsities: tuple[float, ...]) -> list[tuple[str, float]]:
    """Topology and sparsity of what is timed, the dense one first."""
    return [("dense", 0.0), *((topology, each) for topology in ("random", "channel") for each in sparsities)]


def entries_of(
    topology: str, sparsity: float, batch: int, among: Sequence[Contender], threads: int
) -> list[Entry]:  # fmt: skip
    """One entry for each contender that suits the layer."""
    layer = wide_layer(topology, sparsity)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((batch, *shape), np.float32) for shape in (layer.in_shape, layer.out_shape))
    fields = {
        "bench": "conv", "model": MODEL, "topology": topology, "sparsity": sparsity, "batch": batch,
        "threads": threads, "connections": layer.pattern.nnz,
        "flops": 6 * batch * prod(layer.out_shape[1:]) * layer.pattern.nnz,
    }  # fmt: skip
    return [
        Entry(fields | {"engine": each.engine, "variant": each.variant}, each.make(layer, x, dy).run)
        for each in among
        if each.suits(topology, 0)
    ]


def table(rows: list[Row]) -> str:
    """One table for each batch size and number of threads."""
    return "\n".join(
        beside_torch(pick(rows, batch=batch, threads=threads), f"Forward and backward of {MODEL}")
        for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in rows)
    )


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
