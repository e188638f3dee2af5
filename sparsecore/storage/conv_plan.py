"""A pattern bound to a convolution: offsets into images, the border these need, and the transposed pass in phases."""

from __future__ import annotations

from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import LANES, CooLayout, Grid, Layout, registers_of_line
from ..kernels.tuning import (
    BANDS_PAY,
    BANDS_SPARE,
    CACHE_SETS,
    CROWDED,
    FEWEST_CONNECTIONS,
    FOLD_PAYS,
    MORE_CONNECTIONS,
    chunk_tiles,
    gather_lines,
)
from ..runtime.border import NO_BORDER, Border, bordered
from .cached import cached
from .indices import index_dtype
from .patching import Patchable
from .pattern import SparsityPattern
from .plan import block_channels, laid_out

_SIDE = 1 << 15  # pixels along an image: larger ones would not fit in any memory, and are a mistake or an attack

Pair = tuple[int, int]
Shape = tuple[int, ...]


class Phase(NamedTuple):
    """dX at the inputs of one offset within a stride, or of several that have as many, and the connections that reach
    these.

    Attributes
    ----------
    origins : list of (int, int)
        First row and column of dx, for each offset.
    step : (int, int)
        The stride between rows, and columns.
    layout : Layout or CooLayout
        Of these connections; its rows are the input channels, for each offset.
    perm : integer array
        Where in the pattern's values each of the layout's stands.
    bands : int32 array, shape (rows, 2), optional
        See Grid.
    """

    origins: list[Pair]
    step: Pair
    layout: Layout | CooLayout
    perm: NDArray[np.integer]
    bands: NDArray[np.int32] | None

    def of(self, images: Any) -> Any:
        """This phase's pixels of images: of one offset, or all."""
        if len(self.origins) > 1:
            return images
        ((row, column),) = self.origins
        return images[:, :, row :: self.step[0], column :: self.step[1]]


