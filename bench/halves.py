"""Steps with activations in bfloat16, this engine's and PyTorch's, beside those in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

from .engines import BOTH, DENSE, Contender, has_torch
from .tables import fastest, markdown, number, pick, ratio, wires
from .timing import Row

OURS, THEIRS = HALVES = "sparsecore bf16", "torch bf16"
"""What the two are called: their steps are compared with each other, and with those in float32."""

COLUMNS = ("sparsecore", OURS, "dense by hand", THEIRS, "torch-csr")


def half_contenders(model: str, threads: int) -> list[Contender]:
    """The steps in bfloat16 of a model."""
    from .engines import sparsecore

    found = [Contender(OURS, "", BOTH, partial(sparsecore.Step, threads=threads, activations="bfloat16"))]
    if has_torch():
        from .engines import torch_half

        ways: Any = torch_half.LINEAR if model == "lenet300" else torch_half.IMAGES
        found += [Contender(THEIRS, name, DENSE, make) for name, make in ways.items()]
    return found


def half_table(rows: list[Row]) -> str:
    """All of one model, batch size and number of threads."""
    model, batch, threads = (rows[0][name] for name in ("model", "batch", "threads"))
    peers = ("numpy-hand", "torch-hand") if model == "lenet300" else ("torch-eager", "torch-channels-last")
    by_hand = fastest(pick(rows, *peers, topology="dense"))
    theirs = fastest(pick(rows, THEIRS))
    body = []
    for topology, sparsity in dict.fromkeys((row["topology"], row["sparsity"]) for row in rows):
        these = pick(rows, topology=topology, sparsity=sparsity)
        wide, half, peer = (fastest(pick(these, engine)) for engine in ("sparsecore", OURS, "torch-csr"))
        dense = by_hand if topology == "dense" else None
        times = [wide, half, dense, theirs if topology == "dense" else None, peer]
        ratios = [ratio(other, half) for other in (wide, by_hand, theirs, peer)]
        gflops = next((row["gflops"] for row in pick(these, OURS)), None)
        body.append([wires(topology, sparsity), *map(number, times), *ratios, number(gflops)])
    title = f"Step of {model}, batch {batch}, {threads} thread{'s' * (threads > 1)}, activations in bfloat16, ms"
    dense_name = "dense by hand" if model == "lenet300" else "torch"
    head = ["network", *(dense_name if name == "dense by hand" else name for name in COLUMNS)]
    ratios = ["over its float32", f"over {dense_name}", "over torch bf16", "over torch-csr"]
    return markdown(title, [*head, *ratios, "GFLOP/s"], body)
