"""What a rank does in these tests: trains small networks in float64, and keeps what each came to.

`python -m tests.mpi.job FOLDER CASE…`, alone or under mpiexec.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparsecore.data import Dataset, Split
from sparsecore.data.augmentation import Augmentation
from sparsecore.layers import (
    ArrayLayer,
    BatchNorm,
    Dropout,
    GlobalAvgPool,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.prune.methods import REGROW, RIGL, SET, Method
from sparsecore.prune.moving import RewiringSchedule
from sparsecore.prune.pruner import Pruner, sparsity_rule
from sparsecore.prune.rewirer import Rewirer
from sparsecore.prune.schedule import gradual
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime import ranks as ranks_module
from sparsecore.runtime.devices import set_threads
from sparsecore.runtime.processors import processes
from sparsecore.runtime.ranks import Ranks, started
from sparsecore.topology import dense, uniform_random
from sparsecore.training.callbacks import Callback
from sparsecore.training.optimizers import SGD, AdamW
from sparsecore.training.sharing import BUCKET

BATCH, STEPS, EPOCHS = 36, 13, 4
SAMPLES = BATCH * (STEPS - 1) + 5  # the last batch leaves ranks without rows where there are several


def images(channels: int = 2, size: int = 6) -> Dataset:
    """Random pixels of four classes, which are told apart by their brightness."""
    rng = np.random.default_rng(0)

    def split(samples: int) -> Split:
        y = rng.integers(0, 4, samples, dtype=np.int32)
        x = rng.integers(0, 120, (samples, channels * size * size)) + 40 * y[:, None]
        return Split(x.astype(np.uint8), y)

    return Dataset("pixels", "made here", split(SAMPLES), split(150), (channels, size, size), 4, (0.4,), (0.2,))


def flat(norm: bool = True) -> Network:
    """Sparse linear layers, normalised, with dropout between them."""
    rng = np.random.default_rng(1)
    first = SparseLinear(uniform_random(24, 72, 0.6, rng), rng=rng, dtype=np.float64, relu=not norm)
    second = SparseLinear(uniform_random(16, 24, 0.5, rng), rng=rng, dtype=np.float64, relu=True)
    head = SparseLinear(dense(4, 16), rng=rng, dtype=np.float64)
    norms = [BatchNorm((24,), relu=True, dtype=np.float64)] if norm else []
    return Network([first, *norms, Dropout((24,), 0.2), second, head])


def residual() -> Network:
    """Convolutions, one of them in a residual block."""
    rng = np.random.default_rng(2)

    def conv(channels: int, given: int) -> SparseConv2d:
        pattern = uniform_random(channels, given * 9, 0.4, rng)
        return SparseConv2d(pattern, (given, 6, 6), 3, padding=1, rng=rng, dtype=np.float64)

    shape = (8, 6, 6)
    block = [conv(8, 8), BatchNorm(shape, relu=True, dtype=np.float64), conv(8, 8), BatchNorm(shape, dtype=np.float64)]
    head = SparseLinear(dense(4, 8), rng=rng, dtype=np.float64)
    stem = [conv(8, 2), BatchNorm(shape, relu=True, dtype=np.float64)]
    return Network([*stem, Residual(Sequential(block), relu=True), GlobalAvgPool(shape), head])


class Doubling(ArrayLayer):
    """A layer in plain Python."""

    def __init__(self, features: int) -> None:
        self.params = {"scale": np.full(features, 2.0)}
        self.in_shape = self.out_shape = (features,)

    def forward_array(self, x: Any, *, training: bool) -> Any:
        return x * self.params["scale"], x

    def backward_array(self, dy: Any, cache: Any) -> Any:
        return dy * self.params["scale"], {"scale": (dy * cache).sum(0)}


def squares(z: Any, wanted: Any) -> Any:
    """A loss in plain Python: mean squares of what is missing to one-hot vectors."""
    apart = z - np.eye(z.shape[1])[wanted]
    return float((apart**2).sum() / len(z)), 2 * apart / len(z)


def own() -> Network:
    rng = np.random.default_rng(3)
    first = SparseLinear(uniform_random(20, 72, 0.5, rng), rng=rng, dtype=np.float64, relu=True)
    return Network([first, Doubling(20), SparseLinear(dense(4, 20), rng=rng, dtype=np.float64)])


def halved() -> Network:
    """In float32, with activations in bfloat16."""
    rng = np.random.default_rng(4)
    first = SparseLinear(uniform_random(24, 72, 0.6, rng), rng=rng)
    layers = [first, BatchNorm((24,), relu=True), SparseLinear(dense(4, 24), rng=rng)]
    return Network(layers).to(activations="bfloat16")


def rewiring(method: Method, **goal: float) -> list[Callback]:
    return [Rewirer(method, RewiringSchedule(5, 40, 0.3), seed=7, **goal)]


def pruning() -> list[Callback]:
    schedule = gradual(6, 40, 8)
    return [Pruner(schedule, sparsity_rule(schedule, 0.9, initial=0.5))]


class Case:
    """One run: of which network, by which optimizer, with what else."""

    def __init__(
        self, network: Callable[[], Network], *, adam: bool = False, callbacks: Callable[[], list[Callback]] = list,
        **options: Any,
    ) -> None:  # fmt: skip
        self.network, self.adam, self.callbacks, self.options = network, adam, callbacks, options

    def trainer(self, ranks: Ranks | None, **more: Any) -> Trainer:
        optimizer = AdamW(0.01) if self.adam else SGD(0.05, 0.9, 1e-4, clip_norm=1.0)
        options = {"callbacks": self.callbacks()} | self.options | more
        return Trainer(
            self.network(), images(), optimizer, epochs=EPOCHS, batch_size=BATCH, seed=3, ranks=ranks, **options
        )


CASES = {
    "dropout and norms": Case(flat),
    "bfloat16": Case(halved),
    "bfloat16, rigl": Case(halved, callbacks=lambda: rewiring(RIGL)),
    "adam": Case(flat, adam=True, validation=0.1),
    "augmented residual": Case(residual, augment=Augmentation((2, 6, 6), 1, True)),
    "own layer and loss": Case(own, loss=squares),
    "pruned": Case(flat, callbacks=pruning),
    "set": Case(flat, callbacks=lambda: rewiring(SET)),
    "rigl": Case(residual, callbacks=lambda: rewiring(RIGL)),
    "regrown": Case(flat, callbacks=lambda: rewiring(REGROW, targets=0.8, initial=0.4)),
    "local norms": Case(flat, local_norms=True),
    "cut": Case(residual),
    "cut, apart": Case(residual),
    "whole": Case(residual),
}
"""Those that are cut have their sums shared out, however small, layer by layer; apart, as between machines."""


def kept(trainer: Trainer) -> dict[str, Any]:
    """What a run came to, as arrays."""
    network = trainer.network
    found = {"values": network.table.values.copy(), "seen": np.array(trainer._step.totals(reset=False))}
    found |= {f"indices of {path}": pattern.indices for path, pattern in network.patterns.items()}
    found |= {f"column {name}": np.asarray(column) for name, column in trainer.optimizer.columns.items()}
    told = [value for line in trainer.metrics for key, value in line.items() if key.endswith(("_loss", "_accuracy"))]
    found["scores"] = np.array(told)
    return found


def main() -> None:
    set_threads(1)
    ranks = started() if processes() > 1 else None
    gathered = ranks_module.GATHERED
    for name in sys.argv[2:]:
        ranks_module.GATHERED = 0 if name.startswith("cut") else gathered
        trainer = CASES[name].trainer(ranks)
        if ranks is not None and trainer._step.sharing is not None:
            ranks.together = "apart" not in name
            trainer._step.sharing.bucket = 0 if name.startswith("cut") else BUCKET
        trainer.run()
        found = kept(trainer)
        if ranks is not None:
            sharing = trainer._step.sharing
            assert sharing is not None
            found["elements"], found["steps"] = np.array(sharing.elements), np.array(trainer.steps_done)
        where = Path(sys.argv[1]) / f"{name}, rank {0 if ranks is None else ranks.rank}.npz"
        np.savez(where, **found)


if __name__ == "__main__":
    main()
