"""Layouts as a GPU wants them: on the device, the longest rows first, and cut into segments for sddmm."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import cupy
import numpy as np

from ..layout import CooLayout, Layout

SEGMENT = 8
"""Connections of a segment, as in sddmm.cu."""


class DeviceLayout(NamedTuple):
    """A `Layout` on a device, its groups in another order: the longest first, so that none begins when others end.

    Attributes
    ----------
    indptr, rows, starts, runs, cuts, offsets : device arrays
        As in Layout.
    segment_group, segment_first : int32 device arrays, shape (segments,)
        A segment is the connections `first` to `first + SEGMENT` of a group's rows. Groups without connections have one
        segment too, which writes their rows' db.
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


def device_layout(layout: Layout | CooLayout) -> DeviceLayout:
    """Put a layout on the current device."""
    if isinstance(layout, CooLayout):
        layout = _row_by_row(layout)
    sizes = np.diff(layout.starts)
    length = layout.cuts[-1] - layout.cuts[0]
    order = np.argsort(-length.astype(np.int64), kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes[order])])
    # Row k of the new order stands where its group began before, as far in as it is now.
    before = np.arange(starts[-1]) + np.repeat(layout.starts[:-1][order] - starts[:-1], sizes[order])
    pieces = np.maximum(-(-length[order] // SEGMENT), 1)
    group = np.repeat(np.arange(len(order)), pieces)
    first = (np.arange(len(group)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * SEGMENT
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


def _row_by_row(layout: CooLayout) -> Layout:
    """The same connections, every row a group of its own: segments here are cut anew, and balance any rows."""
    indptr = np.searchsorted(layout.rows, np.arange(layout.count + 1)).astype(np.int64)
    starts = np.arange(layout.count + 1, dtype=np.int32)
    cuts = np.stack([np.zeros_like(starts[1:]), np.diff(indptr).astype(np.int32)])
    return Layout(indptr, starts[:-1], starts, indptr[:-1], cuts, indptr, layout.offsets, 1)


def _put(array: Any) -> Any:
    return cupy.array(array, order="C")


class Uploads:
    """What has been put on a device for host arrays that never change: once for each, and for as long as they live."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Any] = {}

    def layout(self, layout: Layout | CooLayout) -> DeviceLayout:
        arrays = tuple(field for field in layout if isinstance(field, np.ndarray))
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
            # Numbers of objects are used again once these are gone; then the entry is gone, too.
            watch = [weakref.ref(array, lambda _: self._made.pop(key, None)) for array in arrays]
            self._made[key] = made, watch
        return self._made[key][0]
