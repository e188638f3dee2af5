"""The cells of the studies' tables: each a point, which is a run and where it stands, with one outcome a seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from ..making.archive import Archive, Course
from ..making.outcome import Outcome
from ..making.run import Run


class Point(NamedTuple):
    """A run, and the cell of a table that it belongs to.

    Attributes
    ----------
    table : str
        Such as "LeNet-300-100, MNIST".
    series : str
        A line of the table, and a curve of its figure.
    x : float or str
        The column.
    run : Run
        Without a seed.
    slides : float, optional
        The slides' number in percent.
    """

    table: str
    series: str
    x: float | str
    run: Run
    slides: float | None = None

    @property
    def column(self) -> str:
        """The column's name."""
        return column(self.x)

    @property
    def title(self) -> str:
        """Where it stands: table, series and column."""
        return f"{self.table}, {self.series}, {self.column}"


@dataclass(frozen=True)
class Cell:
    """A point and its runs.

    Attributes
    ----------
    point : Point
    by_seed : mapping of int to Outcome
        The runs that finished, at least one.
    missing : int
        How many did not.
    """

    point: Point
    by_seed: Mapping[int, Outcome]
    missing: int = 0

    @property
    def outcomes(self) -> list[Outcome]:
        return list(self.by_seed.values())

    @property
    def percents(self) -> list[float]:
        """Test accuracies in percent."""
        return [100 * outcome.accuracy for outcome in self.outcomes]

    @property
    def mean(self) -> float:
        return fmean(self.percents)

    @property
    def spread(self) -> float:
        """Sample standard deviation over the seeds in points; 0 for one seed."""
        return stdev(self.percents) if len(self.outcomes) > 1 else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean in points: from the seeds, but at least what the size of the test set allows."""
        p = min(max(self.mean / 100, 0.0), 1.0)
        samples = max(sum(self.outcomes[0].support), 1)
        return max(self.spread / sqrt(len(self.outcomes)), 100 * sqrt(p * (1 - p) / samples))

    @property
    def seconds(self) -> float:
        """Training time of a run, mean."""
        return fmean(outcome.train_seconds for outcome in self.outcomes)

    @property
    def dead(self) -> int:
        """Runs that lost classes."""
        return sum(bool(outcome.dead) for outcome in self.outcomes)

    @property
    def above_slides(self) -> bool | None:
        """Whether the mean is higher than the slides' number; None if there is none."""
        return None if self.point.slides is None else self.mean > self.point.slides


def column(x: float | str) -> str:
    """A column's name."""
    return x if isinstance(x, str) else f"{x:g}"


def differ(a: Cell, b: Cell) -> float:
    """By how many points a's mean is above b's; 0 if that is less than two standard errors of the difference."""
    difference = a.mean - b.mean
    return difference if abs(difference) > 2 * sqrt(a.error**2 + b.error**2) else 0.0


@dataclass(frozen=True)
class Results:
    """What is known of a study's points.

    Attributes
    ----------
    cells : tuple of Cell
        Those with at least one finished run, in the order of the points.
    courses : mapping of str to list of dict
        The courses of runs that are drawn over time, by their keys.
    seed : int
        The first seed.
    """

    cells: tuple[Cell, ...]
    courses: Mapping[str, Course] = field(default_factory=dict)
    seed: int = 0

    @property
    def tables(self) -> list[str]:
        return list(dict.fromkeys(cell.point.table for cell in self.cells))

    def series(self, table: str) -> list[str]:
        """The series of a table."""
        return list(dict.fromkeys(cell.point.series for cell in self.cells if cell.point.table == table))

    def row(self, table: str, series: str) -> list[Cell]:
        """The cells of a series, by column."""
        return [cell for cell in self.cells if cell.point[:2] == (table, series)]

    def pairs(self, table: str, a: str, b: str) -> list[tuple[Cell, Cell]]:
        """The cells of two series at the columns that both have."""
        others = {cell.point.x: cell for cell in self.row(table, b)}
        return [(cell, others[cell.point.x]) for cell in self.row(table, a) if cell.point.x in others]

    def course(self, run: Run) -> Course:
        """The course of a run with the first seed; empty if it is not known."""
        return self.courses.get(run.seeded(self.seed).key, [])


def gather(points: Iterable[Point], seeds: Sequence[int], archive: Archive) -> Results:
    """A study's results from what is known of all runs."""
    cells = []
    for point in points:
        keys = {seed: point.run.seeded(seed).key for seed in seeds}
        finished = {seed: archive.outcomes[key] for seed, key in keys.items() if key in archive.outcomes}
        if finished:
            cells.append(Cell(point, finished, len(keys) - len(finished)))
    return Results(tuple(cells), archive.courses, min(seeds, default=0))


def against_slides(results: Iterable[Results]) -> list[Cell]:
    """The cells for which the slides have a number, each once, the furthest below it first."""
    found: dict[tuple[object, ...], Cell] = {}
    for each in results:
        for cell in each.cells:
            if cell.point.slides is not None:
                found.setdefault((cell.point.run.key, cell.point.slides, cell.point.table, cell.point.series), cell)
    return sorted(found.values(), key=lambda cell: cell.mean - (cell.point.slides or -inf))
