"""Samples on a device, compact until a batch of them is packed into tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from .data import Split
from .device import Device
from .normalisation import Normalisation
from .tiles import LANES, Tiles, tiles_of
from .workspace import Workspace


class Store:
    """A split of a data set, and the order its samples are taken in.

    Parameters
    ----------
    split : Split
    shape : tuple of int
        Of one sample.
    mean, std : sequence of float
        One a channel, or one in all. Inputs are (x/255 − mean)/std for uint8 and (x − mean)/std for float32.
    device : Device
    dtype : float32 or float64
        Of the packed tiles.
    """

    def __init__(
        self, split: Split, shape: tuple[int, ...], mean: Any, std: Any, device: Device, dtype: Any = np.float32
    ) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        features = (len(mean), split.x.shape[1] // len(mean))
        affine = Normalisation(features, tuple(mean), tuple(std)).affine(split.x.dtype, dtype)
        self._scale, self._shift = map(device.put, affine)
        self._x, self._y = device.put(split.x), device.put(split.y)
        self._at = device.zeros((1,), np.int64)
        self.order = device.put(np.arange(len(split), dtype=np.int64))

    def __len__(self) -> int:
        return len(self._y)

    def shuffle(self, seed: int, epoch: int) -> None:
        """Take the samples in the order that belongs to this seed and epoch, whatever came before."""
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        self.order[...] = rng.permutation(len(self))

    def seek(self, sample: int) -> None:
        """Let the next batch begin at this place of the order."""
        self._at[0] = sample

    def pack(self, batch: int, workspace: Workspace) -> tuple[Tiles, Any]:
        """The next `batch` samples as tiles, and their labels, one a lane."""
        tiles = tiles_of(batch)
        x = workspace.array("x", (tiles, *self.shape, LANES), self.dtype)
        labels = workspace.array("labels", (tiles * LANES,), np.int32)
        addresses = workspace.array("addresses", (tiles * LANES,), np.int64)
        workspace.kernels.pack_samples(
            self._x, self._y, self.order, self._at, self._scale, self._shift, x, labels, batch, addresses
        )
        return Tiles(x, batch), labels
