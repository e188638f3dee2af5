"""Whole training steps: forward, backward and update, on a batch that is already in its engine's layout."""

from __future__ import annotations

from collections.abc import Sequence

from .conv import beside_torch
from .conv_problem import RADICES, lenet5_problem
from .deep_problem import NETWORKS, AnyProblem, deep_problem
from .engines import Contender, contenders, conv_contenders, deep_contenders
from .halves import HALVES, half_contenders, half_table
from .options import Options
from .problem import MODELS, RADIX, SPARSITIES, training_problem
from .tables import fastest, markdown, number, pick, ratio, wires
from .timing import Entry, Row, fastest_rows

BATCHES = {"lenet300": (32, 128, 1024), "lenet5": (128,), "resnet20": (128,), "vgg11": (128,)}
ENGINES = ("sparsecore", "numpy-hand", "torch-hand", "torch-eager", "torch-csr", "scipy")


def measure(options: Options) -> list[Row]:
    """Every engine on every network that suits it; all that have one batch size take turns."""
    rows: list[Row] = []
    model = options.model
    for batch in options.batches or ((32,) if options.quick else BATCHES[model]):
        entries = []
        for topology, sparsity in networks(options.sparsities or ((0.9,) if options.quick else SPARSITIES), model):
            problem: AnyProblem
            if model in NETWORKS:
                problem = deep_problem(model, topology, sparsity, batch)
                among = deep_contenders(options.threads)
            elif model == "lenet5":
                problem = lenet5_problem(topology, sparsity, batch)
                among = conv_contenders("step", options.threads)
            else:
                problem = training_problem(MODELS[model], topology, sparsity, batch)
                among = contenders("step", options.threads)
            if options.activations == "bfloat16":
                among = [*among, *half_contenders(model, options.threads)]
            entries += entries_of(problem, model, topology, sparsity, among, options.threads)
        rows += fastest_rows(entries, options.budget(20 if batch > 512 else 10))
    return rows


def networks(sparsities: tuple[float, ...], model: str = "lenet300") -> list[tuple[str, float]]:
    """Topology and sparsity of the networks to time, the dense one first."""
    if model in NETWORKS:
        return [each for each in NETWORKS[model] if each[0] == "dense" or each[1] in sparsities]
    if model == "lenet5":
        grains = [("channel", sparsity) for sparsity in sparsities]
        randoms = [("random", sparsity) for sparsity in sparsities]
        return [("dense", 0.0), *randoms, *grains, *(("radix", sparsity) for sparsity in RADICES)]
    radix = [("radix", sparsity) for sparsity in sparsities if sparsity in RADIX]
    return [("dense", 0.0), *(("random", sparsity) for sparsity in sparsities), *radix]


def entries_of(
    problem: AnyProblem, model: str, topology: str, sparsity: float, among: Sequence[Contender], threads: int
) -> list[Entry]:
    """One entry for each contender that suits the network."""
    fields = {
        "bench": "step", "model": model, "topology": topology, "sparsity": sparsity, "batch": len(problem.x),
        "threads": threads, "connections": problem.connections, "flops": problem.flops,
    }  # fmt: skip
    return [
        Entry(fields | {"engine": each.engine, "variant": each.variant}, each.make(problem).run)
        for each in among
        if each.suits(topology, problem.connections * len(problem.x))
    ]


def table(rows: list[Row]) -> str:
    """One table for each batch size and number of threads."""
    tables = []
    for model, batch, threads in dict.fromkeys((row["model"], row["batch"], row["threads"]) for row in rows):
        some = pick(rows, model=model, batch=batch, threads=threads)
        if pick(some, *HALVES):
            tables.append(half_table(some))
            continue
        if model != "lenet300":
            tables.append(beside_torch(some, f"Step of {model}"))
            continue
        by_hand = fastest(pick(some, "numpy-hand", "torch-hand", topology="dense"))
        eager = fastest(pick(some, "torch-eager"))
        body = []
        for topology, sparsity in dict.fromkeys((row["topology"], row["sparsity"]) for row in some):
            these = pick(some, topology=topology, sparsity=sparsity)
            times = [fastest(pick(these, engine)) for engine in ENGINES]
            ours, peers = times[0], fastest(pick(these, "torch-csr", "scipy"))
            gflops = next((row["gflops"] for row in pick(these, "sparsecore")), None)
            ratios = [ratio(other, ours) for other in (by_hand, eager, peers)]
            name, connections = wires(topology, sparsity), f"{these[0]['connections']:,}"
            body.append([name, connections, *map(number, times), *ratios, number(gflops)])
        title = f"Step of {model}, batch {batch}, {threads} thread{'s' * (threads > 1)}, ms"
        ratios = ["over dense by hand", "over torch-eager", "over best sparse peer"]
        head = ["network", "connections", *ENGINES, *ratios, "GFLOP/s"]
        tables.append(markdown(title, head, body))
    return "\n".join(tables)
