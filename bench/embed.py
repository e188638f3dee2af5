"""The engine inside others: under PyTorch's autograd, and `A @ x` beside SciPy's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsecore.interop.operator import SparseOperator
from sparsecore.runtime.devices import set_threads

from .engines import has_sparselab, has_torch
from .options import Options
from .problem import layer_pattern
from .tables import fastest, markdown, number, pick, ratio
from .timing import Entry, Row, fastest_rows

SIZES, TRANSFORMERS = ((784, 300), (4096, 4096)), ((384, 1536), (640, 2560))
"""in_features, out_features: of a batch of samples, and of the feed-forward layers of small transformers, which are
given every token of a batch of texts."""


def measure(options: Options) -> list[Row]:
    """Everything that has one size takes turns."""
    set_threads(options.threads)
    cases = [(size, (128,), (0.9,)) for size in SIZES] + [(size, (1024, 2048), (0.9, 0.95)) for size in TRANSFORMERS]
    rows: list[Row] = []
    for size, batches, sparsities in cases[:1] if options.quick else cases:
        for batch in options.batches or batches:
            for sparsity in options.sparsities or sparsities:
                entries = _products(size, batch, sparsity, options.threads)
                if has_torch():
                    entries += _modules(size, batch, sparsity, options.threads)
                rows += fastest_rows(entries, options.budget(15))
    return rows


def _products(size: tuple[int, int], batch: int, sparsity: float, threads: int) -> list[Entry]:
    """A @ x from an array (in_features, batch) to another, all conversions included."""
    pattern, rng = layer_pattern(size[::-1], "random", sparsity), np.random.default_rng(0)
    matrix = pattern.to_scipy(rng.standard_normal(pattern.nnz, np.float32))
    x = rng.standard_normal((size[0], batch), np.float32)
    ours = SparseOperator(matrix)
    ways: list[tuple[str, Callable[[], object]]] = [("sparsecore", lambda: ours @ x), ("scipy", lambda: matrix @ x)]
    fields = _fields("product", size, batch, sparsity, threads, 2 * pattern.nnz * batch)
    return [Entry(fields | {"engine": engine, "variant": ""}, run) for engine, run in ways]


def _modules(size: tuple[int, int], batch: int, sparsity: float, threads: int) -> list[Entry]:
    """Forward and backward of one layer under autograd, from a gradient of y to `.grad` of weight, bias and maybe x."""
    import torch

    from sparsecore.interop.torch import SparseLinear

    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    pattern, (into, out) = layer_pattern(size[::-1], "random", sparsity), size
    x, dy = torch.randn(batch, into), torch.randn(batch, out)
    ours, dense = SparseLinear(into, out, pattern=pattern), torch.nn.Linear(into, out)
    csr = torch.nn.Parameter(
        torch.sparse_csr_tensor(
            torch.tensor(pattern.indptr), torch.tensor(pattern.indices), ours.weight.detach().clone(), pattern.shape,
            check_invariants=True,
        )
    )  # fmt: skip
    bias = torch.nn.Parameter(torch.zeros(out))
    ways: list[tuple[str, str, Callable[[Any], Any], Sequence[Any]]] = [
        ("sparsecore", "", ours, list(ours.parameters())),
        ("torch-eager", "", dense, list(dense.parameters())),
        ("torch-csr", "x.t()", lambda x: torch.sparse.mm(csr, x.t()).t() + bias, [csr, bias]),
        ("torch-csr", "contiguous", lambda x: torch.sparse.mm(csr, x.t().contiguous()).t() + bias, [csr, bias]),
    ]
    if has_sparselab():
        from .engines import sparselab

        peer = sparselab.module(size, sparsity)
        ways.append(("sparselab", "", peer, list(peer.parameters())))
    entries = []
    for bench, need_dx in (("module", False), ("module+dx", True)):
        fields = _fields(bench, size, batch, sparsity, threads, (6 if need_dx else 4) * pattern.nnz * batch)
        leaf = x.clone().requires_grad_(need_dx)
        for engine, variant, layer, parameters in ways:
            entries.append(Entry(fields | {"engine": engine, "variant": variant}, _step(layer, leaf, dy, parameters)))
    return entries


def _step(layer: Callable[[Any], Any], x: Any, dy: Any, parameters: Sequence[Any]) -> Callable[[], None]:
    def run() -> None:
        for each in (x, *parameters):
            each.grad = None
        layer(x).backward(dy)

    return run


def _fields(bench: str, size: tuple[int, int], batch: int, sparsity: float, threads: int, flops: int) -> Row:
    return {
        "bench": bench, "model": f"{size[0]}x{size[1]}", "topology": "random", "sparsity": sparsity, "batch": batch,
        "threads": threads, "connections": flops // (2 * batch), "flops": flops,
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """A @ x, then layers under autograd."""
    products, modules = [], []
    for key in dict.fromkeys((r["bench"], r["model"], r["sparsity"], r["batch"]) for r in rows):
        bench, model, sparsity, batch = key
        some = pick(rows, bench=bench, model=model, sparsity=sparsity, batch=batch)
        ours, eager, csr, lab, scipy = (
            fastest(pick(some, engine)) for engine in ("sparsecore", "torch-eager", "torch-csr", "sparselab", "scipy")
        )
        name = [model, f"{100 * sparsity:g}%", f"{batch}"]
        if bench == "product":
            products.append([*name, number(ours), number(scipy), ratio(scipy, ours)])
        else:
            wanted = "weight, bias, x" if bench.endswith("dx") else "weight, bias"
            times = map(number, (ours, eager, csr, lab))
            modules.append([*name, wanted, *times, *(ratio(peer, ours) for peer in (eager, csr, lab))])
    head = ["layer", "sparsity", "batch"]
    tables = [markdown("A @ x, ms, packing included", [*head, "sparsecore", "scipy", "over scipy"], products)]
    if modules:
        peers = ["nn.Linear", "torch CSR", "sparselab"]
        more = ["gradients of", "sparsecore", *peers, *(f"over {peer}" for peer in peers)]
        tables.append(markdown("Forward and backward under PyTorch's autograd, ms", [*head, *more], modules))
    return "\n".join(tables)
