"""Answers to few samples, from ordinary arrays to ordinary arrays: one, four and eight of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsecore.runtime.devices import set_threads

from .engines import has_torch
from .options import Options
from .problem import MODELS, Problem, as_dense, training_problem
from .tables import fastest, markdown, number, pick, ratio
from .timing import Entry, Row, fastest_rows

LARGE = (4096, 4096, 4096, 10)
"""A network whose connections no second-level cache holds."""

CASES = {MODELS["lenet300"]: (0.9,), LARGE: (0.9, 0.99)}
"""Sizes of layers, and sparsities."""

BATCHES = (1, 4, 8)

WAYS = {"compiled": "compile", "predict": "predict", "logits": "logits"}
"""What of this engine is timed: a row's variant, and a column's name."""


def measure(options: Options) -> list[Row]:
    """Everything that answers the same samples takes turns."""
    set_threads(options.threads)
    rows: list[Row] = []
    for sizes, own in CASES.items():
        if options.quick and sizes == LARGE:
            continue
        for sparsity in options.sparsities or own:
            for batch in options.batches or BATCHES:
                rows += _rows(sizes, sparsity, batch, options)
    return rows


def _rows(sizes: tuple[int, ...], sparsity: float, batch: int, options: Options) -> list[Row]:
    problem = training_problem(sizes, "random", sparsity, batch)
    ways = answers(problem)
    fields = {
        "bench": "latency", "model": "-".join(map(str, sizes)), "topology": "random", "sparsity": sparsity,
        "batch": batch, "threads": options.threads, "connections": problem.connections,
    }  # fmt: skip
    entries = [Entry(fields | {"engine": engine, "way": way}, run) for (engine, way), run in ways.items()]
    return fastest_rows(entries, options.budget(6))


def answers(problem: Problem) -> dict[tuple[str, str], Callable[[], Any]]:
    """Calls by engine and way, each of which gives logits (batch, classes), or `predict` classes."""
    network, x = problem.network(), problem.x
    compiled = network.compile(len(x))
    found: dict[tuple[str, str], Callable[[], Any]] = {
        ("sparsecore", "compiled"): lambda: compiled(x),
        ("sparsecore", "predict"): lambda: network.predict(x),
        ("sparsecore", "logits"): lambda: network.logits(x),
        ("scipy", ""): _by_scipy(problem),
    }
    if has_torch():
        found["torch-eager", ""] = _by_torch(problem)
    return found


def _by_scipy(problem: Problem) -> Callable[[], Any]:
    """CSR matrices, by hand: a vector for one sample, and the samples in columns for several."""
    layers = [pattern.to_scipy(data) for pattern, data in zip(problem.patterns, problem.weights, strict=True)]
    one = len(problem.x) == 1
    biases = [np.zeros(layer.shape[0] if one else (layer.shape[0], 1), np.float32) for layer in layers]
    x = problem.x[0] if one else np.ascontiguousarray(problem.x.T)

    def run() -> Any:
        y: Any = x
        for layer, bias in zip(layers, biases, strict=True):
            y = layer @ y
            y += bias
            if layer is not layers[-1]:
                np.maximum(y, 0, out=y)
        return np.atleast_2d(y) if one else y.T

    return run


def _by_torch(problem: Problem) -> Callable[[], Any]:
    """Dense `nn.Linear` in inference mode."""
    import torch

    layers: list[torch.nn.Module] = []
    for pattern, data in zip(problem.patterns, problem.weights, strict=True):
        layer = torch.nn.Linear(pattern.shape[1], pattern.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(as_dense(pattern, data)))
            layer.bias.zero_()
        layers += [layer, torch.nn.ReLU()]
    network, x = torch.nn.Sequential(*layers[:-1]).eval(), torch.tensor(problem.x)

    def run() -> Any:
        with torch.inference_mode():
            return network(x)

    return run


def table(rows: list[Row]) -> str:
    """A line for each network and number of samples."""
    lines = []
    for key in dict.fromkeys((r["model"], r["sparsity"], r["batch"]) for r in rows):
        model, sparsity, batch = key
        some = pick(rows, model=model, sparsity=sparsity, batch=batch)
        ours = {way: _us(fastest(pick(some, "sparsecore", way=way))) for way in WAYS}
        torch, scipy = (_us(fastest(pick(some, engine))) for engine in ("torch-eager", "scipy"))
        times = map(number, (*ours.values(), torch, scipy))
        over = ratio(torch, ours["compiled"]), ratio(scipy, ours["compiled"])
        lines.append([model, f"{100 * sparsity:g}%", f"{batch}", *times, *over])
    head = ["network", "sparsity", "samples", *WAYS.values(), "torch dense", "scipy", "over torch", "over scipy"]
    return markdown("Answers to few samples, µs; over: of what was compiled", head, lines)


def _us(ms: float | None) -> float | None:
    return None if ms is None else 1e3 * ms