class ConvPlan(Patchable):
    """How a convolution's pattern is walked, forward and transposed.

    Forward is a gather whose origin moves with the output position. Where filters stand out over an edge, images lie
    within a border of zeros, and the same gather reads these. Transposed, each input gathers from the outputs that read
    it. Which connections these use depends on its phase: its offset within a stride. Where a stride divides an image,
    all phases are walked together, so that dx is written once from start to end. Columns beyond dy's edges are zeros
    too; rows beyond them are skipped.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_channels, in_channels · kernel height · kernel width).
    in_shape, out_shape : (channels, height, width)
    kernel_size, stride, padding, dilation : (int, int)
        Vertical and horizontal.
    format : {"csr", "coo"}
        Row by row, or in segments of equally many connections.
    moving : bool
        Share no array with the pattern, so that the plan can be patched when connections move.
    together : (int, int)
        Neighbouring output and input channels whose connections move together: they are walked in groups even so.

    Raises
    ------
    ValueError
        If the format is not one of these, or images are too large for 32-bit numbers, or have a side of more than
        32,768 pixels.
    """

    DERIVED, DROPPED = ("forward", "phases"), ("_transpose",)

    def __init__(
        self, pattern: SparsityPattern, in_shape: Shape, out_shape: Shape, kernel_size: Pair, stride: Pair,
        padding: Pair, dilation: Pair, format: str = "csr", *, moving: bool = False,
        together: Pair = (1, 1),
    ) -> None:  # fmt: skip
        if format not in ("csr", "coo"):
            raise ValueError(f"format must be 'csr' or 'coo', got {format!r}")
        self.pattern, self.in_shape, self.out_shape, self.format = pattern, in_shape, out_shape, format
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.moving, self.together = moving, together
        self._folded: dict[int, ConvPlan] = {}
        self._places: dict[Shape, NDArray[np.int64]] = {}
        sides = [size + 2 * border for size, border in zip(in_shape[1:], padding, strict=True)]
        if max(sides) > _SIDE:  # before anything is counted along one
            got = max(sides)
            raise ValueError(f"an image may have sides of at most {_SIDE:,} pixels, padding included, got {got:,}")
        most, images = np.iinfo(np.int32).max, ((in_shape, self.x_border), (out_shape, self._beyond))
        pixels = max(prod(bordered(shape, border)) for shape, border in images)
        if pixels > most:
            raise ValueError(f"an image may have at most {most:,} pixels, border included, got {pixels:,}")

    def chunk(self, itemsize: int) -> int:
        """Images of ordinary arrays that are packed, computed and unpacked together, in tiles.

        Both borders are counted, if there are any: images are copied into them.
        """
        pixels = 0
        for shape, border in ((self.in_shape, self.x_border), (self.out_shape, self.dy_border)):
            pixels += prod(shape) + (prod(bordered(shape, border)) if border != NO_BORDER else 0)
        return chunk_tiles(pixels * LANES * itemsize, prod(self.out_shape[1:]))

    # ------------------------------------------------------------------------------------------ strips

    def strips(self, batch: int) -> int:
        """Into how many strips a batch's images are cut, to lie beside one another in the lanes that it leaves empty.

        1 where that does not pay: every line of x and y is then copied, and there must be arithmetic to spare.
        """
        strips = LANES // batch if batch else 1
        if strips < 2:
            return 1
        (_, *size), (_, high, wide) = self.in_shape, self.out_shape
        spared = self.pattern.nnz * wide * (high - -(-high // strips))
        lines = self.in_shape[0] * prod(size) + self.out_shape[0] * high * wide
        return strips if spared > FOLD_PAYS * lines else 1

    def folded(self, strips: int) -> ConvPlan:
        """The same convolution on strips: images with so many times fewer rows, and what filters read beyond these."""
        if strips == 1:
            return self
        if strips not in self._folded:
            rows = -(-self.out_shape[1] // strips)
            reach = (rows - 1) * self.stride[0] + (self.kernel_size[0] - 1) * self.dilation[0] + 1
            in_shape = self.in_shape[0], -(-reach // self.stride[0]) * self.stride[0], self.in_shape[2]
            out_shape = self.out_shape[0], rows, self.out_shape[2]
            self._folded[strips] = type(self)(
                self.pattern, in_shape, out_shape, self.kernel_size, self.stride, (0, self.padding[1]), self.dilation,
                self.format, moving=self.moving, together=self.together,
            )  # fmt: skip
        return self._folded[strips]

    def fits(self, fresh: Patchable) -> bool:
        """As for any plan, and for those of strips."""
        assert isinstance(fresh, ConvPlan)
        return super().fits(fresh) and all(own.fits(fresh.folded(k)) for k, own in self._folded.items())

    def patch(self, fresh: Patchable) -> None:
        """As for any plan, and for those of strips."""
        assert isinstance(fresh, ConvPlan)
        super().patch(fresh)
        for strips, own in self._folded.items():
            own.patch(fresh.folded(strips))

    # ------------------------------------------------------------------------------------------ forward

    @cached
    def x_border(self) -> Border:
        """What forward reads beyond x."""
        sides: list[int] = []
        for axis, padding in enumerate(self.padding):
            size, out = self.in_shape[1 + axis], self.out_shape[1 + axis]
            last = (out - 1) * self.stride[axis] + (self.kernel_size[axis] - 1) * self.dilation[axis] - padding
            # As wide on both sides, so that images lie alike before filters of any stride.
            sides += [padding, max(padding, last - (size - 1))]
        return Border(*sides)

    @cached
    def forward(self) -> Layout | CooLayout:
        """The layout of y = W ∗ x and of dW, for x within its border."""
        _, height, width = bordered(self.in_shape, self.x_border)
        c, ky, kx = self._coordinates()
        offsets = (c * height + ky * self.dilation[0]) * width + kx * self.dilation[1]
        block, moving, together = self._forward_block, self.moving, self.together[0]
        return laid_out(self.pattern, offsets, self.format, alone=block, moving=moving, together=together)

    @cached
    def _forward_block(self) -> int:
        """Columns to walk before going on to the next row, where rows make no groups."""
        (high, wide), (_, step), (_, apart) = self.kernel_size, self.stride, self.dilation
        pixels = min(_panel(), self.out_shape[2])
        lines = high * ((pixels - 1) * step + (wide - 1) * apart + 1)
        return self._block(self.in_shape[0], self.out_shape[0], lines, pixels >= 4)

    def _block(self, channels: int, rows: int, lines: int, gains: bool) -> int:
        """Columns of a block of channels of which gather reads so many lines each at once, 0 if blocks do not pay.

        They need more connections where they gain less.
        """
        taps = prod(self.kernel_size)
        least = FEWEST_CONNECTIONS if gains and taps > 1 else MORE_CONNECTIONS
        return taps * block_channels(channels, rows, self.pattern.nnz, lines, least)

    def grid(self, tiles: int, y: Any) -> Grid:
        """Positions of y (or dy), and where they read x within its border.

        Parameters
        ----------
        tiles : int
        y : array of shape (tiles, out_channels, height, width, LANES)
            Only its strides matter.
        """
        high, wide = ((size - 1) * apart + 1 for size, apart in zip(self.kernel_size, self.dilation, strict=True))
        reach = high, wide
        return self._grid(tiles, bordered(self.in_shape, self.x_border), self.stride, y, None, reach)

    # ------------------------------------------------------------------------------------------ transposed

    @cached
    def dy_border(self) -> Border:
        """What dX reads beyond dy.

        Bands skip rows beyond the edges; COO's segments have no bands, and blocks of channels neither: they need zeros
        there. So do images whose channels would otherwise wait for one another in a cache, where most are read at once.
        """
        spared = self._beyond._replace(top=0, bottom=0)
        crowded = self._crowded(spared) > max(CROWDED, self._crowded(self._beyond))
        most = 2 * self.pattern.nnz >= prod(self.pattern.shape)
        return self._beyond if self.format == "coo" or self._back_block or (crowded and most) else spared

    def _crowded(self, border: Border) -> int:
        """At every how many sets of a first-level cache dy's channels begin, within a border."""
        _, *size = bordered(self.out_shape, border)
        return gcd(prod(size), CACHE_SETS)

    @cached
    def _beyond(self) -> Border:
        """As far as the transposed filters reach beyond all edges of dy."""
        sides: list[int] = []
        for axis in (0, 1):
            before, after = 0, 0
            for phase in range(min(self.stride[axis], self.in_shape[1 + axis])):
                _, shifts = self._reach(phase, axis)
                if shifts.size:
                    last = self._count(phase, axis) - 1 + int(shifts.max())
                    before, after = max(before, -int(shifts.min())), max(after, last - (self.out_shape[1 + axis] - 1))
            sides += [before, after]
        return Border(*sides)

    @cached
    def _back_block(self) -> int:
        """Columns of the transpose to walk before going on to the next row; 0 for the bands of image rows.

        Where rows share columns going forward, they may well do so here.
        """
        forward = self.forward
        if self.together[1] > 1 or isinstance(forward, CooLayout) or forward.most_group > 1:
            return 0
        if self._beyond_rows >= BANDS_PAY:  # bands spare more than blocks gain
            return 0
        high, wide = (-(-size // step) for size, step in zip(self.kernel_size, self.stride, strict=True))
        phases = prod(min(step, size) for step, size in zip(self.stride, self.in_shape[1:], strict=True))
        pixels = min(_panel(), self._count(0, 1))
        gains = pixels >= 4 and self._beyond_rows < BANDS_SPARE
        return self._block(self.out_shape[0], phases * self.in_shape[0], high * (pixels - 1 + wide), gains)

    @property
    def _beyond_rows(self) -> float:
        """The share of dX's multiply-adds that lie beyond dy's first and last rows."""
        count, outside = 0, 0
        for phase in range(min(self.stride[0], self.in_shape[1])):
            _, shifts = self._reach(phase, 0)
            rows = np.arange(self._count(phase, 0))[:, np.newaxis] + shifts
            outside += int(np.count_nonzero((rows < 0) | (rows >= self.out_shape[1])))
            count += rows.size
        return outside / max(count, 1)

    @cached
    def phases(self) -> list[Phase]:
        """One for each offset within a stride, or for all: together they write every element of dx."""
        rows, columns = (range(min(step, size)) for step, size in zip(self.stride, self.in_shape[1:], strict=True))
        origins = [(a, b) for a in rows for b in columns]
        even = not any(size % step for step, size in zip(self.stride, self.in_shape[1:], strict=True))
        whole = even and self.format == "csr" and self.in_shape[0] % self.together[1] == 0
        made = [self._phase(origins)] if whole else [self._phase([each]) for each in origins]
        vars(self).pop("_transpose", None)  # as large as all that stays
        return made

    def phase_grid(self, phase: Phase, tiles: int, dx: Any) -> Grid:
        """Positions of one phase of dx, and where they read dy within its border.

        Parameters
        ----------
        phase : Phase
        tiles : int
        dx : array of shape (tiles, in_channels, height, width, LANES)
            Only its strides matter.
        """
        (first, _), (last, _) = phase.origins[0], phase.origins[-1]
        shifts = np.concatenate([self._reach(row, 0)[1] for row in (first, last)])
        high = self.dy_border.top + int(shifts.max(initial=0)) + 1
        y_shape, ((row, column), *_) = bordered(self.out_shape, self.dy_border), phase.origins
        first_of_all = dx[:, :, row :: phase.step[0], column :: phase.step[1]]
        grid = self._grid(tiles, y_shape, (1, 1), first_of_all, phase.bands, (high, y_shape[2]))
        if len(phase.origins) == 1:
            return grid
        steps = tuple(stride // dx.itemsize for stride in dx.strides[1:4])
        if steps not in self._places:
            corners = np.array([(0, *origin) for origin in phase.origins])[:, np.newaxis]
            channels = np.arange(self.in_shape[0])[:, np.newaxis] * (1, 0, 0)
            self._places[steps] = ((corners + channels) @ np.array(steps)).ravel()
        return grid._replace(places=self._places[steps])

    def _grid(
        self, tiles: int, x_shape: Shape, step: Pair, out: Any, bands: NDArray[np.int32] | None, reach: Pair
    ) -> Grid:
        """The grid of an image `out` whose positions read `reach` rows and columns of x, and the next as many from
        `step` on."""
        _, _, rows, columns = out.shape[:4]
        tile, channel, row, column = (stride // out.itemsize for stride in out.strides[:4])
        x_tile, x_row, x_column = prod(x_shape) * LANES, step[0] * x_shape[2] * LANES, step[1] * LANES
        planes, plane = x_shape[0], prod(x_shape[1:]) * LANES
        ahead, fresh, apart = max(step[0], reach[0]) * x_shape[2] * LANES, min(step[0], reach[0]) * x_shape[2], LANES
        if reach == (1, 1):  # filters of one pixel, which need no pixel between two of their steps
            fresh, apart = columns, x_column
        return Grid(
            tiles, x_tile, tile, rows, x_row, row, columns, x_column, column, channel, bands, planes, plane, ahead,
            fresh, apart,
        )  # fmt: skip

    def _phase(self, origins: list[Pair]) -> Phase:
        """The connections that reach the inputs of these offsets, offset by offset."""
        pattern, perm = self._transpose
        o, row, column = self._turned_coordinates(pattern)
        _, height, width = bordered(self.out_shape, self.dy_border)
        parts, offsets, perms = [], [], []
        for origin in origins:
            (ky, y_shift), (kx, x_shift) = (self._reach(phase, axis) for axis, phase in enumerate(origin))
            keep = np.isin(row, ky) & np.isin(column, kx)
            # Where the phase's first input reads dy through each connection, perhaps beyond an edge.
            y, x = y_shift[np.searchsorted(-ky, -row[keep])], x_shift[np.searchsorted(-kx, -column[keep])]
            offsets.append((o[keep] * height + y + self.dy_border.top) * width + x + self.dy_border.left)
            parts.append(pattern.select(keep))
            perms.append(perm[keep])
        reaches = [self._reach(phase, 0) for phase in sorted({phase for phase, _ in origins})]
        ky, y_shift = (np.concatenate(each) for each in zip(*reaches, strict=True))
        banded = self.format == "csr" and not self._back_block
        bands = _bands(ky, y_shift, self._count(origins[0][0], 0), self.out_shape[1]) if banded else None
        block = self._back_block or self.out_shape[0] * self.kernel_size[1]
        given = _stacked(parts), np.concatenate(offsets), self.format, block
        layout = laid_out(*given, moving=self.moving or not banded, together=self.together[1])
        if len(origins) > 1 and isinstance(layout, Layout) and _alike_by_chance(layout):
            layout = laid_out(*given, moving=True)
        return Phase(origins, self.stride, layout, np.concatenate(perms), bands)

    def _reach(self, phase: int, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which rows (axis 0) or columns k of a filter reach the inputs of a phase, and from which output, k falling.

        Input m·stride + phase is read by output m + shift through k where phase + padding − k·dilation = shift·stride.
        """
        k = np.arange(self.kernel_size[axis])[::-1]
        ahead = phase + self.padding[axis] - k * self.dilation[axis]
        reaches = ahead % self.stride[axis] == 0
        return k[reaches], ahead[reaches] // self.stride[axis]

    def _count(self, phase: int, axis: int) -> int:
        """Rows or columns of dx in a phase."""
        return -(-(self.in_shape[1 + axis] - phase) // self.stride[axis])

    @cached
    def _transpose(self) -> tuple[SparsityPattern, NDArray[np.integer]]:
        """Rows are input channels. Columns are (ky, output channel, kx), so that what a row of dx reads through a ky is
        one run, or in blocks of channels (output channel, ky, kx)."""
        c, ky, kx = self._coordinates()
        channels, out_channels, (high, wide) = self.in_shape[0], self.out_shape[0], self.kernel_size
        rows = np.repeat(np.arange(out_channels), self.pattern.fan_in)  # a pattern would keep its own
        columns = ((rows * high + ky) if self._back_block else (ky * out_channels + rows)) * wide + kx
        perm = np.lexsort((columns, c)).astype(index_dtype(len(c)), copy=False)  # which a plan keeps: half as large
        indptr = np.append(0, np.cumsum(np.bincount(c, minlength=channels)))
        return SparsityPattern((channels, high * out_channels * wide), indptr, columns[perm]), perm

    def _turned_coordinates(self, pattern: SparsityPattern) -> tuple[NDArray[np.int64], ...]:
        """Output channel, filter row and filter column of the transpose's connections."""
        (high, wide), columns = self.kernel_size, pattern.indices.astype(np.int64)
        if self._back_block:
            o, rest = np.divmod(columns, high * wide)
            return o, *np.divmod(rest, wide)
        row, rest = np.divmod(columns, self.out_shape[0] * wide)
        o, column = np.divmod(rest, wide)
        return o, row, column

    def _coordinates(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Input channel, filter row and filter column of each connection.

        Not kept: they are larger than all that is, and a plan that only goes forward would keep them for ever.
        """
        c, within = np.divmod(self.pattern.indices.astype(np.int64), prod(self.kernel_size))
        ky, kx = np.divmod(within, self.kernel_size[1])
        return c, ky, kx


def _registers() -> int:
    """Bytes of a register, for which LLVM is asked: not before a plan is wanted."""
    from ..kernels.compile import register_bytes

    return register_bytes()


def _panel() -> int:
    """Pixels that gather computes at once of a row alone."""
    return gather_lines(1, _registers(), registers_of_line(4, _registers() // 4))


def _bands(ky: NDArray[np.int64], shift: NDArray[np.int64], rows: int, high: int) -> NDArray[np.int32]:
    """For each row of dx, the range of filter rows through which an output reads it: shifts rise as ky falls."""
    bands = np.zeros((rows, 2), np.int32)
    for row in range(rows):
        valid = ky[(row + shift >= 0) & (row + shift < high)]
        if valid.size:
            bands[row] = valid.min(), valid.max() + 1
    return bands


def _alike_by_chance(layout: Layout) -> bool:
    """Whether its only groups are of rows without connections: these would keep others from taking more lines at
    once."""
    return layout.most_group > 1 and not layout.cuts[-1][np.diff(layout.starts) > 1].any()


def _stacked(patterns: list[SparsityPattern]) -> SparsityPattern:
    """One pattern of all their rows."""
    if len(patterns) == 1:
        return patterns[0]
    before = np.cumsum([0, *(each.nnz for each in patterns)])
    starts = [each.indptr[:-1] + first for each, first in zip(patterns, before[:-1], strict=True)]
    shape = sum(each.shape[0] for each in patterns), patterns[0].shape[1]
    indptr = np.concatenate([*starts, before[-1:]])
    return SparsityPattern(shape, indptr, np.concatenate([each.indices for each in patterns]))
