"""What moving connections costs, and training that moves them beside others: `python -m bench.dynamic [TABLE …]`.

`update` times updates beside the steps around them; `rows` a step whose first layer has rows without connections;
`epoch` RigL's epochs beside masked PyTorch's, and beside sparselab's where that is installed. One thread, or as many as
`--threads` says for `epoch`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from sparsecore.models.catalogue import MODELS
from sparsecore.models.lenet300 import lenet300

from sparsecore.data import Dataset, Split, load
from sparsecore.network import Network
from sparsecore.prune import RIGL, SET, Method, Rewirer, RewiringSchedule, of_all
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import set_threads
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import uniform_random
from sparsecore.topology.distribution import Distribution
from sparsecore.topology.wiring import Wiring
from sparsecore.training.optimizers import SGD

from .environment import settle
from .tables import markdown
from .timing import Budget, interleaved

BATCH, EVERY, FRACTION = 128, 100, 0.3
METHODS: dict[str, Method] = {"SET": SET, "RigL": RIGL, "RigL, exact": Method(of_all)}
NETWORKS: dict[str, tuple[tuple[float, ...], int]] = {
    "lenet300": ((0.9, 0.95, 0.98, 0.99), 101), "lenet5": ((0.9,), 101), "resnet20": ((0.9,), 21)
}  # fmt: skip
"""The sparsities at which updates are timed, by model, and how many of them."""


def wired(model: str, sparsity: float, data: Dataset, distribution: Distribution = "uniform") -> Network:
    """A network of that model at random."""
    known = MODELS[model]
    options = {"padding": 2 if data.shape[0] == 3 else 0} if model == "lenet5" else {}
    links = known.links(data.shape, classes=data.classes, **options)
    patterns, _ = Wiring("random", sparsity=sparsity, distribution=distribution).patterns(links, 0)
    return known.build(patterns, data.shape, classes=data.classes, seed=0, **options)


# -- what an update costs --------------------------------------------------------------------------------------------


def update(model: str, sparsity: float, method: Method, times: int) -> tuple[float, float, float]:
    """Medians: a step's milliseconds, an update's, and how many of the steps around it an update takes.

    An update is everything until the next step runs; it leaves the recorded step as it is. The updates are those of a
    run from its first to its last, which move ever less.
    """
    data = load("mnist-subset" if model == "lenet300" else "cifar10", fetch=False)
    network = wired(model, sparsity, data)
    rewirer = Rewirer(method, RewiringSchedule(1, times, FRACTION))
    trainer = Trainer(network, data, SGD(0.01, 0.9, 3e-4), epochs=10_000, batch_size=BATCH, evaluate_every=10_000)
    trainer.prepare()
    rewirer.started(trainer)
    trainer.store.shuffle(0, 0)
    step, batches = trainer._step, len(trainer.store) // BATCH
    taken = []
    for k in range(times):
        for j in range(5):
            step.run((5 * k + j) % batches * BATCH, BATCH)
        start = time.perf_counter()
        for j in range(10):
            step.run((10 * k + j) % batches * BATCH, BATCH)
        between = time.perf_counter()
        trainer.state.batch = k + 1
        with trainer._held:  # as all of a run is; entering it is no part of an update
            begun = time.perf_counter()
            rewirer.update(trainer)
            taken.append(((between - start) / 10, time.perf_counter() - begun))
    steps, updates = np.array(taken).T
    return 1e3 * float(np.median(steps)), 1e3 * float(np.median(updates)), float(np.median(updates / steps))


def updates(quick: bool) -> str:
    """The table of updates."""
    lines = []
    for model, (sparsities, times) in NETWORKS.items():
        for sparsity in sparsities:
            for name, method in METHODS.items():
                step, one, steps = update(model, sparsity, method, 3 if quick else times)
                share = 0.75 * one / (0.75 * one + EVERY * step)  # updates in three quarters of the run
                lines.append([model, f"{sparsity:.0%}", name, f"{step:.3f}", f"{one:.2f}", f"{steps:.1f}",
                              f"{share:.1%}"])  # fmt: skip
    head = ["model", "sparsity", "method", "step, ms", "update, ms", "in steps", f"of training, every {EVERY}"]
    return markdown(f"Updates, batch {BATCH}, one thread", head, lines)


# -- rows without connections ----------------------------------------------------------------------------------------


def rows(quick: bool) -> str:
    """A step of 300 rows, two thirds of them empty, beside one of the 100 that are not."""
    data, rng = load("mnist-subset"), np.random.default_rng(0)
    found = []
    for nnz in (23520, 4704):
        filled = uniform_random(100, 784, 1 - nnz / 78400, rng)
        indptr = np.concatenate([filled.indptr, np.full(200, filled.nnz)])
        spread = SparsityPattern((300, 784), indptr, filled.indices)
        second = uniform_random(100, 100, 0.7, rng)
        steps = []
        for first, columns in ((filled, 100), (spread, 300)):
            behind = SparsityPattern((100, columns), second.indptr, second.indices)
            network = lenet300([first, behind])
            network.let_move(["0", "1"])
            trainer = Trainer(network, data, SGD(1e-6, 0.9), epochs=1, batch_size=BATCH)
            trainer.prepare()
            steps.append(lambda step=trainer._step: step.run(0, BATCH))
        dense, loose = interleaved(steps, Budget(0, 2, 0) if quick else Budget(2))
        found.append([f"{nnz:,}", f"{dense:.3f}", f"{loose:.3f}", f"{loose / dense:.2f}"])
    head = ["connections", "100 rows, ms", "300 rows, 200 empty, ms", "ratio"]
    return markdown("Rows without connections, one thread", head, found)


# -- an epoch beside others ------------------------------------------------------------------------------------------


def epochs(threads: int, quick: bool) -> str:
    """RigL's epoch by us, and by others on the same batches."""
    lines = []
    for model, dataset in (("lenet300", "mnist"), ("lenet5", "cifar10")):
        data = load(dataset, fetch=False)
        if quick:
            data = Dataset(data.name, data.source, data.train.take(np.arange(640)), data.test, data.shape, data.classes,
                           data.mean, data.std)  # fmt: skip
        for sparsity in (0.9, 0.98) if model == "lenet300" else (0.9,):
            runs: dict[str, Callable[[], object]] = {"us": Ours(model, sparsity, data, threads).epoch}
            if find_spec("torch"):
                runs["masked PyTorch"] = masked(model, sparsity, data, threads)
                if model == "lenet300" and find_spec("sparselab"):
                    runs["sparselab"] = sparselab(sparsity, data, threads)
            times = interleaved(list(runs.values()), Budget(0, 1 if quick else 5, 0, 0.3))
            ms = dict(zip(runs, times, strict=True))
            others = [f"{ms[name] / ms['us']:.2f}×" if name in ms else "–" for name in ("masked PyTorch", "sparselab")]
            lines.append([model, f"{sparsity:.0%}", f"{ms['us'] / 1e3:.2f}", *others])
    head = ["model", "sparsity", "us, s", "masked PyTorch over us", "sparselab over us"]
    return markdown(f"An epoch with RigL every {EVERY} steps, batch {BATCH}, {threads} thread(s)", head, lines)


