"""Activations as the kernels want them: cut into tiles of lanes, features side by side within a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.layout import LANES as LANES
from ..kernels.layout import PAIRS as PAIRS
from .arrays import is_real, narrowed, plain_array, real_numbers
from .border import NO_BORDER, Border
from .recording import Buffer


@dataclass(frozen=True, slots=True)
class Tiles:
    """A batch of activations, or of their gradients.

    Attributes
    ----------
    data : array, shape (tiles, features, LANES) or (tiles, channels, height, width, LANES)
        Sample s is lane s % LANES of tile s // LANES. In words of two bfloat16, of dtype PAIRS, tiles hold twice as
        many samples: the first LANES in the lower halves, the others in the upper ones. Lanes past the batch never
        reach a loss, a gradient or a metric: layers and networks write zeros there when they are given tiles.
    batch : int
        Samples.
    rectified : bool
        Activations only: the values come out of a ReLU. Whoever sends a gradient back masks it where they are zero.
    masked : bool
        Gradients only: that mask has been applied.
    border : Border
        Zeros around the images, where `data` is the interior of an array that has them, `within`. Only a layer that
        knows borders (`Layer.bordered`) is given such tiles.
    within : array, shape (tiles, channels, height, width, LANES), optional
        That array.
    joined : bool
        What the workspace says is to be added has been: `Workspace.ahead` for activations, `onto` for gradients.
    free : bool
        Gradients only: the array may be written over, since whoever made it does not need it. A layer that sends it to
        more than one, or keeps it, does not say so to them.

    Raises
    ------
    TypeError
        If data is no array of real numbers.
    ValueError
        If it does not hold exactly the tiles of this batch.
    """

    data: Any
    batch: int
    rectified: bool = False
    masked: bool = False
    border: Border = NO_BORDER
    within: Any = None
    joined: bool = False
    free: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.data, "flags") or isinstance(self.data, np.ma.MaskedArray) or not is_real(self.data.dtype):
            found = f"{type(self.data).__name__} of {getattr(self.data, 'dtype', 'no dtype')}"
            raise TypeError(f"tiles must be a plain array of real numbers, got {found}")
        shape, tiles = self.data.shape, tiles_of(self.batch, self.data.dtype)
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
        """Write zeros into the lanes past the batch.

        While a step is recorded nothing is written: tiles then come from kernels, which have written these zeros.

        Raises
        ------
        ValueError
            If the array is read-only.
        """
        if (used := self.batch % tile_samples(self.data.dtype)) and not isinstance(self.data, Buffer):
            if isinstance(self.data, np.ndarray) and not self.data.flags.writeable:
                raise ValueError("tiles must be writable, for zeros in the lanes past the batch, got a read-only array")
            if self.data.dtype == PAIRS:
                self.data[-1, ..., max(used - LANES, 0) :] &= np.uint32(0xFFFF)
            if used < LANES:
                self.data[-1, ..., used:] = 0


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes of a batch's samples, checked to be in range when they are made: no kernel checks them.

    Attributes
    ----------
    data : int32 array, shape (tiles · LANES,)
        One for each lane; those past the batch do not matter.
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
        """Labels from an ordinary array, checked.

        Parameters
        ----------
        labels : array of integers of any kind, shape (batch,)
        classes : int

        Raises
        ------
        TypeError
            If the labels are not integers.
        ValueError
            If they have another shape, or one is negative or not below `classes`.
        """
        given = plain_array(labels, "labels")
        if given.dtype.kind not in ("iu" if given.size else "iuf"):  # NumPy takes [] for floats
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


@dataclass(frozen=True, slots=True)
class Targets:
    """The numbers that a batch's samples should give.

    Attributes
    ----------
    data : float array, shape (tiles, outputs, LANES)
        As in `Tiles`; lanes past the batch do not matter.
    batch : int
        Samples.
    """

    data: Any
    batch: int

    @classmethod
    def pack(cls, targets: Any, dtype: Any = np.float64) -> Targets:
        """Targets from an ordinary array, checked.

        Parameters
        ----------
        targets : array of real numbers, shape (batch, outputs)
        dtype : float32 or float64

        Raises
        ------
        TypeError
            If the targets are not real numbers.
        ValueError
            If they have another shape.
        """
        given = targets if isinstance(targets, np.ma.MaskedArray) else np.asarray(targets)
        if given.dtype.kind not in "iuf":
            raise TypeError(f"targets must be real numbers, got {given.dtype}")
        given = real_numbers(given, "Targets", "targets")
        if given.ndim != 2:
            raise ValueError(f"targets must have shape (batch, outputs), got {given.shape}")
        return cls(tiled(narrowed(given, dtype, "Targets", "targets"), dtype), len(given))


def tiled(rows: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    """Rows (batch, features) as (tiles, features, LANES) on the host; lanes past the batch are zero."""
    tiles = tiles_of(len(rows))
    padded = np.zeros((tiles * LANES, rows.shape[1]), dtype)
    padded[: len(rows)] = rows
    return np.ascontiguousarray(padded.reshape(tiles, LANES, rows.shape[1]).transpose(0, 2, 1))


def rows_of_tiles(data: np.ndarray[Any, Any], batch: int) -> np.ndarray[Any, Any]:
    """Tiles on the host, (tiles, features, LANES), as rows (batch, features); a copy."""
    return np.ascontiguousarray(np.moveaxis(data, -1, 1).reshape(len(data) * LANES, -1)[:batch])


def tile_samples(dtype: Any) -> int:
    """Samples of a tile whose elements are of a dtype: LANES, or twice as many in words of two bfloat16."""
    return 2 * LANES if dtype == PAIRS else LANES


def tiles_of(batch: int, dtype: Any = None) -> int:
    """Tiles that hold `batch` samples, of float32 or float64 if no dtype is given."""
    return -(-batch // tile_samples(dtype))
