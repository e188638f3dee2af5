"""A pattern bound to a use: rows grouped by their columns, offsets, and the transpose, each made when first needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import LANES, CooLayout, Grid, Layout
from ..kernels.tuning import BLOCK_LINES, BLOCK_ROWS, COO_SEGMENT, LARGEST_GROUP, MORE_CONNECTIONS, chunk_tiles
from .cached import cached
from .granularity import Granularity
from .indices import INT32_MAX
from .patching import Patchable
from .pattern import SparsityPattern
from .sizes import Pair


class Plan(Patchable):
    """How a fully connected layer's pattern is walked, forward and transposed.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_features, in_features).
    format : {"csr", "coo"}
        Row by row, or in segments of equally many connections.
    moving : bool
        Share no array with the pattern, so that the plan can be patched when connections move.
    together : (int, int)
        Neighbouring rows, and inputs, whose connections move together: they are walked in groups even so.

    Raises
    ------
    ValueError
        If the format is not one of these, or the pattern has too many rows or columns for 32-bit numbers.
    """

    DERIVED, DROPPED = ("forward", "transposed", "perm"), ("_transpose",)

    def __init__(
        self, pattern: SparsityPattern, format: str = "csr", *, moving: bool = False, together: Pair = (1, 1)
    ) -> None:
        if format not in ("csr", "coo"):
            raise ValueError(f"format must be 'csr' or 'coo', got {format!r}")
        if max(pattern.shape) > INT32_MAX:
            raise ValueError(f"a layer may have at most {INT32_MAX:,} inputs and outputs, got {pattern!r}")
        self.pattern = pattern
        self.format, self.moving, self.together = format, moving, together

    def grid(self, tiles: int) -> Grid:
        """Where y = W x finds x's lines and puts y's."""
        return linear_grid(tiles, self.pattern.shape[1], self.pattern.shape[0])

    def grid_t(self, tiles: int) -> Grid:
        """Where dx = Wᵀ dy finds dy's lines and puts dx's."""
        return linear_grid(tiles, self.pattern.shape[0], self.pattern.shape[1])

    def chunk(self, itemsize: int) -> int:
        """Tiles of ordinary arrays that are packed, computed and unpacked together."""
        return chunk_tiles(sum(self.pattern.shape) * LANES * itemsize, 1)

    @cached
    def forward(self) -> Layout | CooLayout:
        """The layout of y = W x and of dW."""
        offsets = own(self.pattern.indices, self.moving)
        return laid_out(self.pattern, offsets, self.format, moving=self.moving, together=self.together[0])

    @cached
    def transposed(self) -> Layout | CooLayout:
        """The layout of dx = Wᵀ dy; values must be brought into its order by `perm`."""
        pattern, _ = self._transpose
        offsets = own(pattern.indices, self.moving)
        return laid_out(pattern, offsets, self.format, moving=self.moving, together=self.together[1])

    @cached
    def perm(self) -> NDArray[np.integer]:
        """Where in the pattern's values each of the transpose's stands; for a full pattern, a matrix of that shape."""
        perm = own(self._transpose[1], self.moving)
        return perm.reshape(self.pattern.shape[::-1]) if self.pattern.is_full else perm

    @cached
    def _transpose(self) -> tuple[SparsityPattern, NDArray[np.integer]]:
        return self.pattern.transpose()

    # -- connections that move -------------------------------------------------------------------------------------

    @property
    def alone(self) -> bool:
        """Whether connections move, and rows share nothing and are walked whole, forward and transposed: the form of
        all such plans of one shape and as many connections, and all that is written anew when they move."""
        pattern = self.pattern
        return (
            self.moving and self.format == "csr" and self.together == (1, 1) and not pattern.is_full
            and not block_columns(pattern.shape, pattern.nnz) and not block_columns(pattern.shape[::-1], pattern.nnz)
        )  # fmt: skip

    def fits(self, fresh: Patchable) -> bool:
        """As for any plan, but where rows are alone nothing of the fresh one is made."""
        if not self.alone or fresh.pattern.nnz != self.pattern.nnz:
            return super().fits(fresh)
        if "transposed" in vars(self) or "perm" in vars(self):
            _ = self.transposed, self.perm  # both, while memory may still run out
        return True

    def patch(self, fresh: Patchable) -> None:
        """Take the numbers and the pattern of a fresh plan that fits."""
        if not self.alone:
            super().patch(fresh)
            return
        from ..kernels.cpu.turn import lay_rows, lay_turned

        pattern = fresh.pattern
        if "forward" in vars(self):
            lay_rows(pattern.indptr, pattern.indices, *_written(self.forward))
        if "transposed" in vars(self):
            lay_turned(pattern.indptr, pattern.indices, *_written(self.transposed), self.perm)
        vars(self).pop("_transpose", None)
        self.pattern = pattern

    def holds(self, pattern: SparsityPattern) -> bool:
        """Whether the forward layout, its rows alone, has room for another pattern of the same shape."""
        return self.alone and pattern.nnz <= len(self.forward.offsets) and not pattern.is_full

    def hold(self, pattern: SparsityPattern) -> None:
        """Write a pattern that it has room for into the forward layout, and nowhere else."""
        from ..kernels.cpu.turn import lay_rows

        lay_rows(pattern.indptr, pattern.indices, *_written(self.forward))


def _written(layout: Any) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The arrays of a layout of rows alone that depend on more than how many they are."""
    return layout.indptr, layout.cuts, layout.offsets


