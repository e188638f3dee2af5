"""What `sparsify` did: the layers that are sparse now, and those that it left dense, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Replaced(NamedTuple):
    """A layer that is sparse now.

    Attributes
    ----------
    path : str
        Its name in the model; empty for the model itself.
    kind : str
        The class that was there, such as Linear.
    shape : tuple of int
        Of the dense weight.
    connections, weights : int
        Stored now, and in the dense weight.
    note : str
        What was done beside, such as a weight norm folded; empty if nothing was.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    connections: int
    weights: int
    note: str = ""

    @property
    def sparsity(self) -> float:
        """The fraction of the dense weights that is not stored."""
        return 1 - self.connections / self.weights if self.weights else 0.0


class Left(NamedTuple):
    """A layer that stays dense.

    Attributes
    ----------
    path, kind, shape
        As of `Replaced`; the shape is empty where it is not known.
    why : str
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    why: str


@dataclass(frozen=True, repr=False)
class Summary:
    """What `sparsify` did to a model. `str` makes a table of it.

    Attributes
    ----------
    replaced : tuple of Replaced
    left : tuple of Left
        Layers with weights to be multiplied by; embeddings and norms are not among them.
    """

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]

    @property
    def connections(self) -> int:
        """Stored in the layers that were replaced."""
        return sum(each.connections for each in self.replaced)

    @property
    def weights(self) -> int:
        """That these layers had."""
        return sum(each.weights for each in self.replaced)

    @property
    def sparsity(self) -> float:
        """The fraction of these that is not stored."""
        return 1 - self.connections / self.weights if self.weights else 0.0

    def __repr__(self) -> str:
        return (
            f"{len(self.replaced)} layers are sparse, with {self.connections:,} of {self.weights:,} weights "
            f"(sparsity {self.sparsity:.4g}); {len(self.left)} stay dense"
        )

    def __str__(self) -> str:
        sparse = [
            (_named(each.path), each.kind, _spelled(each.shape), f"{each.connections:,}", f"{each.sparsity:.4g}",
             each.note)
            for each in self.replaced
        ]  # fmt: skip
        dense = [(_named(each.path), each.kind, _spelled(each.shape), each.why) for each in self.left]
        parts = [repr(self)]
        if sparse:
            parts.append(_table([("sparse", "was", "weight", "connections", "sparsity", ""), *sparse]))
        if dense:
            parts.append(_table([("dense", "is", "weight", "why"), *dense]))
        return "\n\n".join(parts)


def _named(path: str) -> str:
    return path or "(the model)"


def _spelled(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "?"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
