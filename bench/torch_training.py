"""Models of PyTorch whose layers `sparsify` made 90% sparse, over the same ones dense: time, and memory."""

from __future__ import annotations

from sparsecore.runtime.devices import set_threads

from .engines import has_torch
from .options import Options
from .tables import markdown, number, pick, ratio
from .timing import Entry, Row, fastest_rows
from .torch_memory import peak

CASES = (("resnet18", 32), ("resnet18", 128), ("bert", 32))
SIZES = 50
"""Batch sizes one after another, in which memory must not grow."""


def measure(options: Options) -> list[Row]:
    """Steps take turns, model by model; then memory, each in a process of its own."""
    if not has_torch():
        return []
    rows: list[Row] = []
    for name, batch in cases(options):
        found = _times(name, batch, options)
        for row in found:
            row |= _memory(row, options)
        rows += found
    return rows


def cases(options: Options) -> list[tuple[str, int]]:
    if options.quick:
        return [("resnet18", 3)]
    if options.batches:
        return [(name, batch) for name in ("resnet18", "bert") for batch in options.batches]
    return list(CASES)


def _times(name: str, batch: int, options: Options) -> list[Row]:
    """A row of ours, and one of the dense model in the faster of its layouts."""
    import torch

    from .engines.torch_models import MODELS, SPARSITY, Training

    set_threads(options.threads)
    torch.set_num_threads(options.threads)
    fields = {"bench": "torch", "model": name, "batch": batch, "threads": options.threads}
    dense: Row = fields | {"topology": "dense", "sparsity": 0.0, "engine": "torch-eager"}
    sparse: Row = fields | {"topology": "random", "sparsity": SPARSITY, "engine": "sparsecore", "variant": "sparse"}
    entries = [Entry(sparse, Training(name, "sparse", batch, options.quick).run)]
    for layout in MODELS[name].layouts:
        entries.append(Entry(dense | {"variant": layout}, Training(name, layout, batch, options.quick).run))
    return fastest_rows(entries, options.budget(30))


def _memory(row: Row, options: Options) -> Row:
    """The least of two processes, since the first may compile; and of other batch sizes, once a model."""
    name, batch = row["model"], row["batch"]
    given: tuple[str, str, int, int] = (name, row["variant"], batch, row["threads"])
    few = 1 if options.quick else 0
    found = [peak(*given, few, small=options.quick) for _ in range(1 if options.quick else 2)]
    if found[0] is None:
        return {}
    best = min((each for each in found if each), key=lambda each: each["peak"])
    first = next(other for each, other in cases(options) if each == name)
    if not options.quick and batch == first:
        best["grown"] = (peak(name, row["variant"], SIZES + 1, row["threads"], SIZES, small=False) or {})["grown"]
    elif not options.quick:
        best.pop("grown")
    return {f"mib_{what}": value for what, value in best.items()}


def table(rows: list[Row]) -> str:
    body = []
    for ours in pick(rows, "sparsecore"):
        (theirs,) = pick(rows, "torch-eager", model=ours["model"], batch=ours["batch"])
        body.append([
            ours["model"], f"{ours['batch']}", number(ours["ms"]), number(theirs["ms"]), theirs["variant"],
            ratio(theirs["ms"], ours["ms"]), *_spelled(ours, theirs, "mib_peak"),
            ratio(ours.get("mib_peak"), theirs.get("mib_peak")), *_spelled(ours, theirs, "mib_grown"),
        ])  # fmt: skip
    head = ["90% sparse", "batch", "sparse, ms", "dense, ms", "layout", "over dense", "peak, MiB", "dense", "of dense",
            f"{SIZES} sizes, MiB more", "dense"]  # fmt: skip
    title = "A step of training under PyTorch: forward, backward and update; memory above the process's before"
    return markdown(title, head, body)


def _spelled(ours: Row, theirs: Row, what: str) -> list[str]:
    return ["–" if (found := row.get(what)) is None else f"{max(0.0, found):,.0f}" for row in (ours, theirs)]
