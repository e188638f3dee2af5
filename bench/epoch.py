"""Epochs: everything from the uint8 images on, including shuffling and packing; and the packing alone."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from sparsecore.data import Dataset, Split, load
from sparsecore.data.batches import Batches
from sparsecore.runtime.devices import CPU
from sparsecore.runtime.workspace import Workspace
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .engines import numpy_hand
from .options import Options
from .problem import MODELS, Problem, training_problem
from .tables import markdown, number, pick, ratio, wires
from .timing import Entry, Row, fastest_rows


def measure(options: Options) -> list[Row]:
    """An epoch of MNIST, full if it is in the cache; sparse and dense by us, dense by NumPy."""
    data = load("mnist", fetch=False)
    train = data.train.take(np.arange(640)) if options.quick else data.train
    rows: list[Row] = []
    for batch in options.batches or (128,):
        entries = [Entry(_fields("pack", options, batch, len(train)), Packing(data, train, batch).run)]
        sparsities = options.sparsities or (0.9,)
        for topology, sparsity in [("dense", 0.0), *((t, s) for s in sparsities for t in ("random", "radix"))]:
            problem = training_problem(MODELS[options.model], topology, sparsity, batch, rate=0.05)
            ours = Epoch(data, train, problem, options.threads)
            fields = _fields("epoch", options, batch, len(train), topology, sparsity)
            entries.append(Entry(fields, ours.run))
            if topology == "dense":
                peer = NumpyEpoch(data, train, problem)
                entries.append(Entry(fields | {"engine": "numpy-hand"}, peer.run))
        rows += fastest_rows(entries, options.budget(15))
    return rows


class Epoch:
    """Shuffle, then a step for each batch."""

    def __init__(self, data: Dataset, train: Split, problem: Problem, threads: int) -> None:
        device = CPU(threads)
        self.batch, self.epochs = len(problem.x), count()
        self.store = _store(data, train, device)
        self.step = Step(problem.network(), self.store, SGD(problem.rate), device)

    def run(self) -> None:
        self.store.shuffle(0, next(self.epochs))
        for start in range(0, len(self.store), self.batch):
            self.step.run(start, min(self.batch, len(self.store) - start))


class NumpyEpoch:
    """The same by NumPy alone, features side by side as in the store. A last, smaller batch is left out."""

    def __init__(self, data: Dataset, train: Split, problem: Problem) -> None:
        self.step = numpy_hand.Step(problem, "F")
        self.images, self.labels, self.batch = train.x, train.y, len(problem.x)
        self.scale, self.shift = np.float32(1 / 255 / data.std[0]), np.float32(-data.mean[0] / data.std[0])
        self.bytes = np.empty((self.batch, train.x.shape[1]), np.uint8)
        self.rng = np.random.default_rng(0)

    def run(self) -> None:
        order = self.rng.permutation(len(self.images))
        x, columns = self.step.x.T, np.arange(self.batch)
        for start in range(0, len(order) - self.batch + 1, self.batch):
            chosen = order[start : start + self.batch]
            np.take(self.images, chosen, axis=0, out=self.bytes, mode="clip")
            np.multiply(self.bytes, self.scale, out=x, dtype=np.float32)
            np.add(x, self.shift, out=x)
            self.step.truth.fill(0)
            self.step.truth[self.labels[chosen], columns] = 1
            self.step.run()


class Packing:
    """Pack a batch of the shuffled images into tiles, another one each time."""

    def __init__(self, data: Dataset, train: Split, batch: int) -> None:
        device = CPU(1)
        self.launcher = device.launcher()
        kernels, self.tape = device.recorder()
        self.store = _store(data, train, device)
        self.store.shuffle(0, 0)
        self.store.seek(0, batch)
        self.store.pack(Workspace(device, kernels))
        self.batch, self.turns = batch, count()

    def run(self) -> None:
        start = next(self.turns) * self.batch % (len(self.store) - self.batch + 1)
        self.store.seek(start, self.batch)
        self.launcher.replay(self.tape)


def table(rows: list[Row]) -> str:
    body = []
    for row in pick(rows, bench="epoch"):
        (dense,) = pick(rows, "numpy-hand", bench="epoch", batch=row["batch"], threads=row["threads"])
        body.append(
            [
                wires(row["topology"], row["sparsity"]), row["engine"], str(row["batch"]), number(row["ms"] / 1e3),
                number(1e6 * row["ms"] / row["samples"], 4), ratio(dense["ms"], row["ms"]),
            ]
        )  # fmt: skip
    samples, threads = rows[-1]["samples"], rows[-1]["threads"]
    title = f"Epoch of {samples:,} samples of MNIST from the uint8 store, {threads} thread(s)"
    head = ["network", "engine", "batch", "seconds", "ns a sample", "over numpy-hand"]
    packing = [f"Packing a batch of {row['batch']}: {1e3 * row['ms']:.1f} µs\n" for row in pick(rows, bench="pack")]
    return "\n".join([markdown(title, head, body), *packing])


def _store(data: Dataset, split: Split, device: Any) -> Batches:
    return Batches(split, data.shape, data.mean, data.std, device)


def _fields(
    bench: str, options: Options, batch: int, samples: int, topology: str = "dense", sparsity: float = 0.0
) -> Row:
    return {
        "bench": bench, "model": options.model, "topology": topology, "sparsity": sparsity, "batch": batch,
        "threads": options.threads if bench == "epoch" else 1, "engine": "sparsecore", "samples": samples,
    }  # fmt: skip
