"""Training on a pruned structure: its connections stay, and take the values of an earlier time, or new ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import one_line
from ..layers.initial import initial_values
from ..network import Network
from ..scalars import seed_of
from ..storage.rewiring import sources_of
from ..training.optimizers import Optimizer
from .shrink import PruneError


def rewind(network: Network, earlier: Network, optimizer: Optimizer | None = None) -> None:
    """Give a network's connections the values that they have in another one.

    Parameters
    ----------
    network : Network
        Its patterns stay.
    earlier : Network
        The same layers with at least these connections: as the network was before it was trained, or after k steps.
    optimizer : Optimizer, optional
        Its columns are set to zero.

    Raises
    ------
    ValueError
        If the layers differ, or a connection is not in `earlier`. Nothing has changed then.

    References
    ----------
    J. Frankle, M. Carbin, The Lottery Ticket Hypothesis, ICLR 2019: to step 0; J. Frankle, G. Dziugaite, D. Roy,
    M. Carbin, Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020: to step k.
    """
    _check_optimizer("rewind", optimizer)
    if _names(earlier) != _names(network):
        raise ValueError(f"rewind: expected the layers of {network!r}, got those of {earlier!r}")
    found = {}
    for path, pattern in network.patterns.items():
        found[path] = sources_of(earlier.patterns[path], pattern)
        if missing := int(np.count_nonzero(found[path] < 0)):
            raise ValueError(
                f"rewind: layer {path}, {network[path]!r}: {missing:,} of {pattern.nnz:,} connections are not in the "
                "earlier network"
            )
    values = earlier.device.get(earlier.table.values)
    for row in network.table.rows:
        path, _, name = row.path.rpartition(".")
        before = values[earlier.table.by_path[row.path].slice]
        network.device.fill(network.table.values[row.slice], before[found[path]] if name == "weight" else before)
    _forget(optimizer)


def refresh(network: Network, seed: int, optimizer: Optimizer | None = None) -> None:
    """Give a network's connections new initial values, scaled by each neuron's own fan-in, and everything else what
    it has in a new network (`Layer.starts`): biases zeros, batch norms scales of one and the running rows of no batch.

    Parameters
    ----------
    network : Network
    seed : int
        At least 0 and less than 2**64; the values are drawn from Philox with the key (seed, 2), layer by layer.
    optimizer : Optimizer, optional
        Its columns are set to zero.

    Raises
    ------
    TypeError, ValueError
        If the optimizer is none, or the seed is none that a random stream can be drawn from.
    PruneError
        If a layer does not say where one of its parameters starts. Nothing has changed then.
    """
    seed = seed_of(seed)
    _check_optimizer("refresh", optimizer)
    drawn = {f"{path}.weight": pattern for path, pattern in network.patterns.items()}
    arrays = [
        (f"{path}.{name}", array, layer.starts.get(name))
        for path, layer in network.walk() for name, array in (*layer.params.items(), *layer.kept.items())
    ]  # fmt: skip
    for name, _, start in arrays:
        if name not in drawn and start is None:
            path, _, own = name.rpartition(".")
            kind = type(network[path]).__name__
            raise PruneError(f"refresh: layer {path}, {network[path]!r}: does not say where {own} starts: let {kind} "
                             f"have starts = {{'{own}': 0.0}}, or another number")  # fmt: skip
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 2], np.uint64)))
    for name, array, start in arrays:
        network.device.fill(array, initial_values(drawn[name], rng, array.dtype) if name in drawn else start)
    _forget(optimizer)


def _check_optimizer(owner: str, optimizer: Any) -> None:
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"{owner}: optimizer must be one of sparsecore's, or None, got {one_line(repr(optimizer), 60)}")


def _forget(optimizer: Optimizer | None) -> None:
    if optimizer is not None:
        for column in optimizer.columns.values():
            column[...] = 0


def _names(network: Network) -> list[tuple[str, str, tuple[int, ...] | None]]:
    """What must be the same in two networks if one is to take the other's values."""
    shapes = {path: pattern.shape for path, pattern in network.patterns.items()}
    return [(path, repr(layer), shapes.get(path)) for path, layer in network.walk()]