def own(array: NDArray[np.integer], moving: bool) -> NDArray[np.integer]:
    """The array, or a copy that may be written to where connections move."""
    return array.copy() if moving else array


def linear_grid(tiles: int, in_features: int, out_features: int) -> Grid:
    """The positions of a fully connected layer: one a tile."""
    return Grid(1, 0, 0, 1, 0, 0, tiles, in_features * LANES, out_features * LANES, LANES)


def laid_out(
    pattern: SparsityPattern, offsets: NDArray[np.integer], format: str, columns_per_block: int | None = None, *,
    alone: int | None = None, moving: bool = False, together: int = 1,
) -> Layout | CooLayout:  # fmt: skip
    """The layout of a format: `layout_of` for "csr", `coo_layout_of`, which knows no blocks, for "coo"."""
    if format == "coo":
        return coo_layout_of(pattern, offsets)
    return layout_of(pattern, offsets, columns_per_block, alone=alone, moving=moving, together=together)


def block_columns(shape: Pair, nnz: int) -> int:
    """Columns of a fully connected layer to walk before going on to the next row, 0 for all. See `block_channels`."""
    return block_channels(shape[1], shape[0], nnz, 4, MORE_CONNECTIONS)


def block_channels(channels: int, rows: int, nnz: int, lines: int, least: int) -> int:
    """Channels to walk before going on to the next row, 0 for all: so many that the lines which gather reads of them at
    once, of each channel as many as given, stay in a first-level cache.

    0 too where a row has fewer connections in a block, on average, than `least`. Rows in groups share what they load
    from the second level, and need no blocks. Blocks made for that level do not pay: walked row by row, connections
    stream from memory, and in pieces they do not (bench/README.md).
    """
    most = BLOCK_LINES // lines
    if channels <= most or rows > BLOCK_ROWS:
        return 0
    block = -(-channels // -(-channels // max(most, 1)))  # as many in each, so that none is too short to pay
    return block if nnz * block >= least * max(rows, 1) * channels else 0


def layout_of(
    pattern: SparsityPattern, offsets: NDArray[np.integer], columns_per_block: int | None = None, *,
    alone: int | None = None, moving: bool = False, together: int = 1,
) -> Layout:  # fmt: skip
    """Gather a pattern's rows into groups that share their columns.

    Parameters
    ----------
    pattern : SparsityPattern
    offsets : integer array, shape (nnz,)
        Line of x that each connection reads: the pattern's columns, or offsets into an image.
    columns_per_block : int, optional
        Columns that are walked together, 0 for all in one block. If not given, all where rows make groups, and where
        they do not, `alone`.
    alone : int, optional
        Chosen by the pattern if not given: as suits a fully connected layer.
    moving : bool
        Connections will move, and the layout is to keep its form: rows that happen to share their columns, such as
        those without any, make no groups then.
    together : int
        So many neighbouring rows move together, and make groups as long as they share their columns.
    """
    indptr = pattern.indptr.astype(np.int64)
    alone = block_columns(pattern.shape, pattern.nnz) if alone is None else alone
    grouped = together > 1 and Granularity(together).units(pattern.shape).of(pattern) is not None
    if columns_per_block is None and moving and not pattern.is_full and not grouped:
        columns_per_block = alone
    if columns_per_block == 0 and moving and not pattern.is_full and not grouped:
        return _rows_alone(indptr, offsets)
    rows, starts, leaders = _neighbours(pattern, together) if moving and grouped else _groups(pattern, moving)
    first = rows[starts[:-1]]
    length = pattern.fan_in[first]
    sizes = starts[1:] - starts[:-1]
    most = int(sizes.max(initial=1))
    if columns_per_block is None:
        columns_per_block = alone if most == 1 else 0
    edges = np.arange(columns_per_block, pattern.shape[1], columns_per_block) if columns_per_block else np.arange(0)
    cuts = np.empty((len(edges) + 2, len(first)), np.int32)
    cuts[0], cuts[-1] = 0, length
    if len(edges):
        begin = np.arange(pattern.shape[0]) * np.int64(pattern.shape[1])  # of each row, in the whole matrix
        positions = np.repeat(begin, pattern.fan_in) + pattern.indices  # they increase; a pattern would keep its rows
        cuts[1:-1] = np.searchsorted(positions, begin[first] + edges[:, np.newaxis]) - indptr[first]
    if most == 1:  # every row is a group: one array serves for several, since rows are many where this matters
        rows, runs, work = starts[:-1], indptr[:-1], indptr
    else:
        runs, work = indptr[leaders], np.zeros(len(starts), np.int64)
        np.cumsum(length * sizes, out=work[1:])
    return Layout(indptr, rows, starts, runs, cuts, work, np.ascontiguousarray(offsets, np.int32), most)


def _rows_alone(indptr: NDArray[np.int64], offsets: NDArray[np.integer]) -> Layout:
    """The layout of rows that share nothing and are walked whole, which an update of moving connections makes anew."""
    alone = np.arange(len(indptr), dtype=np.int32)
    cuts = np.zeros((2, len(indptr) - 1), np.int32)
    np.subtract(indptr[1:], indptr[:-1], out=cuts[1], casting="same_kind")
    return Layout(indptr, alone[:-1], alone, indptr[:-1], cuts, indptr, np.ascontiguousarray(offsets, np.int32), 1)


def coo_layout_of(pattern: SparsityPattern, offsets: NDArray[np.integer], segment: int = COO_SEGMENT) -> CooLayout:
    """Cut a pattern's connections into segments.

    Parameters
    ----------
    pattern : SparsityPattern
    offsets : integer array, shape (nnz,)
        Line of x that each connection reads.
    segment : int
        Connections of a segment, and up to twice as many where that keeps a row whole: only longer rows are cut.
    """
    nnz, rows, indptr = pattern.nnz, pattern.rows, pattern.indptr.astype(np.int64)
    begin = np.arange(0, nnz, segment)
    end_of_row = indptr[rows[begin - 1] + 1]  # of the row before; row -1's is not used
    begin[1:] = np.where(end_of_row < begin + segment, end_of_row, begin)[1:]
    begin = begin[begin < nnz]
    end = np.append(begin[1:], nnz)[: len(begin)]
    row, last = rows[begin], rows[end - 1]
    whole = np.where(indptr[row] < begin, np.minimum(indptr[row + 1], end), begin)
    tail = np.where(indptr[last + 1] > end, np.maximum(indptr[last], whole), end)
    edges = np.stack([np.append(edge, nnz) for edge in (begin, whole, tail)], axis=1)
    return CooLayout(
        np.ascontiguousarray(rows, np.int32), np.ascontiguousarray(offsets, np.int32), edges,
        np.flatnonzero(indptr[1:] == indptr[:-1]).astype(np.int32), pattern.shape[0], int(np.sum(whole > begin)),
    )  # fmt: skip


def _neighbours(
    pattern: SparsityPattern, together: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.integer]]:
    """What `_groups` gives, for so many neighbouring rows that share their columns, whatever other rows have."""
    count = pattern.shape[0]
    pieces = -(-together // LARGEST_GROUP)  # of nearly equal size
    within = np.arange(pieces) * together // pieces
    starts = (np.arange(0, count, together)[:, np.newaxis] + within).ravel()
    starts = np.append(starts[starts < count], count).astype(np.int32)
    return np.arange(count, dtype=np.int32), starts, starts[:-1]


def _groups(
    pattern: SparsityPattern, moving: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.integer]]:
    """Row numbers group by group, where each group starts, and for each group the row whose columns stand for it.

    Rows with the same columns need not be adjacent: RadiX-Net's stand a period apart. A class of such rows is cut into
    groups of nearly equal size.
    """
    from ..kernels.cpu.rows import gather_rows, row_keys, row_leaders  # compiling waits until a plan is wanted

    count = pattern.shape[0]
    leaders, sizes = np.zeros(count, np.int32), np.full(count, count, np.int32)
    groups = -(-count // LARGEST_GROUP)
    if not pattern.is_full and moving:
        groups = count
    elif not pattern.is_full:
        keys = np.empty(count, np.uint64)
        row_keys(pattern.indptr, pattern.indices, keys)
        table = np.full(1 << count.bit_length(), -1, np.int32)
        groups = row_leaders(pattern.indptr, pattern.indices, keys, table, LARGEST_GROUP, leaders, sizes)
    if groups == count:
        alone = np.arange(count + 1, dtype=np.int32)
        return alone[:-1], alone, alone[:-1]
    rows, starts, firsts = np.empty(count, np.int32), np.empty(groups + 1, np.int32), np.empty(groups, np.int32)
    gather_rows(leaders, sizes, LARGEST_GROUP, rows, starts, firsts)
    return rows, starts, firsts
