"""What a study is: points, each a run and where it stands in a table, and what is drawn and read from their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..making.run import Run

if TYPE_CHECKING:
    from ..making.scale import Scale
    from .results import Results


class Point(NamedTuple):
    """A run's place in a study.

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


class Drawing(NamedTuple):
    """A figure: its file's name without an ending, a caption, and a matplotlib Figure."""

    name: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Attributes
    ----------
    name, title, question : str
    x : str
        What the columns of its tables are.
    pinned : str
        What is as the slides had it, and what is not.
    points : callable
        From a Scale to points.
    figures : callable
        From Results to Drawings.
    readings : callable
        From Results to sentences.
    seeds : int
        For each of the seeds that are asked for, so many are run.
    over_time : bool
        Whether its figures show the runs of the first seed over time.
    """

    name: str
    title: str
    question: str
    x: str
    pinned: str
    points: Callable[[Scale], Sequence[Point]]
    figures: Callable[[Results], Sequence[Drawing]]
    readings: Callable[[Results], Sequence[str]]
    seeds: int = 1
    over_time: bool = False