class Ours:
    """Epoch after epoch of a run that does not end."""

    def __init__(self, model: str, sparsity: float, data: Dataset, threads: int) -> None:
        set_threads(threads)
        rewirer = Rewirer(RIGL, RewiringSchedule(EVERY, 10**9, FRACTION))
        self.trainer = Trainer(
            wired(model, sparsity, data), data, SGD(0.02, 0.9, 3e-4), epochs=10**6, batch_size=BATCH,
            evaluate_every=10**6, callbacks=[rewirer],
        )  # fmt: skip
        self.trainer.prepare()

    def epoch(self) -> None:
        self.trainer._train_epoch()
        self.trainer.state.epoch, self.trainer.state.batch = self.trainer.state.epoch + 1, 0


def batches_of(data: Dataset, torch: Any) -> tuple[Any, Any, Callable[[], Any]]:
    """Normalised inputs and labels as tensors, and an order for each epoch: what PyTorch is given costs it nothing."""
    train: Split = data.train
    x = (train.x.astype(np.float32).reshape(len(train), data.shape[0], -1) / 255) - np.reshape(data.mean, (1, -1, 1))
    x = (x / np.reshape(data.std, (1, -1, 1))).astype(np.float32)
    rng = np.random.default_rng(0)
    return torch.from_numpy(x), torch.from_numpy(train.y.astype(np.int64)), lambda: torch.from_numpy(
        rng.permutation(len(train))
    )


