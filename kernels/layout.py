"""What a kernel is told about a sparse operator: which connections there are, and where its lines lie.

A *line* is the LANES values of one feature (or pixel) of one tile. Layouts and grids are tuples of arrays and integers,
so that a compiled kernel can take them as they are, on any device. `sparsecore` makes them; nothing here knows how.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Samples in a tile: one 64-byte cache line of float32, one register of AVX-512, two of AVX2, four of NEON."""

PAIRS = np.dtype(np.uint32)
"""Words of two bfloat16: a line of them holds 32 samples, sample k beside sample k + LANES. Wherever elements are
counted, or steps between them, it is the words that are."""


def element_size(array: Any) -> int:
    """What kernels go by for an array of lines: 4 for float32, 8 for float64, 2 for words of two bfloat16."""
    return 2 if array.dtype == PAIRS else int(array.dtype.itemsize)


def kept_size(size: int) -> int:
    """Bytes of a number that is no activation (a weight, a gradient of it, a statistic) where these have `size`."""
    return max(size, 4)


def samples_of_tile(size: int) -> int:
    """How many samples the lanes of a tile hold where activations have `size`."""
    return 2 * LANES if size == 2 else LANES


def registers_of_line(size: int, width: int) -> int:
    """How many registers of `width` floats a line's samples fill."""
    return LANES // width * (2 if size == 2 else 1)


class Layout(NamedTuple):
    """The connections of one operator, its rows gathered into groups that share their columns.

    Attributes
    ----------
    indptr : int64 array, shape (rows + 1,)
        Row i's values are `data[indptr[i]:indptr[i + 1]]`.
    rows : int32 array, shape (rows,)
        Row numbers, group by group.
    starts : int32 array, shape (groups + 1,)
        Group g is `rows[starts[g]:starts[g + 1]]`: 1 to 4 rows with the same columns.
    runs : int64 array, shape (groups,)
        Group g's columns begin at `offsets[runs[g]]`. Groups with the same columns share one run.
    cuts : int32 array, shape (blocks + 1, groups)
        Column block k of group g is the connections `cuts[k, g]` to `cuts[k + 1, g]` of each of its rows.
    work : int64 array, shape (groups + 1,)
        Connections before each group: where to cut for parts of equal work.
    offsets : int32 array
        Line of x that a connection reads, relative to the origin of an output position.
    most_group : int
        Rows of the largest group: 1 to 4.
    """

    indptr: NDArray[np.int64]
    rows: NDArray[np.int32]
    starts: NDArray[np.int32]
    runs: NDArray[np.int64]
    cuts: NDArray[np.int32]
    work: NDArray[np.int64]
    offsets: NDArray[np.int32]
    most_group: int


class CooLayout(NamedTuple):
    """The connections of one operator, row after row, cut into segments of nearly equal length.

    A segment has three stretches, each of which may be empty: what it holds of a row that began in an earlier segment,
    whole rows, and the beginning of a row that goes on in the next.

    Attributes
    ----------
    rows : int32 array, shape (nnz,)
        Row of each connection, never decreasing.
    offsets : int32 array, shape (nnz,)
        Line of x that a connection reads, relative to the origin of an output position.
    edges : int64 array, shape (segments + 1, 3)
        Where each stretch of each segment begins; the last row repeats the number of connections.
    empty : int32 array
        Rows without connections.
    count : int
        Rows, empty ones included.
    carries : int
        Segments that go on with a row.
    """

    rows: NDArray[np.int32]
    offsets: NDArray[np.int32]
    edges: NDArray[np.int64]
    empty: NDArray[np.int32]
    count: int  # type: ignore[assignment]  # hides tuple's method, which nobody calls
    carries: int


class Grid(NamedTuple):
    """Where the output positions of an operator lie: three nested loops, steps in elements.

    A fully connected layer has one position in each tile, and its tiles are the innermost loop. An image's loops are
    tiles, image rows and pixels.

    `bands`, an int32 array of shape (ys, 2), is for spmm: at image row y only column blocks `bands[y, 0]` to
    `bands[y, 1]` are read, all of them together. Without it every row reads every block, one after another.

    `places`, an int64 array of one number a row of the operator, is for spmm too: where the row's outputs begin, which
    are multiples of `out_row` otherwise.

    The others are a hint for whoever fetches x into a cache before it is needed: x has so many planes, `plane` elements
    apart, and of each an image row reads `fresh` lines that the row before it did not. They begin `ahead` elements
    after the latter's origin and lie `apart` elements apart.
    """

    outer: int
    x_outer: int
    out_outer: int
    ys: int
    x_y: int
    out_y: int
    lines: int
    x_line: int
    out_line: int
    out_row: int
    bands: NDArray[np.int32] | None = None
    planes: int = 0
    plane: int = 0
    ahead: int = 0
    fresh: int = 0
    apart: int = LANES
    places: NDArray[np.int64] | None = None


class Window(NamedTuple):
    """Pooling windows: `high` rows of `wide` pixels, `row_step` and `column_step` pixels from one to the next."""

    high: int
    wide: int
    row_step: int
    column_step: int
