"""Small runs that other processes can make too, and all that they came to, to the bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sparsecore import train
from sparsecore.data import Dataset, Split
from sparsecore.layers import AvgPool2d, Dropout, Flatten, MaxPool2d, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.prune.pruner import Pruner, sparsity_rule
from sparsecore.prune.schedule import gradual
from sparsecore.runs.checkpoint import read
from sparsecore.runs.folder import METRICS
from sparsecore.runs.metrics import Metrics
from sparsecore.runs.trainer import Callback, Trainer
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD

KINDS = ("csr", "coo", "float64", "dense", "dropout", "convolution", "pruned")
"""Runs that between them call every kernel of training."""


def samples(count: int = 200, shape: tuple[int, ...] = (24,), seed: int = 0) -> Dataset:
    """Five classes that can be told apart."""
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % 5).astype(np.int32)
    x = rng.integers(0, 200, (count, int(np.prod(shape)))).astype(np.uint8)
    x[np.arange(count), y] += 55
    halves = Split(x[: count // 2].copy(), y[: count // 2]), Split(x[count // 2 :].copy(), y[count // 2 :])
    return Dataset("samples", "made up", *halves, shape, 5, (0.4,) * (shape[0] if len(shape) == 3 else 1), (0.25,))


def network(kind: str) -> Network:
    rng = np.random.default_rng(3)
    if kind == "convolution":
        return Network(
            [
                SparseConv2d(uniform_random(6, 2 * 9, 0.5, rng), (2, 8, 8), 3, padding=1, relu=True, rng=rng),
                MaxPool2d((6, 8, 8), 2),
                SparseConv2d(uniform_random(8, 6 * 9, 0.7, rng), (6, 4, 4), 3, stride=2, padding=1, rng=rng),
                AvgPool2d((8, 2, 2), 2),
                Flatten((8, 1, 1)),
                SparseLinear(dense(5, 8), rng=rng),
            ]
        )
    dtype = np.float64 if kind == "float64" else np.float32
    layout: Any = "coo" if kind == "coo" else "csr"
    first = dense(40, 24) if kind in ("dense", "pruned") else uniform_random(40, 24, 0.6, rng)
    layers: list[Any] = [SparseLinear(first, relu=True, rng=rng, dtype=dtype, format=layout)]
    if kind == "dropout":
        layers.append(Dropout((40,), 0.3))
    layers.append(SparseLinear(dense(5, 40), rng=rng, dtype=dtype))
    return Network(layers, sparse=[0])


def trainer(kind: str, **options: Any) -> Trainer:
    """Two epochs of four steps, the last of them short; Nesterov's momentum, decay and clipping in use."""
    data = samples(shape=(2, 8, 8) if kind == "convolution" else (24,))
    optimizer = SGD(0.05, 0.9, 1e-4, nesterov=True, clip_norm=2.0)
    made = Trainer(network(kind), data, optimizer, **{"epochs": 2, "batch_size": 27, "seed": 5} | options)
    if kind == "pruned":
        schedule = gradual(1, 6, 2)
        made.callbacks.append(Pruner(schedule, sparsity_rule(schedule, 0.8)))
    return made


def digest(kind: str, **options: Any) -> str:
    """Of everything that a run learned and said."""
    done = trainer(kind, **options)
    assert done.run() is not None
    return digest_of(done)


def digest_of(done: Trainer) -> str:
    found = hashlib.sha256()
    for array in (done.network.params, done.optimizer.velocity):
        found.update(np.ascontiguousarray(array).tobytes())
    for pattern in done.network.patterns.values():
        found.update(pattern.indptr.tobytes() + pattern.indices.tobytes())
    found.update(json.dumps(timeless(done.metrics)).encode())
    return found.hexdigest()


def timeless(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics without what the clock said."""
    return [{k: v for k, v in line.items() if "seconds" not in k and k != "step_ms"} for line in records]


def kept(folder: Path) -> tuple[Any, ...]:
    """What a run left in its folder, to the bit."""
    found = read(folder)
    patterns = [(p.indptr.tobytes(), p.indices.tobytes()) for p in found.network.patterns.values()]
    return (found.network.params.tobytes(), found.velocity.tobytes(), patterns, timeless(Metrics(folder / METRICS)))


def command(*words: str) -> int:
    """The training command with its output thrown away; for processes of their own."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return train.main(list(words))


class StopAt(Callback):
    """Stops a run after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, trainer: Trainer) -> None:
        if trainer.done == self.step:
            trainer.stop()
