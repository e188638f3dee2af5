"""Classes that a network never answers."""

from __future__ import annotations

from collections.abc import Sequence

DEAD = 0.02
"""A class is lost if the network answers it for fewer samples than this fraction of those that belong to it."""


def lost_classes(answers: Sequence[int], support: Sequence[int]) -> tuple[int, ...]:
    """The classes that have samples but are answered for next to none.

    A network that has lost k of ten equal classes reaches at most 100 − 10·k percent. The answers distinguish such a
    plateau from a network that is merely bad; the accuracy alone does not.

    Parameters
    ----------
    answers, support : sequence of int
        For each class, how many samples the network puts into it, and how many belong to it.
    """
    pairs = enumerate(zip(answers, support, strict=True))
    return tuple(k for k, (answered, present) in pairs if present and answered < DEAD * present)
