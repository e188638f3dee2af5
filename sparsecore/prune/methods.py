"""Methods of moving connections while a network trains, each made of what goes and what comes.

At an update a layer loses the connections that matter least, and as many others come, or fewer where it is to become
sparser. What comes starts with the value zero and an optimizer's state of zero. A connection that was to go and is
chosen again in the same update stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.tuning import EXACT_BLOCK
from ..scalars import number
from ..storage.granularity import Units
from ..storage.growth import Places, free_pattern, free_places, rows_between
from ..storage.pattern import SparsityPattern
from .masks import sizes_of
from .schedule import Curve, polynomial

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.integer]


@dataclass(frozen=True)
class Site:
    """A layer at an update, in units: connections, or what comes and goes together (see `storage.granularity`).

    Attributes
    ----------
    pattern : SparsityPattern
        The units that are stored.
    keep : boolean array, shape (units,)
        Which of them stay.
    edges : int64 array, shape (stretches + 1,)
        Stretches of rows within which units go and come: all rows, or each row for itself.
    free : int64 array, shape (stretches,)
        Free places of each stretch.
    units : Units
        What a unit is.
    gradient : callable
        The last step's gradient at the connections of a pattern, stored or not, as a host array.
    key : int
        Of this update's random numbers.
    """

    pattern: SparsityPattern
    keep: NDArray[np.bool_]
    edges: Counts
    free: Counts
    units: Units
    gradient: Callable[[SparsityPattern], Scores]
    key: int

    @property
    def size(self) -> int:
        """Connections of a unit."""
        return self.units.size

    def scores(self, units: SparsityPattern) -> Scores:
        """What the gradient of units is ranked by: g itself of connections, the sum of squares of several."""
        if self.size == 1:
            return self.gradient(units)
        pattern = self.units.connections(units)
        return sizes_of(self.units.gathered(self.gradient(pattern), pattern, units), self.size)


Growth = Callable[[Site, Counts], Places]
"""What comes: so many units in each stretch, of those that are free or were to go."""


def at_random(site: Site, counts: Counts) -> Places:
    """Any free places, all equally likely."""
    return free_places(site.pattern, site.edges, np.minimum(counts, site.free), site.key)


def of_candidates(times: float = 4.0) -> Growth:
    """The largest gradients of some free places, drawn at random, `times` as many as come.

    Raises
    ------
    ValueError
        If `times` is not at least 1, so that fewer would come than have gone, and finite.
    """
    if not 1 <= number("of_candidates: times", times) < np.inf:
        raise ValueError(f"of_candidates: times must be at least 1 and finite, got {times}")
    return partial(_of_candidates, times)


def _of_candidates(times: float, site: Site, counts: Counts) -> Places:
    from ..kernels.cpu.choose import largest

    drawn = np.minimum(np.ceil(times * counts).astype(np.int64), site.free)
    candidates = free_pattern(site.pattern, site.edges, drawn, site.key)
    best, _ = largest(site.scores(candidates), np.append(0, np.cumsum(drawn)), np.minimum(counts, drawn))
    return Places(candidates.rows, candidates.indices).where(best)


def of_all(site: Site, counts: Counts) -> Places:
    """The largest gradients of all places that are free or were to go, a block of rows at a time."""
    rows, columns = site.pattern.shape
    at_once = max(EXACT_BLOCK, site.pattern.nnz * site.size)
    block = max(1, at_once // max(columns * site.size, 1))
    by_row = len(site.edges) == rows + 1
    best, scores = Places(np.empty(0, np.int64), np.empty(0, np.int64)), np.empty(0, np.float32)
    for first in range(0, rows, block):
        last = min(first + block, rows)
        wanted = counts[first:last] if by_row else np.minimum(counts, (last - first) * columns)
        found, its = _best_of_rows(site, first, last, wanted)
        best = Places(*(np.concatenate(pair) for pair in zip(best, found, strict=True)))
        scores = np.concatenate([scores.astype(its.dtype, copy=False), its])
        if not by_row and len(scores) > counts[0]:
            best, scores = _largest_of(best, scores, counts)
    return best


def _best_of_rows(site: Site, first: int, last: int, counts: Counts) -> tuple[Places, Scores]:
    """The best of some rows, at most so many in each stretch, and their scores."""
    from ..kernels.cpu.change import places_kept
    from ..kernels.cpu.choose import largest

    pattern, columns = site.pattern, site.pattern.shape[1]
    scores = site.scores(rows_between(pattern, first, last))
    barred = np.empty(pattern.indptr[last] - pattern.indptr[first] + 1, np.int64)
    taken = np.empty(last - first, np.int64)
    kept = places_kept(pattern.indptr, pattern.indices, site.keep, columns, first, last, barred, taken)
    if len(counts) > 1:
        starts = np.arange(len(counts) + 1) * columns
    else:
        starts, taken = np.array([0, len(scores)]), np.array([kept])
    mask, _ = largest(scores, starts, np.minimum(counts, starts[1:] - starts[:-1] - taken), barred[:kept])
    at = np.flatnonzero(mask)
    return Places(at // columns + first, at % columns), scores[at]


def _largest_of(places: Places, scores: Scores, counts: Counts) -> tuple[Places, Scores]:
    from ..kernels.cpu.choose import largest

    mask, _ = largest(scores, np.array([0, len(scores)]), counts)
    return places.where(mask), scores[mask]


@dataclass(frozen=True)
class Method:
    """A way to move connections.

    Attributes
    ----------
    comes : Growth
        What comes.
    goes : callable
        How much stored units matter, given the connections' values, unit by unit, and how many make a unit, with
        zeros where one at the end has fewer; the least go.
    towards : Curve, optional
        How the sparsity rises from its first to its last value; it stays if there is none.
    by_row : bool
        Let every row lose and gain alike, so that all keep their fan-in.
    """

    comes: Growth
    goes: Callable[[Scores, int], Scores] = sizes_of
    towards: Curve | None = None
    by_row: bool = False


SET = Method(at_random)
"""D. Mocanu, E. Mocanu, P. Stone, P. Nguyen, M. Gibescu, A. Liotta, Scalable training of artificial neural networks
with adaptive sparse connectivity inspired by network science, Nature Communications 9, 2018."""

RIGL = Method(of_candidates())
"""U. Evci, T. Gale, J. Menick, P. Castro, E. Elsen, Rigging the Lottery: Making All Tickets Winners, ICML 2020,
section 3; here among candidates, by default."""

REGROW = Method(of_candidates(), towards=polynomial())
"""S. Liu, T. Chen, X. Chen et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration (GraNet),
NeurIPS 2021."""
