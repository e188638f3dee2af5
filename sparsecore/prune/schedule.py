"""When a run prunes, and how far: at once, round by round, or gradually."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ..scalars import number, whole

Curve = Callable[[float, float, float], float]
"""`curve(progress, initial, final)` is the sparsity at `progress` in [0, 1]; it goes from `initial` to `final`."""


def polynomial(exponent: float = 3.0) -> Curve:
    """s = s_f + (s_i − s_f)·(1 − progress)^exponent: fast while there is much to remove, slow at the end.

    References
    ----------
    M. Zhu, S. Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression, 2017,
    equation 1, where the exponent is 3.
    """
    if not number("the exponent", exponent) > 0:
        raise ValueError(f"the exponent must be more than 0, got {exponent}")
    return partial(_polynomial, exponent)


def _polynomial(exponent: float, progress: float, initial: float, final: float) -> float:
    return final + (initial - final) * (1 - progress) ** exponent


def by_rounds(progress: float, initial: float, final: float) -> float:
    """Every round removes the same fraction of the connections that are left, as iterative pruning does."""
    if final == 1:  # no fraction of what is left gets there
        return initial if progress < 1 else 1.0
    found = 1 - (1 - initial) * ((1 - final) / (1 - initial)) ** progress
    return min(max(found, initial), final)  # next to none removed, 1 - (1 - initial) is not initial


@dataclass(frozen=True)
class PruningSchedule:
    """Prunings after `start`, `start` + `every`, … steps, the last after `end`.

    Parameters
    ----------
    start, end : int
        Steps of training that the first and the last pruning come after; 0 is before any training.
    every : int
        Steps between two prunings, fewer perhaps before the last.
    curve : Curve
    before : int
        How many steps before `start` the curve begins. With 0, the first pruning only brings a layer to the sparsity
        at which the curve begins.

    Raises
    ------
    ValueError
        If the steps do not follow one another, or the curve falls.
    """

    start: int
    end: int
    every: int
    curve: Curve
    before: int = 0

    def __post_init__(self) -> None:
        for name in ("start", "end", "every", "before"):
            whole(f"pruning: {name}", getattr(self, name))
        if not 0 <= self.start <= self.end or self.every < 1 or self.before < 0:
            raise ValueError(
                f"pruning must go from a step of at least 0 to one that is not before it, in strides of at least 1, "
                f"got {self.start} to {self.end} every {self.every}"
            )
        values = [0.0, *(self.sparsity(step, 0.5) for step in self.steps())]
        if any(not 0 <= low <= high for low, high in pairwise(values)) or values[-1] != 0.5:
            raise ValueError("a pruning curve must rise from its initial to its final value and never fall")

    def steps(self) -> list[int]:
        """The steps after which there is a pruning."""
        return [*range(self.start, self.end, self.every), self.end]

    def due(self, step: int) -> bool:
        """Whether there is a pruning after `step` steps."""
        return step == self.end or (self.start <= step < self.end and (step - self.start) % self.every == 0)

    def sparsity(self, step: int, final: float, initial: float = 0.0) -> float:
        """The sparsity that the pruning after `step` steps brings a layer to, on its way from `initial` to `final`."""
        if step >= self.end:
            return final
        begin = self.start - self.before
        return self.curve(max(step - begin, 0) / (self.end - begin), initial, final)


@dataclass(frozen=True)
class _Rounds(PruningSchedule):
    """Prunings after just these steps, each of which takes the same part of the curve, however far apart they are."""

    at: tuple[int, ...] = ()

    def steps(self) -> list[int]:
        return list(self.at)

    def due(self, step: int) -> bool:
        return step in self.at

    def sparsity(self, step: int, final: float, initial: float = 0.0) -> float:
        done = bisect_right(self.at, step)
        return final if done == len(self.at) else self.curve(done / len(self.at), initial, final)


def in_rounds(steps: Sequence[int]) -> PruningSchedule:
    """Prunings after these steps, which rise, each of the same fraction of what is left."""
    every = max((after - before for before, after in pairwise(steps)), default=1)
    return _Rounds(steps[0], steps[-1], every, by_rounds, at=tuple(steps))


def one_time(step: int) -> PruningSchedule:
    """All at once, after `step` steps."""
    return PruningSchedule(step, step, 1, polynomial())


def iterative(start: int, end: int, rounds: int) -> PruningSchedule:
    """Prune, train, and again: `rounds` prunings from `start` to `end`, each of the same fraction of what is left.

    The first comes after `start` steps, the last after `end`, and the others as evenly between them as whole steps
    allow; a single one comes after `end`.

    References
    ----------
    S. Han, J. Pool, J. Tran, W. Dally, Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015;
    the equal fractions are those of J. Frankle, M. Carbin, The Lottery Ticket Hypothesis, ICLR 2019.
    """
    for name, value in (("start", start), ("end", end), ("rounds", rounds)):
        whole(f"pruning: {name}", value)
    if rounds < 1 or end - start < rounds - 1:
        raise ValueError(f"there must be at least 1 round and a step between two, got {rounds} from {start} to {end}")
    return in_rounds([start + k * (end - start) // (rounds - 1) for k in range(rounds)] if rounds > 1 else [end])


def gradual(start: int, end: int, every: int, exponent: float = 3.0) -> PruningSchedule:
    """A little more every `every` steps from `start` to `end`, along `polynomial(exponent)`."""
    return PruningSchedule(start, end, every, polynomial(exponent))
