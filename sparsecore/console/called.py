"""What people call a command by: `python -m sparsecore.train`, or `sparsecore train` behind the one door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_ALONE = "python -m sparsecore."
_door: list[str] = []


@contextmanager
def through(door: str) -> Iterator[None]:
    """While commands are called as sub-commands of this one, such as "sparsecore"."""
    _door.append(door)
    try:
        yield
    finally:
        _door.pop()


def as_called(text: str) -> str:
    """Text in which commands stand by the names of their modules, in the words of whoever reads it."""
    return text.replace(_ALONE, f"{_door[-1]} ") if _door else text
