"""Where a step's time goes: Python, or kernels, and which."""

from __future__ import annotations

from typing import Any

import numpy as np
from sparsecore.kernels.cpu.launch import Launcher, Tape

from sparsecore.data import load
from sparsecore.data.batches import Batches
from sparsecore.runtime.devices import CPU
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .options import Options
from .problem import MODELS, training_problem
from .tables import markdown, number, percent, pick, wires
from .timing import Row, interleaved

TIMES = 16
"""Replays within one call: enough to hide what a call costs, few enough for the list to stay in a near cache."""


class Listing(Tape):
    """A tape that remembers what its calls are."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def append(self, kernel: Any, parts: int, kind: np.dtype[Any], fields: dict[str, Any]) -> None:
        super().append(kernel, parts, kind, fields)
        operand = next((fields[name] for name in ("data", "grad", "w", "out", "dz") if name in fields), None)
        size = "" if operand is None else f", {operand.size:,} elements"
        self.names.append(f"{self.count}. {kernel.__name__}{size}")

    def repeated(self, first: int, last: int) -> Tape:
        """Calls `first` to `last`, many times over."""
        tape = Tape()
        tape.calls = np.tile(self.calls[first:last], (TIMES, 1))
        tape.count, tape.parts = len(tape.calls), self.parts
        return tape


class ListingCPU(CPU):
    """The processor, keeping the last tape that was recorded on it."""

    def recorder(self) -> tuple[Any, Any]:
        self.tape = Listing()
        return Launcher(self.pool, self.tape), self.tape


def measure(options: Options) -> list[Row]:
    """A step as training runs it, against the same calls replayed many times within one."""
    batch, sparsity = (options.batches or (128,))[0], (options.sparsities or (0.99,))[0]
    data = load("mnist-subset")
    problem = training_problem(MODELS[options.model], "random", sparsity, batch)
    device = ListingCPU(options.threads)
    store = Batches(data.train, data.shape, data.mean, data.std, device)
    # A rate of zero, since repeating one call alone must change nothing.
    step = Step(problem.network(), store, SGD(0.0), device)
    step.run(0, batch)
    tape, launcher = device.tape, device.launcher()
    tapes = [tape.repeated(0, tape.count)] + [tape.repeated(k, k + 1) for k in range(tape.count)]

    def replay(some: Tape) -> Any:
        return lambda: launcher.replay(some)

    whole, *natively = interleaved([lambda: step.run(0, batch), *map(replay, tapes)], options.budget(8))
    names = ["Step.run", "its calls, natively", *tape.names]
    fields = {
        "bench": "profile", "model": options.model, "topology": "random", "sparsity": sparsity, "batch": batch,
        "threads": options.threads, "engine": "sparsecore", "connections": problem.connections,
    }  # fmt: skip
    times = [whole, *(ms / TIMES for ms in natively)]
    return [fields | {"what": name, "ms": ms} for name, ms in zip(names, times, strict=True)]


def table(rows: list[Row]) -> str:
    (whole,), (native,) = pick(rows, what="Step.run"), pick(rows, what="its calls, natively")
    calls = [row for row in rows if row not in (whole, native)]
    alone = sum(row["ms"] for row in calls)
    body = [[row["what"], number(1e3 * row["ms"]), percent(row["ms"], whole["ms"])] for row in rows]
    python = whole["ms"] - native["ms"]
    body.insert(2, ["Python", number(1e3 * python), percent(python, whole["ms"])])
    body.append(["all calls, each repeated alone", number(1e3 * alone), percent(alone, whole["ms"])])
    title = f"Profile of a step of {whole['model']}, {wires('random', whole['sparsity'])}, batch {whole['batch']}"
    return markdown(title, ["what", "µs", "of Step.run"], body)
