"""Pruning a network in place: patterns shrink, and all that belongs to a connection moves with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..errors import OneLineError
from ..network import Network
from ..runs.kinds import spelled
from ..storage.granularity import Granularity, Units
from ..storage.parameters import LayerPath
from ..storage.pattern import SparsityPattern
from ..storage.rewiring import moves_to_parts
from ..topology.distribution import erk
from ..training.optimizers import Optimizer
from .masks import Kept, Mask, keep_from, keep_largest, sizes_of
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
    granularity: str = "weight",
) -> list[PrunedLayer]:  # fmt: skip
    """Keep the most salient connections, exactly round((1 − sparsity)·in·out) of them.

    A layer that has fewer already stays as it is; of equally salient connections the first in order stay. With another
    granularity than "weight" all this holds of units, which go or stay as a whole: their saliency is the sum of their
    connections' squares.

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
    granularity : str
        What goes as a whole: "weight", "channel", "rows:G" or "block:G,H"; see `storage.granularity`.

    Returns
    -------
    list of PrunedLayer

    Raises
    ------
    PruneError
        If a target is out of range, a layer is not one with connections or has none left, or a saliency is not a finite
        number of at least 0; or a layer stores parts of units, or units of several sizes would be ranked together.
        Nothing has changed then.
    """
    targets = _targets(network, sparsity, layers, "sparsity", 1.0)
    saliency = _checked(network, magnitude(network, targets) if saliencies is None else saliencies, targets)
    ranks = {k: _Ranks(network, k, granularity, saliency[k]) for k in targets}
    if globally:
        if isinstance(sparsity, Mapping):
            raise PruneError("to_sparsity: globally takes one sparsity for all layers, got one a layer")
        kept = _ranked_together(ranks, sparsity)
    else:
        kept = {k: keep_largest(ranks[k].sums, _count([ranks[k]], target)) for k, target in targets.items()}
    return _shrunk(network, _of_connections(kept, ranks), optimizer, allow_empty)


def by_threshold(
    network: Network, threshold: Targets, *, saliencies: Saliencies | None = None,
    layers: Iterable[str | int] | None = None, optimizer: Optimizer | None = None, allow_empty: bool = False,
    granularity: str = "weight",
) -> list[PrunedLayer]:  # fmt: skip
    """Remove the connections whose saliency, |w| if not given, is less than `threshold`.

    Units of several connections are compared by the root of their mean square. Otherwise as `to_sparsity`.
    """
    targets = _targets(network, threshold, layers, "threshold", np.inf)
    saliency = _checked(network, magnitude(network, targets) if saliencies is None else saliencies, targets)
    ranks = {k: _Ranks(network, k, granularity, saliency[k]) for k in targets}
    kept = {k: keep_from(ranks[k].means, target) for k, target in targets.items()}
    return _shrunk(network, _of_connections(kept, ranks), optimizer, allow_empty)


def by_quality(
    network: Network, quality: Targets, *, layers: Iterable[str | int] | None = None,
    optimizer: Optimizer | None = None, allow_empty: bool = False, granularity: str = "weight",
) -> list[PrunedLayer]:  # fmt: skip
    """Remove the connections with |w| less than `quality` times the standard deviation of the layer's stored weights.

    Otherwise as `by_threshold`.

    References
    ----------
    S. Han, J. Pool, J. Tran, W. Dally, Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015,
    section 3.1.
    """
    targets = _targets(network, quality, layers, "quality", np.inf)
    saliency = _checked(network, magnitude(network, targets), targets)
    spread = {k: _spread(network.device.get(network[k].params["weight"])) for k in targets}
    ranks = {k: _Ranks(network, k, granularity, saliency[k]) for k in targets}
    kept = {k: keep_from(ranks[k].means, factor * spread[k]) for k, factor in targets.items()}
    return _shrunk(network, _of_connections(kept, ranks), optimizer, allow_empty)


def layer_targets(network: Network, goals: float | tuple[float, ...]) -> Targets:
    """One sparsity, or one for each layer with connections, where 0 leaves a layer as it is."""
    if not isinstance(goals, tuple):
        return goals
    if len(goals) != len(network.patterns):
        names = ", ".join(repr(network[k]) for k in network.patterns)
        raise PruneError(f"expected one sparsity, or one for each of {names}, got {spelled(goals)}")
    return {k: goal for k, goal in zip(network.patterns, goals, strict=True) if goal > 0}


def stored_units(network: Network, path: str, granularity: str) -> tuple[Units, SparsityPattern]:
    """What goes as a whole in a layer, and which of that it stores. Raises PruneError if it stores parts of it."""
    pattern = network.patterns[path]
    units = Granularity.read(granularity).units(pattern.shape, getattr(network[path], "kernel_size", None))
    if (held := units.of(pattern)) is None:
        raise PruneError(f"{_name(network, path)}: stores parts of what granularity {granularity} takes as a whole")
    return units, held


def shared_out(network: Network, sparsity: float) -> Targets:
    """A sparsity for each sparse layer, by `erk`, so that all together have the given one."""
    sizes = []
    for path in network.sparse:
        (outputs, columns), kernel = network.patterns[path].shape, getattr(network[path], "kernel_size", ())
        sizes.append((outputs, columns // prod(kernel), *kernel))
    return dict(zip(network.sparse, erk(sizes, sparsity), strict=True))


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
        if isinstance(target, str) or not 0 <= target <= most:
            limit = f"from 0 to {most:g}" if np.isfinite(most) else "at least 0"
            raise PruneError(f"{what}: must be {limit}, got {_told(target)} for {_name(network, k)}")
    return targets


def _told(target: Any) -> str:
    return repr(target) if isinstance(target, str) else str(target)


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


class _Ranks:
    """What the units of a layer are ranked by.

    Attributes
    ----------
    units : Units
    sums : array, a number for each stored unit
        The saliency of a connection, or the sum of squares of several.
    """

    def __init__(self, network: Network, path: str, granularity: str, saliency: Any) -> None:
        self._pattern = network.patterns[path]
        self.units, self._held = stored_units(network, path, granularity)
        self.sums = sizes_of(self.units.gathered(saliency, self._pattern, self._held), self.units.size)

    @property
    def means(self) -> Any:
        """What a threshold is compared with: the root of the mean square of a unit's connections."""
        return self.sums if self.units.size == 1 else np.sqrt(self.sums / self.units.held(self._held))

    def of_connections(self, mask: Mask) -> Mask:
        """Which connections stay, given which units do."""
        return mask if self.units.size == 1 else mask[self.units.owners(self._pattern, self._held)]


def _count(ranks: Sequence[_Ranks], sparsity: float) -> int:
    return round((1 - float(sparsity)) * sum(each.units.possible for each in ranks))


def _ranked_together(ranks: Mapping[str, _Ranks], sparsity: float) -> dict[str, Kept]:
    if len({each.units.size for each in ranks.values()}) > 1:
        raise PruneError("to_sparsity: globally takes units of one size, got filters of several")
    mask, threshold = keep_largest(
        np.concatenate([each.sums for each in ranks.values()]), _count(list(ranks.values()), sparsity)
    )
    ends = np.cumsum([len(each.sums) for each in ranks.values()])[:-1]
    return {k: Kept(part, threshold) for k, part in zip(ranks, np.split(mask, ends), strict=True)}


def _of_connections(kept: Mapping[str, Kept], ranks: Mapping[str, _Ranks]) -> dict[str, Kept]:
    return {k: each._replace(mask=ranks[k].of_connections(each.mask)) for k, each in kept.items()}


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