def masked(model: str, sparsity: float, data: Dataset, threads: int) -> Callable[[], None]:
    """RigL on dense weights under masks: gradients are masked in place, PyTorch's fused SGD steps, and at updates the
    dense gradient tells what comes."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = data.shape
    if model == "lenet300":
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
                            nn.Linear(100, 10))  # fmt: skip
        moving = [net[1], net[3]]
    else:
        ours = wired(model, sparsity, data)
        net, moving = twin_of(ours, nn)
    weights = [layer.weight for layer in moving]
    masks = [(torch.rand_like(w) >= sparsity).float() for w in weights]
    with torch.no_grad():
        for w, mask in zip(weights, masks, strict=True):
            w.mul_(mask)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, 0.9, weight_decay=3e-4, fused=True)
    loss, (x, y, order) = nn.CrossEntropyLoss(), batches_of(data, torch)
    x = x.reshape(-1, *shape)
    steps = 0

    def move() -> None:
        for w, mask in zip(weights, masks, strict=True):
            count = int(FRACTION * mask.sum())
            flat, there = mask.view(-1), w.detach().view(-1).abs()
            there[flat == 0] = float("inf")
            score = w.grad.view(-1).abs() * (1 - flat)
            flat[torch.topk(there, count, largest=False).indices] = 0
            flat[torch.topk(score, count).indices] = 1
            with torch.no_grad():
                w.mul_(mask)
                optimizer.state[w]["momentum_buffer"].mul_(mask)

    def epoch() -> None:
        nonlocal steps
        torch.set_num_threads(threads)
        for at in order().split(BATCH):
            optimizer.zero_grad(set_to_none=False)
            loss(net(x[at]), y[at]).backward()
            steps += 1
            if steps % EVERY == 0 and "momentum_buffer" in optimizer.state[weights[0]]:
                move()
            with torch.no_grad():
                for w, mask in zip(weights, masks, strict=True):
                    w.grad.mul_(mask)
            optimizer.step()

    return epoch


def twin_of(ours: Network, nn: Any) -> tuple[Any, list[Any]]:
    """The PyTorch model of the same layers, dense, and those of ours that are sparse."""
    from sparsecore.layers import MaxPool2d, SparseConv2d, SparseLinear

    made: list[Any] = []
    moving = []
    for path, layer in ours.walk():
        if isinstance(layer, SparseConv2d):
            channels = layer.in_shape[0], layer.out_shape[0]
            made.append(nn.Conv2d(*channels, layer.kernel_size, layer.stride, layer.padding))
        elif isinstance(layer, SparseLinear):
            if not any(isinstance(each, nn.Flatten) for each in made):
                made.append(nn.Flatten())
            made.append(nn.Linear(layer.in_features, layer.out_features))
        elif isinstance(layer, MaxPool2d):
            made.append(nn.MaxPool2d(2))
            continue
        else:
            continue
        if path in ours.sparse:
            moving.append(made[-1])
        if layer.relu:
            made.append(nn.ReLU())
    return nn.Sequential(*made), moving


def sparselab(sparsity: float, data: Dataset, threads: int) -> Callable[[], None]:
    """sparselab's own layers and RigL."""
    import sparselab as lab  # the extra "peers"
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    net = nn.Sequential(lab.SparseLinear(784, 300, sparsity=sparsity), nn.ReLU(),
                        lab.SparseLinear(300, 100, sparsity=sparsity), nn.ReLU(), nn.Linear(100, 10))  # fmt: skip
    moving = lab.RigL(sparsity=sparsity, drop_fraction=FRACTION, update_freq=EVERY, seed=0)
    for layer in (net[0], net[2]):
        layer.apply(moving)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, 0.9, weight_decay=3e-4)
    loss, (x, y, order) = nn.CrossEntropyLoss(), batches_of(data, torch)
    x = x.reshape(len(x), -1)

    def epoch() -> None:
        torch.set_num_threads(threads)
        for at in order().split(BATCH):
            optimizer.zero_grad(set_to_none=False)
            loss(net(x[at]), y[at]).backward()
            optimizer.step()
            moving.step()

    return epoch


TABLES: dict[str, Callable[[argparse.Namespace], str]] = {
    "update": lambda given: updates(given.quick),
    "rows": lambda given: rows(given.quick),
    "epoch": lambda given: epochs(given.threads, given.quick),
}


def main(arguments: list[str] | None = None) -> None:
    command = argparse.ArgumentParser("python -m bench.dynamic", description=(__doc__ or "").partition(":")[0])
    command.add_argument("table", nargs="*", choices=[*TABLES, []], default=[], help=", ".join(TABLES))
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--quick", action="store_true", help="a look at whether it runs")
    given = command.parse_args(arguments)
    settle(given.threads)
    set_threads(1)
    for table in given.table or TABLES:
        print(TABLES[table](given), flush=True)


if __name__ == "__main__":
    main()
