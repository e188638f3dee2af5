"""Training on a pruned structure: its connections stay, and take the values of an earlier time, or new ones."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from ..layers.initial import initial_values
from ..network import Network
from ..storage.pattern import SparsityPattern
from ..training.optimizers import SGD


def rewind(network: Network, earlier: Network, optimizer: SGD | None = None) -> None:
    """Give a network's connections the values that they have in another one.

    Parameters
    ----------
    network : Network
        Its patterns stay.
    earlier : Network
        The same layers with at least these connections: as the network was before it was trained, or after k steps.
    optimizer : SGD, optional
        Its velocity is set to zero.

    Raises
    ------
    ValueError
        If the layers differ, or a connection is not in `earlier`. Nothing has changed then.

    References
    ----------
    J. Frankle, M. Carbin, The Lottery Ticket Hypothesis, ICLR 2019: to step 0; J. Frankle, G. Dziugaite, D. Roy,
    M. Carbin, Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020: to step k.
    """
    if [repr(layer) for layer in earlier.layers] != [repr(layer) for layer in network.layers]:
        raise ValueError(f"rewind: expected the layers of {network!r}, got those of {earlier!r}")
    patterns, found = earlier.patterns, {}
    for k, pattern in network.patterns.items():
        try:
            found[k] = _places(pattern, patterns[k])
        except ValueError as error:
            raise ValueError(f"rewind: layer {k}, {network.layers[k]!r}: {error}") from None
    for k, layer in enumerate(network.layers):
        for name, array in layer.params.items():
            values = earlier.device.get(earlier.layers[k].params[name])
            network.device.fill(array, values[found[k]] if name == "weight" else values)
    _forget(optimizer)


def refresh(network: Network, seed: int, optimizer: SGD | None = None) -> None:
    """Give a network's connections new initial values, scaled by each neuron's own fan-in, and its biases zeros.

    Parameters
    ----------
    network : Network
    seed : int
        At least 0; the values are drawn from Philox with the key (seed, 2), layer by layer.
    optimizer : SGD, optional
        Its velocity is set to zero.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 2], np.uint64)))
    patterns = network.patterns
    for k, layer in enumerate(network.layers):
        for name, array in layer.params.items():
            network.device.fill(array, initial_values(patterns[k], rng, array.dtype) if name == "weight" else 0)
    _forget(optimizer)


def _forget(optimizer: SGD | None) -> None:
    if optimizer is not None and optimizer.velocity is not None:
        optimizer.velocity[...] = 0


def _places(part: SparsityPattern, whole: SparsityPattern) -> Any:
    """Where the connections of `part` stand in the values of `whole`."""
    if part.shape != whole.shape:
        raise ValueError(f"expected shape {part.shape}, got {whole.shape}")
    columns = np.int64(part.shape[1])
    wanted, there = (cast(Any, p.rows * columns + p.indices) for p in (part, whole))
    places = np.minimum(np.searchsorted(there, wanted), max(len(there) - 1, 0))
    missing = np.count_nonzero(there[places] != wanted) if len(there) else len(wanted)
    if missing:
        raise ValueError(f"{missing:,} of {len(wanted):,} connections are not in the earlier network")
    return places
