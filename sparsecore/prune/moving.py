"""How connections move, whoever trains them: when, how many, and which go and come at an update of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.splits import listed
from ..scalars import number, seed_of, steps
from ..storage.granularity import Granularity, Units
from ..storage.growth import changed
from ..storage.parameters import ByPath
from ..storage.pattern import SparsityPattern
from ..storage.rewiring import sources_of
from .methods import Counts, Method, Scores, Site
from .shrink import PruneError, Targets


@dataclass(frozen=True)
class RewiringSchedule:
    """Updates after every `every` steps, up to step `end`; each moves a part of the connections, ever fewer.

    Parameters
    ----------
    every : int
        Steps between two updates.
    end : int
        Steps of training after which there is none.
    fraction : float
        Of a layer's connections, above 0 and below 1: at first. It falls to 0 as a cosine does from 0 to π.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    every: int
    end: int
    fraction: float = 0.3

    def __post_init__(self) -> None:
        steps("every", self.every), steps("end", self.end), number("fraction", self.fraction)
        if self.every < 1 or self.end < self.every:
            raise ValueError(f"updates must be due every 1 or more steps, and once by the end, got every {self.every} "
                             f"steps until {self.end}")  # fmt: skip
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be above 0 and below 1, got {self.fraction}")

    def due(self, step: int) -> bool:
        """Whether there is an update after `step` steps."""
        return 0 < step <= self.end and step % self.every == 0

    def at(self, step: int) -> float:
        """The fraction that moves after `step` steps."""
        return 0.5 * self.fraction * (1 + math.cos(math.pi * step / self.end))

    def progress(self, step: int) -> float:
        """How far the updates have come: 1 at the last one."""
        return min(step / (self.end // self.every * self.every), 1.0)


class Movement:
    """How the connections of some layers move.

    Parameters
    ----------
    method : Method
        Such as `SET`, `RIGL` or `REGROW`.
    schedule : RewiringSchedule
    targets : float, or mapping of layer to float
        The sparsity at the end, for a method that changes it.
    initial : float, or mapping of layer to float
        The sparsity at the start, likewise.
    seed : int
        Of what is drawn at random.
    filters : bool
        Let whole filters of convolutions move, not single weights: the granularity "channel".
    granularity : str, optional
        What moves together: "weight", "channel", "rows:G" or "block:G,H"; see `storage.granularity`.
    """

    def __init__(
        self, method: Method, schedule: RewiringSchedule, *, targets: Targets | None = None,
        initial: Targets | None = None, seed: int = 0, filters: bool = False, granularity: str | None = None,
    ) -> None:  # fmt: skip
        if (method.towards is not None) != (targets is not None):
            raise ValueError("targets: go with a method that changes the sparsity, and only with that")
        if filters and granularity is not None:
            raise ValueError(f"filters: not with granularity, got {granularity!r}: leave one out")
        self.granularity = granularity or ("channel" if filters else "weight")
        self._cut = Granularity.read(self.granularity)
        self.method, self.schedule, self.seed, self.filters = method, schedule, seed_of(seed), self._cut.whole
        self.targets, self.initial = sparsities("targets", targets), sparsities("initial", initial)

    def units_in(self, layer: Any) -> Units:
        """What moves together in a layer or module that has a pattern and, as a convolution, filters of a size."""
        return self._cut.units(layer.pattern.shape, getattr(layer, "kernel_size", None))

    @property
    def together(self) -> tuple[int, int]:
        """How many neighbouring outputs, and inputs, move together."""
        return self._cut.rows, self._cut.channels

    def moved(
        self, pattern: SparsityPattern, units: Units, weight: Scores, gradient: Callable[[SparsityPattern], Scores], *,
        step: int, path: str, number: int,
    ) -> tuple[SparsityPattern, NDArray[np.int64], int]:  # fmt: skip
        """The pattern of a layer after an update.

        Parameters
        ----------
        pattern : SparsityPattern
        units : Units
            What moves together.
        weight : array of shape (nnz,)
        gradient : callable
            The last step's gradient at the connections of a pattern, stored or not, as a host array.
        step : int
            Steps of training before this update.
        path : str
            By which mappings of sparsities name the layer.
        number : int
            The layer's, from which its random numbers are made.

        Returns
        -------
        pattern : SparsityPattern
        sources : int64 array, shape (nnz of the new pattern,)
            Where each connection stood, −1 for new ones.
        stayed : int
            How many were to go and came back.
        """
        from ..kernels.cpu.change import moving_key
        from ..kernels.cpu.choose import largest

        held = units.of(pattern)
        assert held is not None
        rows, columns = held.shape
        if self.method.by_row:
            edges, starts = np.arange(rows + 1), held.indptr.astype(np.int64)
        else:
            edges, starts = np.array([0, rows]), np.array([0, held.nnz])
        there, possible = starts[1:] - starts[:-1], (edges[1:] - edges[:-1]) * columns
        stay, come = self._counts(there, possible, step, path)
        keep, _ = largest(self.method.goes(units.gathered(weight, pattern, held), units.size), starts, stay)
        key = int(moving_key(self.seed, step, number))
        site = Site(held, keep, edges, possible - there, units, gradient, key)
        after, sources, stayed = changed(held, keep, self.method.comes(site, come))
        if units.size == 1:
            return after, sources, stayed
        back = sources[sources >= 0]
        wired = units.connections(after)
        return wired, sources_of(pattern, wired), int(units.held(held)[back[~keep[back]]].sum())

    def _counts(self, held: Counts, possible: Counts, step: int, path: str) -> tuple[Counts, Counts]:
        """How many units stay in each stretch, and how many come, of how many are there and could be."""
        goal = held
        if self.method.towards is not None:
            first, last = self._sparsities(path)
            sparsity = self.method.towards(self.schedule.progress(step), first, last)
            goal = np.minimum(held, np.rint((1 - sparsity) * possible).astype(np.int64))
        come = np.minimum(np.rint(self.schedule.at(step) * goal).astype(np.int64), possible - held)
        return goal - come, come

    def _sparsities(self, path: str) -> tuple[float, float]:
        first, last = (
            given[path] if isinstance(given, Mapping) else given or 0.0 for given in (self.initial, self.targets)
        )  # fmt: skip
        return min(first, last), last

    def check_layer(self, name: str, path: str, layer: Any) -> None:
        """Refuse a layer whose connections cannot move.

        Parameters
        ----------
        name : str
            How the message begins.
        path : str
            By which mappings of sparsities name it.
        layer : object
            As of `units_in`.

        Raises
        ------
        PruneError
        """
        pattern = getattr(layer, "pattern", None)
        if pattern is None or not pattern.nnz:
            raise PruneError(f"{name}: has no connections that could move")
        if pattern.is_full:
            raise PruneError(f"{name}: has all connections already, and no place is free: start with fewer")
        units = self.units_in(layer).of(pattern)
        if units is None:
            parts = "filters" if self._cut.whole else f"groups of {self.granularity}"
            raise PruneError(f"{name}: stores parts of {parts}, so whole ones cannot move; move single weights")
        held, possible = units.nnz, units.shape[0] * units.shape[1]
        goal = held
        for what, given in (("targets", self.targets), ("initial", self.initial)):
            if isinstance(given, Mapping) and path not in given:
                raise PruneError(f"{name}: {what} must have a sparsity for it, got those of {listed(list(given))}")
        if self.targets is not None:
            last, stretches = self._sparsities(path)[1], units.shape[0] if self.method.by_row else 1
            goal = stretches * int(np.rint((1 - last) * (possible // stretches)))
            if not goal:
                raise PruneError(f"{name}: no connections would be left at sparsity {last:g}: ask for less")
        if (first := round(self.schedule.at(self.schedule.every) * goal)) > possible - goal:
            raise PruneError(f"{name}: {first:,} connections would move at first, and only {possible - goal:,} places "
                             "are free: move a smaller fraction, or start with fewer")  # fmt: skip


def sparsities(name: str, given: Targets | None) -> float | ByPath[float] | None:
    """Sparsities as they were given, for all layers or by path.

    Raises
    ------
    ValueError
        If one of them is not at least 0 and below 1.
    """
    if given is None:
        return None
    for value in given.values() if isinstance(given, Mapping) else (given,):
        if not 0 <= number(name, value) < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
    return ByPath({str(k): float(each) for k, each in given.items()}) if isinstance(given, Mapping) else float(given)
