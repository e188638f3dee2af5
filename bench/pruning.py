"""What pruning costs and what it saves, on LeNet-300-100, one thread: `python -m bench.pruning`.

A network is trained and pruned gradually; at each sparsity its step is timed beside that of a network that was wired
at random with as many connections in each layer, and a pruning beside the steps around it.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
from sparsecore.models.lenet300 import lenet300

from sparsecore.data import load
from sparsecore.data.batches import Batches
from sparsecore.data.normalisation import Normalisation
from sparsecore.network import Network
from sparsecore.prune import gradual, to_sparsity
from sparsecore.prune.pruner import Pruner, sparsity_rule
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.training.evaluation import store_of
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .tables import markdown
from .timing import Budget, interleaved

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
BATCH, EPOCHS = 128, 4
STEPS = 10
"""Timed after each pruning."""


def pruned(sparsity: float) -> tuple[Network, SGD, Batches]:
    """A network that was pruned to this sparsity while it learned the embedded digits."""
    network, data, optimizer = lenet300(), load("mnist-subset"), SGD(0.1, 0.9, 3e-4)
    steps = EPOCHS * -(-len(data.train) // BATCH)
    schedule = gradual(steps // 4, 3 * steps // 4, 8)
    pruner = Pruner(schedule, sparsity_rule(schedule, sparsity))
    Trainer(network, data, optimizer, epochs=EPOCHS, batch_size=BATCH, callbacks=[pruner]).run()
    store = store_of(network, data.train, Normalisation(data.shape, data.mean, data.std), cpu())
    return network, optimizer, store


def twin(network: Network) -> Network:
    """A network wired at random from the start, with as many connections in each layer."""
    rng = np.random.default_rng(0)
    wiring = []
    for k in network.sparse:
        shape, nnz = network.patterns[k].shape, network.patterns[k].nnz
        positions = np.sort(rng.choice(shape[0] * shape[1], nnz, replace=False))
        wiring.append(SparsityPattern.from_coo(shape, positions // shape[1], positions % shape[1]))
    return lenet300(wiring)


def pruning(network: Network, optimizer: SGD, store: Batches, sparsity: float, times: int) -> tuple[float, float]:
    """The median milliseconds that a pruning adds, and the median of how many steps that is.

    A pruning is everything from choosing connections until a step has run, less the time of that step. Each is compared
    with the steps right after it, since a processor's clock may have changed a second later.
    """
    taken = []
    for _ in range(times):
        one, its = copy.deepcopy(network), copy.deepcopy(optimizer)
        step = Step(one, store, its)
        for _ in range(3):
            step.run(0, BATCH)
        start = time.perf_counter()
        to_sparsity(one, sparsity, optimizer=its)
        step.run(0, BATCH)
        between = time.perf_counter()
        for _ in range(STEPS):
            step.run(0, BATCH)
        each = (time.perf_counter() - between) / STEPS
        taken.append((between - start - each, each))
    prune, each_step = np.array(taken).T
    return 1e3 * float(np.median(prune)), float(np.median(prune / each_step))


def row(sparsity: float, quick: bool) -> list[str]:
    """One line of the table. The pruning is the schedule's last, which removes a fiftieth of what is left."""
    network, optimizer, store = pruned(sparsity)
    steps: list[Any] = [Step(each, store, SGD(1e-6, 0.9)) for each in (network, twin(network))]
    budget = Budget(0, 2, 0) if quick else Budget(2)
    ours, built = interleaved([lambda s=step: s.run(0, BATCH) for step in steps], budget)  # type: ignore[misc]
    prune, steps_long = pruning(network, optimizer, store, 1 - 0.98 * (1 - sparsity), 2 if quick else 51)
    return [
        f"{sparsity:.0%}", f"{network.connections:,}", f"{ours:.3f}", f"{built:.3f}", f"{ours / built:.2f}",
        f"{prune:.2f}", f"{steps_long:.1f}",
    ]  # fmt: skip


def main(sparsities: tuple[float, ...] = SPARSITIES, *, quick: bool = False) -> None:
    set_threads(1)
    head = ["sparse layers", "connections", "step after pruning, ms", "built at it, ms", "ratio", "a pruning, ms",
            "in its steps"]  # fmt: skip
    print(markdown(f"LeNet-300-100, batch {BATCH}, one thread", head, [row(s, quick) for s in (0.0, *sparsities)]))


if __name__ == "__main__":
    main()
