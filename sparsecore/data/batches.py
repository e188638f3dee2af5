"""Samples on a device, compact until a batch of them is packed into tiles."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..runtime.arrays import host_array, narrowed, real_numbers
from ..runtime.copies import Whole
from ..runtime.device import Device
from ..runtime.tiles import LANES, PAIRS, Labels, Targets, Tiles, tiled, tiles_of
from ..runtime.workspace import Workspace
from ..storage.sizes import fits, spell
from . import Split
from .augmentation import Augmentation
from .normalisation import Normalisation

_ORDERS = 1 << 32  # the first random stream for orders; wirings and initial values use the first few of a seed


class Batches(Whole):
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
    targets : float array, shape (n, outputs), optional
        What the samples should give, instead of the split's classes, which are then not looked at.

    Attributes
    ----------
    order : int64 array, shape (n,)
        The samples' numbers in the order they are taken in: a read-only view, or from a GPU a copy. Assigning to it
        copies numbers in, once they are looked at; what steps read stays where it is.
    position : int64 device array
        Where the batch is that was sought: its first place in the order, the epoch and the seed.

    Raises
    ------
    ValueError
        If dtype is not one of these, the samples do not have this shape, a label is negative, targets are not one row a
        sample, or mean and std cannot normalise.
    """

    def __init__(
        self, split: Split, shape: tuple[int, ...], mean: Any, std: Any, device: Device, dtype: Any = np.float32,
        augment: Augmentation | None = None, *, targets: Any = None,
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
        if augment is not None and not fits(augment.shape, self.shape):
            raise ValueError(f"samples of {spell(self.shape)} cannot be augmented as images of {spell(augment.shape)}")
        self.augment = augment
        self.classes = int(split.y.max(initial=-1)) + 1
        mean, std = (_row(name, numbers) for name, numbers in (("mean", mean), ("std", std)))
        channels, features = len(mean), split.x.shape[1]
        if channels < 1 or features % channels:
            raise ValueError(f"mean must be one number or one a channel of the {features} features, got {channels}")
        affine = Normalisation((channels, features // channels), mean, std).affine(split.x.dtype, dtype)
        self.device = device
        self._scale, self._shift = map(device.put, affine)
        self._samples, self._rows = len(split), split.rows
        self._x = split.x if split.rows is not None and device.name == "cpu" else device.put(split.x)
        self._y = device.put(self._by_row(split.y, len(split.x)))
        self._position = device.zeros((3,), np.int64)
        self._order = device.put(np.arange(len(split), dtype=np.int64) if split.rows is None else split.rows)
        self._targets: Any = None
        if targets is not None:
            rows = self._by_row(self._checked_targets(targets, len(split)), len(split.x))
            self._targets, outputs = device.put(rows), rows.shape[1:]
            self._ones, self._zeros = device.put(np.ones(outputs, dtype)), device.zeros(outputs, dtype)
        if augment is not None:  # augmented samples are in the batch's order already
            self._positions, self._start = device.put(np.arange(len(split))), device.zeros((1,), np.int64)
        self.seek(0, len(split))

    def __len__(self) -> int:
        return self._samples

    @property
    def position(self) -> Any:
        """Where the batch is; recorded steps read it where it lies."""
        return self._position

    @property
    def order(self) -> Any:
        """The samples' numbers. A kernel takes them for addresses: nobody writes there but who has looked at them."""
        seen = self.device.get(self._order).view()
        seen = seen if self._rows is None else np.searchsorted(self._rows, seen)
        seen.flags.writeable = False
        return seen

    @order.setter
    def order(self, numbers: Any) -> None:
        given = np.asarray(self.device.get(numbers) if self.device.owns(numbers) else host_array(numbers))
        if given.shape != (len(self),) or given.dtype.kind not in "iu" or isinstance(numbers, np.ma.MaskedArray):
            raise ValueError(f"order must be {len(self)} whole numbers, got {given.dtype} of shape {given.shape}")
        if given.size and (given.min() < 0 or given.max() >= len(self)):
            raise ValueError(
                f"order must be of samples 0 to {len(self) - 1}, got numbers from {given.min()} to {given.max()}"
            )
        self._put_order(given.astype(np.int64))

    def shuffle(self, seed: int, epoch: int) -> None:
        """Put the samples into the order of this seed and epoch, whatever the order before."""
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, _ORDERS + epoch], np.uint64)))
        self._put_order(rng.permutation(len(self)))
        self.device.fill(self._position[1:], np.array([epoch, seed], np.uint64).view(np.int64))

    def seek(self, start: int, batch: int) -> None:
        """Choose the next batch: `batch` samples of the order, from position `start` on.

        Raises
        ------
        ValueError
            If the order has no such positions.
        """
        if start < 0 or batch < 0 or start + batch > len(self):
            raise ValueError(f"a batch must lie within the {len(self)} samples, got {batch} from {start} on")
        self._position[0] = start
        self._batch = batch

    def pack(self, workspace: Workspace, *, halves: bool = False) -> tuple[Tiles, Any]:
        """The batch chosen by `seek`, as tiles, in bfloat16 for `halves`, and its labels, or targets if there are
        any."""
        batch, tiles, kind = self._batch, tiles_of(self._batch), PAIRS if halves else self.dtype
        x = workspace.array("x", (tiles_of(batch, kind), *self.shape, LANES), kind)
        labels = workspace.array("labels", (tiles * LANES,), np.int32)
        addresses = workspace.array("addresses", (tiles * LANES,), np.int64)
        store, classes, order, at = self._x, self._y, self._order, self._position
        if self.augment is not None:
            store = workspace.array("augmented", (batch, store.shape[1]), store.dtype)
            classes = workspace.array("augmented labels", (batch,), np.int32)
            shape, most, flip = self.augment.shape, self.augment.most, self.augment.flip
            workspace.kernels.augment(self._x, self._y, order, at, shape, most, flip, store, classes, batch)
            order, at = self._positions, self._start
        workspace.kernels.pack_samples(store, classes, order, at, self._scale, self._shift, x, labels, batch, addresses)
        if self._targets is not None:
            return Tiles(x, batch), self._packed_targets(workspace, addresses)
        return Tiles(x, batch), Labels(labels, batch, self.classes)

    def _put_order(self, numbers: Any) -> None:
        """Kernels read the order as rows of the store, which may hold more than this split."""
        self.device.fill(self._order, numbers if self._rows is None else self._rows[numbers])

    def _by_row(self, values: Any, rows: int) -> Any:
        """What the split's samples have, at the places of the store's rows."""
        if self._rows is None:
            return values
        found = np.zeros((rows, *values.shape[1:]), values.dtype)
        found[self._rows] = values
        return found

    def _packed_targets(self, workspace: Workspace, addresses: Any) -> Targets:
        batch, tiles, outputs = self._batch, tiles_of(self._batch), self._targets.shape[1]
        out = workspace.array("targets", (tiles, outputs, LANES), self.dtype)
        if self.dtype == np.float64:  # no kernel packs what is stored in float64
            arrays = {"targets": self._targets, "order": self._order, "position": self._position}
            workspace.kernels.host("pack targets", partial(_pack_rows, batch), arrays, {"out": out})
            return Targets(out, batch)
        unlabelled = workspace.array("labels of targets", (tiles * LANES,), np.int32)
        workspace.kernels.pack_samples(
            self._targets, self._y, self._order, self._position, self._ones, self._zeros, out, unlabelled, batch,
            addresses,
        )  # fmt: skip
        return Targets(out, batch)

    def _checked_targets(self, targets: Any, samples: int) -> Any:
        rows = np.ascontiguousarray(
            narrowed(real_numbers(targets, "a store", "targets"), self.dtype, "a store", "targets")
        )
        if rows.ndim != 2 or len(rows) != samples:
            raise ValueError(f"targets must have shape ({samples}, outputs), got {rows.shape}")
        return rows


def _row(name: str, numbers: Any) -> tuple[float, ...]:
    """A mean or a deviation as Python's numbers."""
    array = real_numbers(numbers, "a store", name)
    if array.ndim != 1:
        raise ValueError(f"a store: {name} must be one number or one a channel, in a row, got shape {array.shape}")
    return tuple(array.tolist())


def _pack_rows(batch: int, targets: Any, order: Any, position: Any, out: Any) -> None:
    """The host's part of packing: rows of the order, from a position on, as tiles."""
    first = int(position[0])
    out[...] = tiled(targets[order[first : first + batch]], out.dtype)


Store = Batches
"""The name of the last release."""
