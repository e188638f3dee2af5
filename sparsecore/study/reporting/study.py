"""What a study is: a question, the runs that answer it, and what is drawn and read from their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..making.scale import Scale
from .figures import Drawing
from .results import Point, Results


@dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Attributes
    ----------
    name, title, question : str
    x : str
        What its tables' columns are.
    pinned : str
        What it does as the slides did, and what it does not.
    points : callable
        From a Scale to points.
    figures : callable
        From Results to Drawings.
    readings : callable
        From Results to sentences.
    seeds : int
        How many seeds are run for each that the user asks for.
    unasked : int
        How many the user asks for by not saying: fewer where a run takes hours.
    over_time : bool
        Whether its figures show runs over time; those of the first seed.
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
    unasked: int = 3
    over_time: bool = False
