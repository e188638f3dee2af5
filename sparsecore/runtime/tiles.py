"""Activations as the kernels want them: cut into tiles of lanes, features side by side within a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.layout import LANES as LANES


@dataclass(frozen=True, slots=True)
class Tiles:
    """A batch of activations, or of their gradients.

    Attributes
    ----------
    data : array, shape (tiles, features, LANES) or (tiles, channels, height, width, LANES)
        Sample s is lane s % LANES of tile s // LANES. Lanes past the batch never reach a loss, a gradient or a metric:
        layers and networks write zeros there when they are given tiles.
    batch : int
        Samples.
    rectified : bool
        Activations only: the values come out of a ReLU. Whoever sends a gradient back masks it where they are zero.
    masked : bool
        Gradients only: that mask has been applied.

    Raises
    ------
    ValueError
        If data does not hold exactly the tiles of this batch.
    """

    data: Any
    batch: int
    rectified: bool = False
    masked: bool = False

    def __post_init__(self) -> None:
        shape, tiles = self.data.shape, tiles_of(self.batch)
        if self.batch < 0 or len(shape) < 3 or shape[0] != tiles or shape[-1] != LANES:
            raise ValueError(
                f"tiles of a batch of {self.batch} must have shape ({tiles}, features, {LANES}), got {tuple(shape)}"
            )

    @property
    def features(self) -> int:
        """Features of one sample, all channels and pixels counted."""
        count = 1
        for size in self.data.shape[1:-1]:
            count *= int(size)
        return count

    def clear_padding(self) -> None:
        """Write zeros into the lanes past the batch, whatever stands there."""
        if used := self.batch % LANES:
            self.data[-1, ..., used:] = 0


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes of a batch's samples, known to be in range: whoever makes one has checked that, so no kernel need.

    Attributes
    ----------
    data : int32 array, shape (tiles · LANES,)
        One a lane; what stands past the batch does not matter.
    batch : int
        Samples.
    classes : int
        Every label is at least 0 and less than this.
    """

    data: Any
    batch: int
    classes: int

    @classmethod
    def pack(cls, labels: Any, classes: int) -> Labels:
        """Ordinary labels, one a lane.

        Parameters
        ----------
        labels : integer array, shape (batch,)
        classes : int

        Raises
        ------
        TypeError
            If the labels are not integers.
        ValueError
            If they have another shape, or one is negative or not below `classes`.
        """
        given = np.asarray(labels)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got {given.dtype}")
        if given.ndim != 1:
            raise ValueError(f"labels must have shape (batch,), got {given.shape}")
        wrong = (given < 0) | (given >= classes)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(f"labels must be at least 0 and below {classes}, got {given[at]} at position {at}")
        data = np.full(tiles_of(len(given)) * LANES, -1, np.int32)
        data[: len(given)] = given
        return cls(data, len(given), classes)


def tiles_of(batch: int) -> int:
    """Tiles that hold `batch` samples."""
    return -(-batch // LANES)
