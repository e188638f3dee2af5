"""About how long a run takes on one core, so that a study can say so before it starts."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

from .run import Run
from .scale import LENET5, LENET5_CIFAR, LENET300, Net
from .worker import LOOK_EPOCHS

AROUND = 0.5
"""Seconds for loading data, recording steps, looking at the result."""
EVALUATION = 0.5
"""A sample that is looked at takes so much of one that is trained on."""
TEST = {"mnist-subset": 2_000}
"""Samples of a test split, where they are not 10,000."""


@cache
def seconds_of(run: Run) -> float:
    """Estimated seconds of one core, from the nets' times an epoch and the fraction of connections that is kept."""
    if run.kind == "prune":
        return AROUND
    options = run.options
    net = next(each for each in (LENET300, LENET5, LENET5_CIFAR) if _alike(each, options))
    samples = {"mnist-subset": 8_000}.get(options["dataset"], net.samples)
    floor, layers = net.seconds
    epoch = (floor * _width(net, options) + layers * _work(net, run)) * samples / net.samples
    looks = options["epochs"] / LOOK_EPOCHS + 2 * _prunings(options)
    return AROUND + epoch * (options["epochs"] + looks * EVALUATION * TEST.get(options["dataset"], 10_000) / samples)


def _alike(net: Net, options: dict[str, Any]) -> bool:
    cifar = options["dataset"] == "cifar10"
    return net.model == options["model"] and (net.model != "lenet5" or (net.dataset == "cifar10") == cifar)


def _work(net: Net, run: Run) -> float:
    """What the sparse layers take on average over the run, where they take 1 when they are dense."""
    options = run.options
    if options.get("random"):  # as many as LeNet-300-100 at 90%, however large
        return 0.1 * net.unstructured
    if "hidden" in options:  # as many as in the dense network
        return net.unstructured
    shares = [positions * size for positions, size in zip(net.positions, net.sparse, strict=True)]
    done = zip(shares, _kept(net, run), strict=True)
    if "radix" in options:  # rows that share their columns; widths keep as many connections as there are in all
        return 1.0 if "widths" in options else sum(share * kept for share, kept in done) / sum(shares)
    return sum(share * min(net.unstructured * kept, 1.0) for share, kept in done) / sum(shares)


def _kept(net: Net, run: Run) -> tuple[float, float]:
    """The fraction of connections that each of the two sparse layers has on average over the run."""
    options = run.options
    if options.get("prune") == "gradual":
        goals = [float(each) for each in options["prune_to"].split(",")]
        goals = goals * 2 if len(goals) == 1 else goals[net.first : net.first + 2]
        # A twentieth of the run is dense, and up to its half a quarter is still there of what goes, on average.
        return 1 - 0.84 * goals[0], 1 - 0.84 * goals[1]
    if run.source is not None:
        found = run.source.options
        kept = 1 - float(found.get("prune_to", found.get("sparsity", 0)).split(",")[0])
        return kept, kept
    if "radix" in options:
        first, second = (int(each) for each in options["radix"].split(","))
        return first / (first * second), second / (first * second)
    kept = 1 - float(options.get("sparsity", 0))
    return kept, kept


def _prunings(options: dict[str, Any]) -> int:
    if options.get("prune") != "gradual":
        return 0
    return 1 + (options["prune_end"] - options["prune_start"]) // options["prune_every"]


def _width(net: Net, options: dict[str, Any]) -> float:
    """How much more of activations there is than in the network as it is."""
    if "widths" in options:
        radices, widths = ([int(each) for each in options[name].split(",")] for name in ("radix", "widths"))
        return prod(radices) * widths[1] / 300
    sizes = [int(each) for each in options["hidden"].split(",")] if "hidden" in options else net.hidden
    if net.model == "lenet5":  # most are the second convolution's
        return 0.4 + 0.6 * sizes[net.wide] / net.hidden[net.wide]
    return max(sum(sizes) / sum(net.hidden), 1.0)
