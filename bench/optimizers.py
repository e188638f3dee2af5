"""What optimizers cost: whole steps of LeNet-300-100 by each, in turns, one thread: `python -m bench.optimizers`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from sparsecore.models.lenet300 import lenet300

from sparsecore.data import load
from sparsecore.data.normalisation import Normalisation
from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.topology import dense, uniform_random
from sparsecore.training.evaluation import store_of
from sparsecore.training.optimizers import SGD, Adam, AdamW, Optimizer
from sparsecore.training.step import Step

from .environment import settle
from .tables import markdown
from .timing import Budget, interleaved

BATCH, SPARSITIES = 128, (0.0, 0.9, 0.95, 0.99)
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "SGD, momentum": lambda: SGD(1e-6, 0.9, 1e-4), "Adam": lambda: Adam(1e-6), "AdamW": lambda: AdamW(1e-6)
}  # fmt: skip


def row(sparsity: float, budget: Budget) -> list[str]:
    """One line of the table: milliseconds of a step with momentum, and how many times as long the others take."""
    rng, data = np.random.default_rng(0), load("mnist-subset")
    wiring = [dense(*shape) if sparsity == 0 else uniform_random(*shape, sparsity, rng)
              for shape in ((300, 784), (100, 300))]  # fmt: skip
    calls = []
    for make in OPTIMIZERS.values():
        network = lenet300(wiring)
        store = store_of(network, data.train, Normalisation(data.shape, data.mean, data.std), cpu())
        calls.append(partial(Step(network, store, make()).run, 0, BATCH))
    first, *others = interleaved(calls, budget)
    return [f"{sparsity:.0%}", f"{first:.3f}", *(f"{each / first:.3f}" for each in others)]


def main(sparsities: tuple[float, ...] = SPARSITIES, *, quick: bool = False) -> None:
    set_threads(1)
    head = ["sparse layers", "SGD with momentum, ms", *(f"{name} over it" for name in list(OPTIMIZERS)[1:])]
    budget = Budget(0, 2, 0) if quick else Budget(4)
    print(markdown(f"A step of LeNet-300-100, batch {BATCH}, one thread", head, [row(s, budget) for s in sparsities]))


if __name__ == "__main__":
    settle(1)
    main(quick="--quick" in sys.argv)
