"""Activations as the kernels want them: cut into tiles of lanes, features side by side within a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LANES = 16
"""Samples in a tile."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """A batch of activations, or of their gradients.

    Attributes
    ----------
    data : array, shape (tiles, features, LANES) or (tiles, channels, height, width, LANES)
        Sample s is lane s % LANES of tile s // LANES. Lanes past the batch are never read into a loss, a gradient or a metric.
    batch : int
        Samples.
    rectified : bool
        Activations only: the values come out of a ReLU. Whoever sends a gradient back masks it where they are zero.
    masked : bool
        Gradients only: that mask has been applied.
    """

    data: Any
    batch: int
    rectified: bool = False
    masked: bool = False

    @property
    def features(self) -> int:
        """Features of one sample, all channels and pixels counted."""
        count = 1
        for size in self.data.shape[1:-1]:
            count *= int(size)
        return count


def tiles_of(batch: int) -> int:
    """Tiles that hold `batch` samples."""
    return -(-batch // LANES)
