"""What is timed, in the order of what we most want to know: time may be over before the last."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.conv_problem import RADICES, lenet5_problem
from bench.problem import MODELS, training_problem

BATCHES = (128, 4096)
SPARSITIES = (0.75, 0.9, 0.95, 0.99)
LAYERS: dict[tuple[int, int], tuple[float, ...]] = {
    (784, 300): SPARSITIES, (1024, 1024): SPARSITIES, (4096, 4096): (0.9, 0.95, 0.99), (16384, 16384): (0.99, 0.95),
}  # fmt: skip
"""Sizes of single layers, (in_features, out_features), and their sparsities."""
RADIX = {"lenet300": (0.75, 0.9), "lenet5": tuple(RADICES), "784x300": (0.9,), "1024x1024": (0.9,)}
OURS = 2e7
"""Connections of the largest pattern that is stored: a dense layer above it is left to cuBLAS."""


class Case(NamedTuple):
    """One thing to do, by however many engines: fields of their rows.

    Attributes
    ----------
    bench : {"step", "gather", "sample"}
    model : str
        "lenet300", "lenet5", or a layer as 784x300: features in and out.
    topology : {"dense", "random", "radix"}
    sparsity : float
    batch : int
    """

    bench: str
    model: str
    topology: str
    sparsity: float
    batch: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of a layer's pattern: (out_features, in_features)."""
        features, out_features = map(int, self.model.split("x"))
        return out_features, features

    @property
    def stored(self) -> bool:
        """Whether this engine does it too."""
        return self.bench == "step" or self.topology != "dense" or self.shape[0] * self.shape[1] <= OURS


def cases(small: bool = False) -> list[Case]:
    """All of them, or the smallest of each kind."""
    if small:
        some = [("dense", 0.0), ("random", 0.9)]
        steps = [Case("step", "lenet300", "random", 0.9, 16), Case("step", "lenet5", "random", 0.9, 16)]
        return [Case(what, "48x40", *wires, 16) for what in ("gather", "sample") for wires in some] + steps
    found = []
    for batch in BATCHES:
        for model in ("lenet300", "lenet5"):
            found += [Case("step", model, *wires, batch) for wires in wirings(model, SPARSITIES)]
        for features, out_features in list(LAYERS)[:3]:
            model = f"{features}x{out_features}"
            found += [
                Case(what, model, *wires, batch)
                for wires in wirings(model, LAYERS[features, out_features]) for what in ("gather", "sample")
            ]  # fmt: skip
    largest = list(LAYERS)[-1]
    model = "x".join(map(str, largest))
    return found + [
        Case(what, model, *wires, batch)
        for wires in wirings(model, LAYERS[largest]) for batch in BATCHES for what in ("gather", "sample")
    ]  # fmt: skip


def wirings(model: str, sparsities: tuple[float, ...]) -> list[tuple[str, float]]:
    """Topology and sparsity, the dense one first."""
    radix = [("radix", sparsity) for sparsity in RADIX.get(model, ())]
    return [("dense", 0.0), *(("random", sparsity) for sparsity in sparsities), *radix]


def problem_of(case: Case, small: bool = False) -> Any:
    """The network and the batch of a step."""
    if case.model == "lenet5":
        return lenet5_problem(case.topology, case.sparsity, case.batch, rate=0.05)
    sizes = (60, 40, 20, 10) if small else MODELS[case.model]
    return training_problem(sizes, case.topology, case.sparsity, case.batch, rate=0.05)
