"""A step shared out among ranks: `mpiexec -n 2 python -m bench.mpi`, and what it is made of.

Each rank trains on its own rows of one batch, on one thread; in turns with that, the first rank trains alone, and all
do so at once, each for itself. The throughput that is printed is all ranks' rows a second over that of the one.
`--bucket` says how many bytes of gradients are summed at once: 0 sums layer by layer while the backward pass goes on, a
large number all at its end.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

import numpy as np
from sparsecore.models.catalogue import MODELS

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu, set_threads
from sparsecore.runtime.ranks import started
from sparsecore.topology.wiring import Wiring
from sparsecore.training.optimizers import SGD
from sparsecore.training.sharing import BUCKET, Sharing
from sparsecore.training.step import Step

SHAPES = {"lenet300": (1, 28, 28), "lenet5": (1, 28, 28), "resnet20": (3, 32, 32)}
AT_ONCE = 1 << 40
"""Bytes of gradients that no network has: all are summed at the end of the backward pass."""


def network_of(model: str, sparsity: float) -> Network:
    """A network of the catalogue, randomly wired."""
    wiring = Wiring("random", sparsity=sparsity) if sparsity else Wiring()
    known = MODELS[model]
    patterns, _ = wiring.patterns(known.links(SHAPES[model], classes=10), 0)
    return known.build(patterns, SHAPES[model], classes=10, seed=0)


def step_of(model: str, sparsity: float, samples: int, sharing: Sharing | None) -> Step:
    """A step on random images."""
    rng, network = np.random.default_rng(0), network_of(model, sparsity)
    shape = network.layers[0].in_shape
    x = rng.integers(0, 256, (samples, int(np.prod(shape))), np.uint8)
    split = Split(x, rng.integers(0, 10, samples).astype(np.int32))
    return Step(network, Batches(split, shape, [0.5], [0.25], cpu()), SGD(1e-3, 0.9), sharing=sharing)


def seconds(step: Step, batch: int, of_a_turn: float) -> float:
    """The median time of the steps of a turn: at least three, of all ranks as many."""
    number = max(3, int(of_a_turn / max(_once(step, batch), 1e-6)))
    if step.sharing is not None:
        number = int(step.sharing.ranks.gather(np.array([number])).min())
    return median(_once(step, batch) for _ in range(number))


def _once(step: Step, batch: int) -> float:
    begin = time.perf_counter()
    step.run(0, batch)
    return time.perf_counter() - begin


def main() -> None:
    command = argparse.ArgumentParser(prog="mpiexec -n N python -m bench.mpi", description=__doc__)
    command.add_argument("model", choices=SHAPES)
    command.add_argument("--batch", type=int, default=128, help="of a rank")
    command.add_argument("--sparsity", type=float, default=0.9)
    command.add_argument("--bucket", type=int, nargs="+", default=[BUCKET, AT_ONCE], help="bytes summed at once")
    command.add_argument("--local-batch-norm", action="store_true", help="each rank normalises by its own rows")
    command.add_argument("--turns", type=int, default=9)
    command.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    given = command.parse_args()
    set_threads(1)
    ranks = started()
    if ranks is None:
        command.error("is for several ranks: mpiexec -n 2 python -m bench.mpi")
    whole = given.batch * ranks.size
    alone = step_of(given.model, given.sparsity, given.batch, None)
    shared = {
        bucket: step_of(
            given.model, given.sparsity, whole,
            Sharing(ranks, whole, bucket=bucket, local_norms=given.local_batch_norm),
        )
        for bucket in given.bucket
    }  # fmt: skip
    seconds(alone, given.batch, 0.0)
    for step in shared.values():
        seconds(step, whole, 0.0)
    found: dict[Any, list[float]] = {name: [] for name in (None, "beside", *shared)}
    for _ in range(given.turns):
        if not ranks.rank:
            found[None].append(seconds(alone, given.batch, given.seconds))
        ranks.leave(0)  # the others sleep meanwhile
        found["beside"].append(seconds(alone, given.batch, given.seconds))
        ranks.leave(0)
        for bucket, step in shared.items():
            found[bucket].append(seconds(step, whole, given.seconds))
    bound = ranks.gather(np.array([min(os.sched_getaffinity(0)), len(os.sched_getaffinity(0))]))
    if ranks.rank:
        return
    print(f"processors of each rank, the first and how many: {', '.join(f'{a} {b}' for a, b in bound.tolist())}")
    one = median(found[None])
    print(f"{given.model}, {given.sparsity:.0%} sparse, {alone.network.params.size:,} values, {given.batch} a rank")
    print(f"alone: {1000 * one:.3f} ms, {given.batch / one:,.0f} rows/s")
    beside = median(found["beside"])
    print(f"each alone, all at once: {1000 * beside:.3f} ms, {ranks.size * one / beside:.2f} times one's, the most")
    for bucket, step in shared.items():
        times, number = found[bucket], sum(name == "begin sum over ranks" for name in step.host_calls)
        ratios = [ranks.size * each / other for each, other in zip(found[None], times, strict=True)]
        print(
            f"{ranks.size} ranks, {number} buckets: {1000 * median(times):.3f} ms, {whole / median(times):,.0f} rows/s"
            f", {median(ratios):.2f} times one's ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
