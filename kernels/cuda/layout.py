"""Layouts as a GPU wants them: on the device, the longest rows first, and cut into segments."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import cupy
import numpy as np

from ..layout import CooLayout, Layout
from ..tuning import CUDA_COO_SEGMENT, CUDA_TEAM


class DeviceLayout(NamedTuple):
    """A `Layout` on a device, its groups in another order: the longest first, so that none is left to begin at the end.

    Attributes
    ----------
    indptr, rows, starts, runs, cuts, offsets : device arrays
        As in Layout.
    segment_group, segment_first : int32 device arrays, shape (segments,)
        A segment is up to CUDA_TEAM connections, from `first` on, of a group's rows. Groups without connections have
        one segment too, which writes their rows' db.
    groups, segments, most_group : int
    """

    indptr: Any
    rows: Any
    starts: Any
    runs: Any
    cuts: Any
    offsets: Any
    segment_group: Any
    segment_first: Any
    groups: int
    segments: int
    most_group: int


def device_layout(layout: Layout) -> DeviceLayout:
    """Put a layout on the current device."""
    sizes = np.diff(layout.starts)
    length = layout.cuts[-1] - layout.cuts[0]
    order = np.argsort(-length.astype(np.int64), kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes[order])])
    # Where row k of the new order stood in the old one: as far into its group as it is now.
    before = np.arange(starts[-1]) + np.repeat(layout.starts[:-1][order] - starts[:-1], sizes[order])
    pieces = np.maximum(-(-length[order] // CUDA_TEAM), 1)
    group = np.repeat(np.arange(len(order)), pieces)
    first = (np.arange(len(group)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * CUDA_TEAM
    return DeviceLayout(
        indptr=_put(layout.indptr),
        rows=_put(layout.rows[before]),
        starts=_put(starts.astype(np.int32)),
        runs=_put(layout.runs[order]),
        cuts=_put(layout.cuts[:, order]),
        offsets=_put(layout.offsets),
        segment_group=_put(group.astype(np.int32)),
        segment_first=_put(first.astype(np.int32)),
        groups=len(order),
        segments=len(group),
        most_group=layout.most_group,
    )


class DeviceCooLayout(NamedTuple):
    """A `CooLayout` on a device, cut into segments of CUDA_COO_SEGMENT connections.

    Where rows end does not matter: a row that segments share leaves a carry, one line, in each of them.

    Attributes
    ----------
    rows, offsets : int32 device arrays, shape (nnz,)
        As in CooLayout.
    head, tail : int32 device arrays, shape (segments,)
        Carries of a segment's first and last row; −1 where it holds the whole row. A segment within one row has a
        head.
    special : int32 device array
        Rows without connections, then rows that have carries.
    slots : int32 device array, shape (special + 1,)
        Carries of special[k] are slots[k] to slots[k + 1].
    count, connections, segments, carries : int
    """

    rows: Any
    offsets: Any
    head: Any
    tail: Any
    special: Any
    slots: Any
    count: int  # type: ignore[assignment]  # hides tuple's method, which nobody calls
    connections: int
    segments: int
    carries: int


def device_coo_layout(layout: CooLayout) -> DeviceCooLayout:
    """Put a layout on the current device."""
    rows, connections = layout.rows, len(layout.rows)
    indptr = np.searchsorted(rows, np.arange(layout.count + 1))
    begin = np.arange(0, connections, CUDA_COO_SEGMENT)
    end = np.minimum(begin + CUDA_COO_SEGMENT, connections)
    first, last = rows[begin], rows[end - 1]
    head = (indptr[first] < begin) | (indptr[first + 1] > end)
    tail = (last != first) & (indptr[last + 1] > end)
    carried = np.stack([head, tail], axis=1)
    slot_of = np.where(carried, np.cumsum(carried).reshape(carried.shape) - 1, -1).astype(np.int32)
    shared, counts = np.unique(np.stack([first, last], axis=1)[carried], return_counts=True)
    slots = np.concatenate([np.zeros(len(layout.empty) + 1, np.int32), np.cumsum(counts, dtype=np.int32)])
    return DeviceCooLayout(
        rows=_put(rows),
        offsets=_put(layout.offsets),
        head=_put(slot_of[:, 0]),
        tail=_put(slot_of[:, 1]),
        special=_put(np.concatenate([layout.empty, shared]).astype(np.int32)),
        slots=_put(slots),
        count=layout.count,
        connections=connections,
        segments=len(begin),
        carries=int(carried.sum()),
    )


def _put(array: Any) -> Any:
    return cupy.array(array, order="C")


class Uploads:
    """Copies on a device of host arrays that never change: one of each, kept for as long as the array lives."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Any] = {}

    def layout(self, layout: Layout | CooLayout) -> DeviceLayout | DeviceCooLayout:
        arrays = tuple(field for field in layout if isinstance(field, np.ndarray))
        if isinstance(layout, CooLayout):
            return self._once(arrays, lambda: device_coo_layout(layout))
        return self._once(arrays, lambda: device_layout(layout))

    def array(self, array: Any) -> Any:
        """The array itself where it is on the device already."""
        if not isinstance(array, np.ndarray):
            return array
        return self._once((array,), lambda: _put(array))

    def _once(self, arrays: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        key = tuple(map(id, arrays))
        if key not in self._made:
            made = make()
            # An id is used again once its object is gone; its entry has gone with it.
            references = [weakref.ref(array, lambda _: self._made.pop(key, None)) for array in arrays]
            self._made[key] = made, references
        return self._made[key][0]
