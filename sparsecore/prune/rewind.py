"""Training on a pruned structure: its connections stay, and take the values of an earlier time, or new ones."""

from __future__ import annotations

import numpy as np

from ..layers.initial import initial_values
from ..network import Network
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
        At least 0; the values are drawn from Philox with the key (seed, 2), layer by layer.
    optimizer : Optimizer, optional
        Its columns are set to zero.

    Raises
    ------
    PruneError
        If a layer does not say where one of its parameters starts. Nothing has changed then.
    """
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


def _forget(optimizer: Optimizer | None) -> None:
    if optimizer is not None:
        for column in optimizer.columns.values():
            column[...] = 0


def _names(network: Network) -> list[tuple[str, str, tuple[int, ...] | None]]:
    """What must be the same in two networks if one is to take the other's values."""
    shapes = {path: pattern.shape for path, pattern in network.patterns.items()}
    return [(path, repr(layer), shapes.get(path)) for path, layer in network.walk()]
