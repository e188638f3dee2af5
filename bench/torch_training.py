"""Models of PyTorch whose layers `sparsify` made 90% sparse, over the same ones dense: time, and memory."""

from __future__ import annotations

from sparsecore.runtime.devices import set_threads

from .engines import has_torch
from .options import Options
from .tables import markdown, number, pick, ratio
from .timing import Entry, Row, fastest_rows
from .torch_memory import peak

CASES = {"resnet18-32": ("resnet18", 32), "resnet18-128": ("resnet18", 128), "bert-32": ("bert", 32)}
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
        print(_line(found), flush=True)
    return rows


def _line(found: list[Row]) -> str:
    """What one model took, as soon as it is known."""
    ours, theirs = found
    times = f"{number(ours['ms'])} ms, {number(theirs['ms'])} dense, {ratio(theirs['ms'], ours['ms'])}"
    memory = f"of its memory {ratio(ours.get('mib_peak'), theirs.get('mib_peak'))}"
    return f"{ours['model']}, batch {ours['batch']}, {ours['variant']}: {times}; {memory}"


def cases(options: Options) -> list[tuple[str, int]]:
    if options.quick:
        return [("resnet18", 3)]
    if options.batches:
        return [(name, batch) for name in ("resnet18", "bert") for batch in options.batches]
    return [CASES[name] for name in options.only or CASES]


def _times(name: str, batch: int, options: Options) -> list[Row]:
    """A row of ours and one of the dense model, each in the faster of its layouts."""
    import torch

    from .engines.torch_models import MODELS, SPARSITY, Training

    set_threads(options.threads)
    torch.set_num_threads(options.threads)
    fields = {"bench": "torch", "model": name, "batch": batch, "threads": options.threads}
    dense: Row = fields | {"topology": "dense", "sparsity": 0.0, "engine": "torch-eager"}
    sparse: Row = fields | {"topology": "random", "sparsity": SPARSITY, "engine": "sparsecore"}
    entries = []
    for kind, before in ((sparse, "sparse, "), (dense, "")):
        for layout in MODELS[name].layouts:
            run = Training(name, before + layout, batch, options.quick).run
            entries.append(Entry(kind | {"variant": before + layout}, run))
    budget = options.budget(25)
    return fastest_rows(entries, budget if options.quick else budget._replace(rounds=3))  # dense steps take seconds


def _memory(row: Row, options: Options) -> Row:
    """Of a process of its own, which compiles nothing: the steps before have. And of other sizes, once a model."""
    name, batch = row["model"], row["batch"]
    given: tuple[str, str, int, int] = (name, row["variant"], batch, row["threads"])
    found = peak(*given, 1 if options.quick else 0, small=options.quick)
    if found is None:
        return {}
    first = next(other for each, other in CASES.values() if each == name)
    if not options.quick and batch == first:
        found["grown"] = (peak(name, row["variant"], SIZES + 1, row["threads"], SIZES, small=False) or {})["grown"]
    elif not options.quick:
        found.pop("grown")
    return {f"mib_{what}": value for what, value in found.items()}


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
