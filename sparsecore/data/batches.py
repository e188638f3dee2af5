"""Samples on a device, compact until a batch of them is packed into tiles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..runtime.device import Device
from ..runtime.tiles import LANES, Labels, Tiles, tiles_of
from ..runtime.workspace import Workspace
from . import Split
from .augmentation import Augmentation
from .normalisation import Normalisation

_ORDERS = 1 << 32  # the first random stream for orders; wirings and initial values use the first few of a seed


class Batches:
    """A split of a data set on a device, and the order in which its samples are taken.

    Parameters
    ----------
    split : Split
    shape : tuple of int
        Of one sample.
    mean, std : sequence of float
        One for each channel, or one in all; also where `shape` is flat. Inputs are (x/255 − mean)/std for uint8 and
        (x − mean)/std for float32.
    device : Device
    dtype : float32 or float64
        Of the packed tiles.
    augment : Augmentation, optional
        What is done to each sample when it is packed.

    Raises
    ------
    ValueError
        If dtype is not one of these, the samples do not have this shape, a label is negative, or mean and std cannot
        normalise.
    """

    def __init__(
        self, split: Split, shape: tuple[int, ...], mean: Any, std: Any, device: Device, dtype: Any = np.float32,
        augment: Augmentation | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"a store's dtype must be float32 or float64, got {self.dtype}")
        if split.x.shape[1] != math.prod(self.shape):
            wanted = math.prod(self.shape)
            raise ValueError(f"samples of shape {self.shape} must have {wanted} features, got {split.x.shape[1]}")
        if len(split) and split.y.min() < 0:
            raise ValueError(f"labels must be at least 0, got {split.y.min()} at position {split.y.argmin()}")
        if augment is not None and math.prod(augment.shape) != split.x.shape[1]:
            raise ValueError(f"samples of {split.x.shape[1]} features cannot be augmented as images of {augment.shape}")
        self.augment = augment
        self.classes = int(split.y.max(initial=-1)) + 1
        channels, features = len(mean), split.x.shape[1]
        if channels < 1 or features % channels:
            raise ValueError(f"mean must be one number or one a channel of the {features} features, got {channels}")
        affine = Normalisation((channels, features // channels), tuple(mean), tuple(std)).affine(split.x.dtype, dtype)
        self.device = device
        self._scale, self._shift = map(device.put, affine)
        self._x, self._y = device.put(split.x), device.put(split.y)
        self.clock = device.zeros((3,), np.int64)
        self.order = device.put(np.arange(len(split), dtype=np.int64))
        if augment is not None:  # augmented samples are in the batch's order already
            self._positions, self._start = device.put(np.arange(len(split))), device.zeros((1,), np.int64)
        self.seek(0, len(split))

    def __len__(self) -> int:
        return len(self._y)

    def shuffle(self, seed: int, epoch: int) -> None:
        """Put the samples into the order of this seed and epoch, whatever the order before."""
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, _ORDERS + epoch], np.uint64)))
        self.device.fill(self.order, rng.permutation(len(self)))
        self.device.fill(self.clock[1:], np.array([epoch, seed], np.uint64).view(np.int64))

    def seek(self, start: int, batch: int) -> None:
        """Choose the next batch: `batch` samples of the order, from position `start` on.

        Raises
        ------
        ValueError
            If the order has no such positions.
        """
        if start < 0 or batch < 0 or start + batch > len(self):
            raise ValueError(f"a batch must lie within the {len(self)} samples, got {batch} from {start} on")
        self.clock[0] = start
        self._batch = batch

    def pack(self, workspace: Workspace) -> tuple[Tiles, Labels]:
        """The batch chosen by `seek`, as tiles, and its labels."""
        batch, tiles = self._batch, tiles_of(self._batch)
        x = workspace.array("x", (tiles, *self.shape, LANES), self.dtype)
        labels = workspace.array("labels", (tiles * LANES,), np.int32)
        addresses = workspace.array("addresses", (tiles * LANES,), np.int64)
        store, classes, order, at = self._x, self._y, self.order, self.clock
        if self.augment is not None:
            store = workspace.array("augmented", (batch, store.shape[1]), store.dtype)
            classes = workspace.array("augmented labels", (batch,), np.int32)
            shape, most, flip = self.augment.shape, self.augment.most, self.augment.flip
            workspace.kernels.augment(self._x, self._y, order, at, shape, most, flip, store, classes, batch)
            order, at = self._positions, self._start
        workspace.kernels.pack_samples(store, classes, order, at, self._scale, self._shift, x, labels, batch, addresses)
        return Tiles(x, batch), Labels(labels, batch, self.classes)


Store = Batches
"""The name of the last release."""
