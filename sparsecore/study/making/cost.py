"""About how long a run takes on one core, so that a study can say so before it starts."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

from .run import Run
from .scale import LENET5, LENET5_CIFAR, LENET300, RESNET20, LeNet, Net
from .worker import LOOK_EPOCHS

AROUND = 0.5
"""Seconds for loading data, recording steps and testing the result."""
EVALUATION = 0.5
"""Time to evaluate a sample, as a fraction of the time to train on one."""
UPDATE = 0.002
"""Seconds for moving connections once."""
UNKNOWN = 60.0
"""Seconds for a run that is not of a study's network: nobody knows, and all such are taken for equally long."""
TEST = {"mnist-subset": 2_000}
"""Samples of a test split, where they are not 10,000."""


@cache
def seconds_of(run: Run) -> float:
    """Estimated seconds of one core, from the nets' times an epoch and the fraction of connections that is kept."""
    if run.kind == "prune":
        return AROUND
    options = run.options
    net = next((each for each in (LENET300, LENET5, LENET5_CIFAR, RESNET20) if _alike(each, options)), None)
    if net is None or not net.recipe.keys() <= options.keys():
        return UNKNOWN
    samples = {"mnist-subset": 8_000}.get(options["dataset"], net.samples)
    floor, layers = net.seconds
    if isinstance(net, LeNet):
        epoch = floor * _width(net, options) + layers * _work(net, run)
    else:
        epoch = (floor + layers * _deep_work(net, options)) * options.get("width", 1.0)
    epoch *= samples / net.samples
    evaluations = options["epochs"] / LOOK_EPOCHS + 2 * _prunings(options)
    evaluated = evaluations * TEST.get(options["dataset"], 10_000) / samples
    return AROUND + epoch * (options["epochs"] + EVALUATION * evaluated) + UPDATE * _updates(options, samples)


def _alike(net: Net, options: dict[str, Any]) -> bool:
    cifar = options["dataset"] == "cifar10"
    return net.model == options["model"] and (net.model != "lenet5" or (net.dataset == "cifar10") == cifar)


def _deep_work(net: Net, options: dict[str, Any]) -> float:
    """The sparse layers' time, averaged over the run, as a fraction of their time when dense, for each channel."""
    kept = 1 - float(options.get("sparsity", 0))
    if options.get("prune") == "gradual":
        kept = 1 - 0.84 * float(options["prune_to"])  # as below
    if "radix" in options:
        kept = 0.125
    if options.get("distribution") == "erk":  # the small layers, which are denser, are used at more places
        kept *= 2
    together = "radix" in options or "granularity" in options  # rows share their columns
    return min(kept * (1.2 if together else net.unstructured), 1.0) * float(options.get("width", 1.0))


def _work(net: LeNet, run: Run) -> float:
    """The sparse layers' time, averaged over the run, as a fraction of their time when dense."""
    options = run.options
    if options.get("random") and "hidden" in options:  # as many as LeNet-300-100 at 90%, however large the network
        return 0.1 * net.unstructured
    if "hidden" in options:  # as many connections as in the dense network
        return net.unstructured
    shares = [positions * size for positions, size in zip(net.positions, net.sparse, strict=True)]
    layers = zip(shares, _kept(net, run), strict=True)
    if "radix" in options:  # rows share their columns; wider layers have as many connections in all
        return 1.0 if "widths" in options else sum(share * kept for share, kept in layers) / sum(shares)
    return sum(share * min(net.unstructured * kept, 1.0) for share, kept in layers) / sum(shares)


def _kept(net: LeNet, run: Run) -> tuple[float, float]:
    """The fraction of connections that each of the two sparse layers has, averaged over the run."""
    options = run.options
    if options.get("prune") == "gradual":
        goals = [float(each) for each in options["prune_to"].split(",")]
        goals = goals * 2 if len(goals) == 1 else goals[net.first : net.first + 2]
        # Nothing is removed in the first 5% of the run, on average three quarters of the goal from there to 50%, and
        # all of it afterwards: 0.45 · 0.75 + 0.5 = 0.84.
        return 1 - 0.84 * goals[0], 1 - 0.84 * goals[1]
    if run.source is not None:
        found = run.source.options
        kept = 1 - float(found.get("prune_to", found.get("sparsity", 0)).split(",")[0])
        return kept, kept
    if "radix" in options:
        first, second = (int(each) for each in options["radix"].split(","))
        return first / (first * second), second / (first * second)
    kept = 1 - float(options.get("sparsity", 0))
    if "start_sparsity" in options:  # three quarters of what goes are gone, on average, until nothing moves any more
        kept += 0.25 * options["until"] * (1 - options["start_sparsity"] - kept)
    return kept, kept


def _prunings(options: dict[str, Any]) -> int:
    if options.get("prune") != "gradual":
        return 0
    return 1 + (options["prune_end"] - options["prune_start"]) // options["prune_every"]


def _updates(options: dict[str, Any], samples: int) -> float:
    if "rewire" not in options:
        return 0.0
    return float(options["until"] * options["epochs"] * samples / options["batch_size"] / options["every"])


def _width(net: LeNet, options: dict[str, Any]) -> float:
    """The size of the activations, as a multiple of those of the network with its own sizes."""
    if "widths" in options:
        radices, widths = ([int(each) for each in options[name].split(",")] for name in ("radix", "widths"))
        return prod(radices) * widths[1] / 300
    sizes = [int(each) for each in options["hidden"].split(",")] if "hidden" in options else net.hidden
    if net.model == "lenet5":  # most of them are the second convolution's
        return 0.4 + 0.6 * sizes[net.wide] / net.hidden[net.wide]
    return max(sum(sizes) / sum(net.hidden), 1.0)
