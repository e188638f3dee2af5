"""The two micro-kernels alone: gather, y = W x, and sample, dW = dy xᵀ at the stored connections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecore.storage.pattern import SparsityPattern

from .engines import Contender, contenders
from .options import Options
from .problem import layer_pattern, layer_topologies
from .tables import fastest, markdown, number, percent, pick, ratio, wires
from .timing import Entry, Row, fastest_rows

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
SIZES = (((784, 300), 128), ((300, 100), 128), ((1024, 1024), 128), ((4096, 4096), 128), ((4096, 4096), 1024))
"""(in_features, out_features), and the batch."""


def measure(options: Options, what: str) -> list[Row]:
    """A "gather" or a "sample" for each size and batch; all of one size and batch take turns."""
    rows: list[Row] = []
    sparsities = options.sparsities or ((0.9,) if options.quick else SPARSITIES)
    among = contenders(what, options.threads)
    for size, batch in sizes(options):
        entries = []
        for topology, sparsity in layer_topologies(size[::-1], sparsities):
            pattern = layer_pattern(size[::-1], topology, sparsity)
            entries += entries_of(what, topology, pattern, batch, among, options.threads)
        rows += fastest_rows(entries, options.budget(8 if size[0] > 1024 else 4))
    return rows


def sizes(options: Options) -> list[tuple[tuple[int, int], int]]:
    """Sizes and batches to time: every size with every batch of the options."""
    if options.quick:
        return [((784, 300), 32)]
    if options.batches:
        return [(size, batch) for size in dict(SIZES) for batch in options.batches]
    return list(SIZES)


def entries_of(
    what: str, topology: str, pattern: SparsityPattern, batch: int, among: Sequence[Contender], threads: int
) -> list[Entry]:
    """One entry for each contender that suits the pattern."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((pattern.shape[1], batch), np.float32)
    operand = rng.standard_normal(pattern.nnz if what == "gather" else (pattern.shape[0], batch), np.float32)
    operands = (operand, x)
    fields = {
        "bench": what, "model": f"{pattern.shape[1]}x{pattern.shape[0]}", "topology": topology,
        "sparsity": round(pattern.sparsity, 3), "batch": batch, "threads": threads,
        "connections": pattern.nnz, "flops": 2 * pattern.nnz * batch,
    }  # fmt: skip
    entries = []
    for each in among:
        if each.suits(topology, pattern.nnz * batch):
            way = {"format" if each.engine == "sparsecore" else "variant": each.variant}
            entries.append(Entry(fields | {"engine": each.engine} | way, each.make(pattern, *operands).run))
    return entries


def table(rows: list[Row], sgemm: float | None) -> str:
    """One table for each size, batch and number of threads; `sgemm` is the machine's ceiling in GFLOP/s."""
    tables = []
    keys = ("bench", "model", "batch", "threads")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        some = pick(rows, **dict(zip(keys, key, strict=True)))
        blas = fastest(pick(some, "numpy-hand", topology="dense"))
        blas_gflops = next((row["gflops"] for row in pick(some, "numpy-hand", topology="dense")), None)
        body = []
        for topology, sparsity in dict.fromkeys((row["topology"], row["sparsity"]) for row in some):
            these = pick(some, topology=topology, sparsity=sparsity)
            csr = pick(these, "sparsecore", format="csr")
            ours, gflops = fastest(csr), next((row["gflops"] for row in csr), None)
            coo = fastest(pick(these, "sparsecore", format="coo"))
            peers = [fastest(pick(these, engine)) for engine in ("numpy-hand", "torch-csr", "scipy")]
            shares = [percent(gflops, blas_gflops), percent(gflops, sgemm)]
            rates = [number(gflops), number(gflops and gflops / 2), *shares]
            name, connections = wires(topology, sparsity), f"{these[0]['connections']:,}"
            body.append([name, connections, *map(number, (ours, coo, *peers)), *rates, ratio(blas, ours)])
        bench, model, batch, threads = key
        title = f"{bench}, {model}, batch {batch}, {threads} thread{'s' * (threads > 1)}, ms"
        head = [
            "pattern", "connections", "sparsecore csr", "coo", "sgemm", "torch-csr", "scipy",
            "GFLOP/s", "Gconnections/s", "of its sgemm", "of the ceiling", "over sgemm",
        ]  # fmt: skip
        tables.append(markdown(title, head, body))
    return "\n".join(tables)
