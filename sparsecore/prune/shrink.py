"""Pruning a network in place: patterns shrink, and all that belongs to a connection moves with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import OneLineError
from ..network import Network
from ..runs.kinds import spelled
from ..storage.parameters import LayerPath
from ..storage.rewiring import moves_to_parts
from ..training.optimizers import Optimizer
from .masks import Kept, Mask, keep_from, keep_largest
from .saliency import Saliencies, magnitude

Targets = float | Mapping[Any, float]
"""One number for all layers that are pruned, or one for each by its path or, in a flat network, its number."""


class PruneError(OneLineError):
    """A pruning that cannot be done; nothing has changed."""


class PrunedLayer(NamedTuple):
    """What pruning did to a layer.

    Attributes
    ----------
    layer : str
        Its path.
    name : str
    threshold : float
        Connections with a saliency below it went, and of those that equal it as many as the count required.
    removed, connections : int
        Connections that went, and that are left.
    sparsity : float
    """

    layer: str
    name: str
    threshold: float
    removed: int
    connections: int
    sparsity: float


def to_sparsity(
    network: Network, sparsity: Targets, *, saliencies: Saliencies | None = None, globally: bool = False,
    layers: Iterable[str | int] | None = None, optimizer: Optimizer | None = None, allow_empty: bool = False,
) -> list[PrunedLayer]:  # fmt: skip
    """Keep the most salient connections, exactly round((1 − sparsity)·in·out) of them.

    A layer that has fewer already stays as it is; of equally salient connections the first in order stay.

    Parameters
    ----------
    network : Network
    sparsity : float, or mapping of layer to float
        In [0, 1]: of each layer's possible connections, the fraction that is not stored afterwards. A mapping prunes
        the layers that it names.
    saliencies : mapping of layer to array of shape (nnz,), optional
        How much each connection matters; |w| if not given.
    globally : bool
        Rank all layers' connections together, so that `sparsity`, one number, is that of all of them.
    layers : iterable of str or int, optional
        Which layers, by path or number; `network.sparse` if neither this nor a mapping is given.
    optimizer : Optimizer, optional
        Its columns move with the connections. The optimizer of a `Step` on this network need not be given.
    allow_empty : bool
        Let a layer lose all its connections.

    Returns
    -------
    list of PrunedLayer

    Raises
    ------
    PruneError
        If a target is out of range, a layer is not one with connections or has none left, or a saliency is not a finite
        number of at least 0. Nothing has changed then.
    """
    targets = _targets(network, sparsity, layers, "sparsity", 1.0)
    saliency = _checked(network, magnitude(network, targets) if saliencies is None else saliencies, targets)
    if globally:
        if isinstance(sparsity, Mapping):
            raise PruneError("to_sparsity: globally takes one sparsity for all layers, got one a layer")
        kept = _ranked_together(network, saliency, sparsity)
    else:
        kept = {k: keep_largest(saliency[k], _count(network, [k], target)) for k, target in targets.items()}
    return _shrunk(network, kept, optimizer, allow_empty)


def by_threshold(
    network: Network, threshold: Targets, *, saliencies: Saliencies | None = None,
    layers: Iterable[str | int] | None = None, optimizer: Optimizer | None = None, allow_empty: bool = False,
) -> list[PrunedLayer]:  # fmt: skip
    """Remove the connections whose saliency, |w| if not given, is less than `threshold`. Otherwise as `to_sparsity`."""
    targets = _targets(network, threshold, layers, "threshold", np.inf)
    saliency = _checked(network, magnitude(network, targets) if saliencies is None else saliencies, targets)
    kept = {k: keep_from(saliency[k], target) for k, target in targets.items()}
    return _shrunk(network, kept, optimizer, allow_empty)


def by_quality(
    network: Network, quality: Targets, *, layers: Iterable[str | int] | None = None,
    optimizer: Optimizer | None = None, allow_empty: bool = False,
) -> list[PrunedLayer]:  # fmt: skip
    """Remove the connections with |w| less than `quality` times the standard deviation of the layer's stored weights.

    Otherwise as `to_sparsity`.

    References
    ----------
    S. Han, J. Pool, J. Tran, W. Dally, Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015,
    section 3.1.
    """
    targets = _targets(network, quality, layers, "quality", np.inf)
    saliency = _checked(network, magnitude(network, targets), targets)
    spread = {k: _spread(network.device.get(network[k].params["weight"])) for k in targets}
    kept = {k: keep_from(saliency[k], factor * spread[k]) for k, factor in targets.items()}
    return _shrunk(network, kept, optimizer, allow_empty)


def layer_targets(network: Network, goals: float | tuple[float, ...]) -> Targets:
    """One sparsity, or one for each layer with connections, where 0 leaves a layer as it is."""
    if not isinstance(goals, tuple):
        return goals
    if len(goals) != len(network.patterns):
        names = ", ".join(repr(network[k]) for k in network.patterns)
        raise PruneError(f"expected one sparsity, or one for each of {names}, got {spelled(goals)}")
    return {k: goal for k, goal in zip(network.patterns, goals, strict=True) if goal > 0}


def shrink(network: Network, keep: Mapping[Any, Mask], optimizer: Optimizer | None = None) -> None:
    """Store only the connections where a layer's mask, of shape (nnz,), is true: a rewiring to a part of what is there.

    Layers that lose nothing cost nothing.
    """
    if optimizer is not None:
        optimizer.attach(network)
    network.carry_out(moves_to_parts(network.table, {str(k): mask for k, mask in keep.items()}))


def _targets(
    network: Network, wanted: Targets, layers: Iterable[str | int] | None, what: str, most: float
) -> dict[str, float]:
    """The target of each layer that is to be pruned, checked."""
    if isinstance(wanted, Mapping):
        if layers is not None:
            raise PruneError(f"{what}: give one number with layers, or a number a layer, not both")
        targets: dict[str, float] = {LayerPath(k): target for k, target in wanted.items()}
    else:
        targets = {LayerPath(k): wanted for k in (network.sparse if layers is None else layers)}
    able = list(network.patterns)
    if not targets:
        raise PruneError(f"{what}: {network!r} has no sparse layers: say which to prune, of {', '.join(able)}")
    for k, target in targets.items():
        if k not in able:
            raise PruneError(
                f"{what}: layers to prune must be among {', '.join(able)}, those with connections, got {k}"
            )
        if not 0 <= target <= most:
            limit = f"from 0 to {most:g}" if np.isfinite(most) else "at least 0"
            raise PruneError(f"{what}: must be {limit}, got {target} for {_name(network, k)}")
    return targets


def _checked(network: Network, saliencies: Saliencies, layers: Iterable[str]) -> dict[str, Any]:
    """The saliencies of these layers."""
    saliencies, patterns = {str(k): found for k, found in saliencies.items()}, network.patterns
    for k in layers:
        nnz, found = patterns[k].nnz, saliencies.get(k)
        if found is None or found.shape != (nnz,) or found.dtype.kind != "f":
            got = "none" if found is None else f"{found.dtype} of shape {found.shape}"
            raise PruneError(f"{_name(network, k)}: saliencies must be floating, of shape ({nnz},), got {got}")
        # NaN fails every comparison, and a sum of numbers that are at least 0 is finite only if all of them are.
        if not (found.min(initial=0) >= 0 and np.isfinite(found.max(initial=0))):
            at = int(np.argmin((found >= 0) & (found < np.inf)))
            raise PruneError(
                f"{_name(network, k)}: saliencies must be finite and at least 0, got {found[at]} at position {at:,}"
            )
    return {k: saliencies[k] for k in layers}


def _count(network: Network, layers: Iterable[str], sparsity: float) -> int:
    patterns = network.patterns
    shapes = [patterns[k].shape for k in layers]
    return round((1 - float(sparsity)) * sum(out_features * in_features for out_features, in_features in shapes))


def _ranked_together(network: Network, saliency: Saliencies, sparsity: float) -> dict[Any, Kept]:
    layers = list(saliency)
    mask, threshold = keep_largest(np.concatenate([saliency[k] for k in layers]), _count(network, layers, sparsity))
    ends = np.cumsum([len(saliency[k]) for k in layers])[:-1]
    return {k: Kept(part, threshold) for k, part in zip(layers, np.split(mask, ends), strict=True)}


def _shrunk(
    network: Network, kept: Mapping[str, Kept], optimizer: Optimizer | None, allow_empty: bool
) -> list[PrunedLayer]:
    before = {k: len(keep.mask) for k, keep in kept.items()}
    left = {k: int(np.count_nonzero(keep.mask)) for k, keep in kept.items()}
    for k, count in left.items():
        if before[k] and not count and not allow_empty:
            raise PruneError(
                f"{_name(network, k)}: would lose all its {before[k]:,} connections: prune less, or allow it "
                "(allow_empty=True; --prune-empty while a run trains, --allow-empty for a checkpoint)"
            )
    shrink(network, {k: keep.mask for k, keep in kept.items()}, optimizer)
    sparsity = {k: pattern.sparsity for k, pattern in network.patterns.items()}
    return [
        PrunedLayer(k, repr(network[k]), keep.threshold, before[k] - left[k], left[k], sparsity[k])
        for k, keep in kept.items()
    ]


def _spread(weight: Any) -> float:
    return float(np.std(weight, dtype=np.float64)) if len(weight) else 0.0


def _name(network: Network, k: str) -> str:
    return f"layer {k}, {network[k]!r}"
