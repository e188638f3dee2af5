"""What a network's outputs stand for: classes that have names, or numbers in the units that they were given in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Self


@dataclass(frozen=True)
class Answers:
    """The meaning of a network's outputs, where they are not simply classes 0, 1, 2, ….

    Attributes
    ----------
    names : tuple of str
        Of the classes, one an output; empty for numbers.
    mean, std : tuple of float
        Of the numbers that were trained on, one an output: an output of 1 stands for mean + std. Empty for classes.

    Raises
    ------
    ValueError
        If it is neither, or the names are not all different, or a number is not finite or a deviation not positive.
    """

    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.names) == bool(self.mean) or len(self.mean) != len(self.std):
            raise ValueError(
                f"answers: expected names of classes, or as many means as deviations, got {len(self.names)} names, "
                f"{len(self.mean)} means and {len(self.std)} deviations"
            )
        if not all(isinstance(name, str) for name in self.names) or len(set(self.names)) != len(self.names):
            raise ValueError("answers: expected names that are words and differ")
        if not all(map(isfinite, (*self.mean, *self.std))) or min(self.std, default=1.0) <= 0:
            raise ValueError(f"answers: expected finite means and positive deviations, got {self.mean}, {self.std}")

    def __len__(self) -> int:
        return len(self.names) or len(self.mean)

    @property
    def numbers(self) -> bool:
        """Whether the outputs are numbers, not classes."""
        return bool(self.mean)

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, given: Mapping[str, Any] | None) -> Self | None:
        """The answers that gave this; None for None. Raises ValueError, TypeError or KeyError for anything else."""
        if given is None:
            return None
        return cls(**{name: tuple(values) for name, values in given.items()})
