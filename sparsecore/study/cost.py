"""About how long a run takes on one core, so that a study can say so before it starts."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

from .run import Run
from .scale import LENET5, LENET5_CIFAR, LENET300, Net

UNSTRUCTURED = 1.8
"""A connection of a sparse layer takes so much longer than one of a dense layer."""
AROUND = 1.0
"""Seconds for loading data, compiling, looking at the result."""


@cache
def seconds_of(run: Run) -> float:
    """Estimated seconds of one core, from the nets' times an epoch and the fraction of connections that is kept."""
    if run.kind == "prune":
        return AROUND
    options = run.options
    net = next(each for each in (LENET300, LENET5, LENET5_CIFAR) if _alike(each, options))
    samples = {"mnist-subset": 8_000}.get(options["dataset"], net.samples)
    floor, dense = net.seconds
    kept = _kept(run)
    full = kept == 1 and "hidden" not in options
    layers = dense * kept * (1 if full else UNSTRUCTURED) + floor * _width(net, options)
    return AROUND + options["epochs"] * layers * samples / net.samples


def _alike(net: Net, options: dict[str, Any]) -> bool:
    cifar = options["dataset"] == "cifar10"
    return net.model == options["model"] and (net.model != "lenet5" or (net.dataset == "cifar10") == cifar)


def _kept(run: Run) -> float:
    """The fraction of connections that a run computes with on average, of those of the dense network."""
    options = run.options
    if options.get("prune") == "gradual":
        removed = sum(map(float, options["prune_to"].split(","))) / (options["prune_to"].count(",") + 1)
        # A twentieth of the run is dense, and up to its half a quarter is still there of what goes, on average.
        return 1 - 0.84 * removed
    if run.source is not None:
        found = run.source.options
        return 1 - float(found.get("prune_to", found.get("sparsity", 0)).split(",")[0])
    if "radix" in options:
        radices = [int(each) for each in options["radix"].split(",")]
        return max(radices) / prod(radices) * (_wider(options) if "widths" in options else 1)
    if options.get("random"):  # as many as LeNet-300-100 at 90%, however large
        return 0.1
    if "hidden" in options:
        return 1.0
    return 1 - float(options.get("sparsity", 0))


def _wider(options: dict[str, Any]) -> float:
    radices, widths = ([int(each) for each in options[name].split(",")] for name in ("radix", "widths"))
    return prod(radices) * widths[1] / 300


def _width(net: Net, options: dict[str, Any]) -> float:
    """How much more of activations there is than in the network as it is."""
    if "widths" in options:
        return _wider(options)
    sizes = [int(each) for each in options["hidden"].split(",")] if "hidden" in options else net.hidden
    return max(sum(sizes) / sum(net.hidden), 1.0)
