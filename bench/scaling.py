"""How time grows with connections, and shrinks with threads."""

from __future__ import annotations

import numpy as np

from sparsecore.topology import dense

from .engines import numpy_hand, sparsecore
from .options import Options
from .problem import MODELS, layer_pattern, training_problem
from .tables import markdown, number, pick, ratio, wires
from .timing import Entry, Row, fastest_rows

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def measure(options: Options) -> list[Row]:
    """A step of one layer at every sparsity, dense ones beside it; then one thread against two."""
    size, batch = (256, 32) if options.quick else (4096, 128)
    rows = fastest_rows(layer_entries(size, options, options.batches or (batch,)), options.budget(25))
    large, small = (32, 32) if options.quick else (1024, 256)
    both = [layer("threads", size, "random", 0.9, large, threads) for threads in (1, 2)]
    rows += fastest_rows(both, options.budget(10))
    rows += fastest_rows(network_threads(options.model, small), options.budget(5))
    return rows


def layer_entries(size: int, options: Options, batches: tuple[int, ...]) -> list[Entry]:
    """Forward, dX, dW and update of a layer in the middle of a network."""
    entries = []
    for batch in batches:
        entries += dense_layers(size, batch, options.threads)
        for sparsity in options.sparsities or SPARSITIES:
            entries.append(layer("scaling", size, "random", sparsity, batch, options.threads))
    return entries


def dense_layers(size: int, batch: int, threads: int) -> list[Entry]:
    """NumPy's, in both orders, and ours."""
    ours = layer("scaling", size, "dense", 0.0, batch, threads)
    theirs = [
        Entry(ours.fields | {"engine": "numpy-hand", "variant": name}, make(dense(size, size), batch).run)
        for name, make in numpy_hand.WHAT["layer"].items()
    ]
    return [*theirs, ours]


def layer(bench: str, size: int, topology: str, sparsity: float, batch: int, threads: int) -> Entry:
    """Our step of one layer."""
    pattern = layer_pattern((size, size), topology, sparsity)
    fields = {
        "bench": bench, "model": f"{size}x{size}", "topology": topology, "sparsity": sparsity, "batch": batch,
        "threads": threads, "engine": "sparsecore", "connections": pattern.nnz, "flops": 6 * pattern.nnz * batch,
    }  # fmt: skip
    return Entry(fields, sparsecore.LayerStep(pattern, batch, threads).run)


def network_threads(model: str, batch: int) -> list[Entry]:
    entries = []
    for topology in ("random", "radix"):
        problem = training_problem(MODELS[model], topology, 0.9, batch)
        for threads in (1, 2):
            fields = {
                "bench": "threads", "model": model, "topology": topology, "sparsity": 0.9, "batch": batch,
                "threads": threads, "engine": "sparsecore", "connections": problem.connections, "flops": problem.flops,
            }  # fmt: skip
            entries.append(Entry(fields, sparsecore.Step(problem, threads).run))
    return entries


def table(rows: list[Row]) -> str:
    """Time against connections with slope and crossover, then threads."""
    tables = []
    for batch in dict.fromkeys(row["batch"] for row in pick(rows, bench="scaling")):
        some = pick(rows, bench="scaling", batch=batch)
        (own,) = pick(some, "sparsecore", topology="dense")
        body = [
            [
                wires(row["topology"], row["sparsity"]), row["engine"], f"{row['connections']:,}",
                number(row["ms"]), number(row["gflops"]), ratio(own["ms"], row["ms"]),
                number(own["connections"] / row["connections"]),
            ]
            for row in some
        ]  # fmt: skip
        sparse = pick(some, "sparsecore", topology="random")
        title = f"Step of one layer {own['model']} (forward, dX, dW, update), batch {batch}, {own['threads']} thread(s)"
        head = ["pattern", "engine", "connections", "ms", "GFLOP/s", "over our own dense", "fewer connections"]
        tables.append(markdown(title, head, body))
        if len(sparse) > 1:
            tables.append(f"log–log slope {slope(sparse):.3f}; {crossover(sparse, own)}\n")
    body = [
        [
            f"{one['model']}, {wires(one['topology'], one['sparsity'])}, batch {one['batch']}",
            number(one["ms"]), number(two["ms"]), ratio(one["ms"], two["ms"]),
        ]
        for one in pick(rows, bench="threads", threads=1)
        for two in pick(rows, bench="threads", threads=2, model=one["model"], topology=one["topology"])
    ]  # fmt: skip
    tables.append(markdown("Threads", ["step", "1 thread, ms", "2 threads, ms", "2 over 1"], body))
    return "\n".join(tables)


def slope(rows: list[Row]) -> float:
    """Of log time against log connections: 1 where half the connections take half the time."""
    x, y = np.log([[row["connections"] for row in rows], [row["ms"] for row in rows]])
    return float(np.polyfit(x, y, 1)[0])


def crossover(sparse: list[Row], dense_row: Row) -> str:
    """The sparsity from which on a sparse step is faster than our own dense one."""
    sparse = sorted(sparse, key=lambda row: float(row["sparsity"]))
    slower = [row for row in sparse if row["ms"] > dense_row["ms"]]
    if not slower:
        return f"faster than our own dense at every sparsity from {sparse[0]['sparsity']:.0%} on"
    before = slower[-1]
    if before is sparse[-1]:
        return f"slower than our own dense up to {before['sparsity']:.0%} sparsity"
    after = sparse[sparse.index(before) + 1]
    part = np.log(before["ms"] / dense_row["ms"]) / np.log(before["ms"] / after["ms"])
    kept = (1 - before["sparsity"]) ** (1 - part) * (1 - after["sparsity"]) ** part
    return f"as fast as our own dense at {1 - kept:.0%} sparsity"
