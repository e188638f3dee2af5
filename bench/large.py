"""Layers whose connections and activations no second-level cache holds, beside PyTorch's CSR tensors by hand."""

from __future__ import annotations

from .engines import has_torch
from .options import Options
from .problem import layer_pattern
from .scaling import layer
from .tables import markdown, number, pick, ratio
from .timing import Entry, Row, fastest_rows

LAYERS = ((4096, 0.9), (4096, 0.95), (4096, 0.99), (16384, 0.99), (16384, 0.995))
"""in_features, which are as many as out_features, and sparsity."""


def measure(options: Options) -> list[Row]:
    """Forward, dX, dW and update of a layer; one pattern at a time, since each takes gigabytes of lines through the
    caches."""
    rows: list[Row] = []
    for batch in options.batches or (128,):
        for size, sparsity in ((256, 0.9),) if options.quick else LAYERS:
            rows += fastest_rows(_entries(size, sparsity, batch, options.threads), options.budget(6))
    return rows


def _entries(size: int, sparsity: float, batch: int, threads: int) -> list[Entry]:
    ours = layer("large", size, "random", sparsity, batch, threads)
    if not has_torch():
        return [ours]
    from .engines.torch_csr import LayerStep

    pattern = layer_pattern((size, size), "random", sparsity)
    return [ours, Entry(ours.fields | {"engine": "torch-csr"}, LayerStep(pattern, batch).run)]


def table(rows: list[Row]) -> str:
    body = []
    for ours in pick(rows, "sparsecore"):
        theirs = pick(rows, "torch-csr", model=ours["model"], sparsity=ours["sparsity"], batch=ours["batch"])
        ms = theirs[0]["ms"] if theirs else None
        body.append([
            ours["model"], f"{100 * ours['sparsity']:g}%", f"{ours['connections']:,}", f"{ours['batch']}",
            number(ours["ms"]), number(ours["gflops"]), number(ms), ratio(ms, ours["ms"]),
        ])  # fmt: skip
    head = ["layer", "sparsity", "connections", "batch", "ms", "GFLOP/s", "torch CSR, ms", "over torch CSR"]
    return markdown("Forward, dX, dW and update of one layer", head, body)
