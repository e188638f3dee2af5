"""Packing: samples in rows become tiles of lanes, and back.

`(batch, features)` → `(tiles, features, LANES)`; the lanes of the last tile that hold no sample become zero.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..compile import njit
from ..layout import LANES, kept_size, samples_of_tile
from ..tuning import PACK_TILES
from .call import arguments, kernel, share
from .ir.pairs import clear_line, lower, upper, write
from .ir.transpose import gather_block, transpose_block
from .ir.vector import advance, element, floats, ints, stored
from .spmm import units_of

PACK_SAMPLES = arguments(
    "store", "row_bytes", "order", "at", "labels", "features", "batch", "scale", "shift", "out", "out_tile",
    "out_labels", "addresses",
)  # fmt: skip
PACK = arguments("rows", "row", "features", "batch", "tiles", "tile", "places")
CLEAR_LANES = arguments("x", "last", "features", "used")
WIDEN = arguments("x", "out", "numbers", "blocks")


@cache
def pack_samples_kernel(size: int, store_size: int, width: int) -> Any:
    """Gather shuffled samples from a store of uint8 or float32, normalise and transpose them, and gather their labels.

    Sample k of the batch is row `order[at[0] + k]` of the store. `addresses` is scratch: 16 words a tile.
    `width` is how many words of `out` a register holds.
    """

    kept, samples = kept_size(size), samples_of_tile(size)

    def pack_samples(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, PACK_SAMPLES)[0]
        order, labels, out_labels = ints(c.order, 8), ints(c.labels, 4), ints(c.out_labels, 4)
        scale, shift, out = floats(c.scale, kept), floats(c.shift, kept), floats(c.out, size)
        start = ints(c.at, 8)[0]
        first, last = share((c.batch + samples - 1) // samples, part, until, parts)
        for tile in range(first, last):
            addresses = advance(ints(c.addresses, 8), tile * samples)
            valid = min(samples, c.batch - tile * samples)
            for lane in range((valid + LANES - 1) // LANES * LANES):
                sample = order[start + tile * samples + min(lane, valid - 1)]
                addresses[lane] = c.store + sample * c.row_bytes
                out_labels[tile * samples + lane] = labels[sample] if lane < valid else -1
            whole = c.features // 16 * 16
            base = advance(out, tile * c.out_tile)
            for feature in range(0, whole, 16):
                block = advance(base, feature * LANES)
                gather_block(width, store_size, addresses, feature, scale, shift, valid, block)
            for feature in range(whole, c.features):
                factor, offset = scale[feature], shift[feature]
                for lane in range(LANES):
                    low = high = element(scale, 0.0)
                    if lane < valid:
                        low = stored(addresses[lane], store_size)[feature] * factor + offset
                    if lane + LANES < valid:
                        high = stored(addresses[lane + LANES], store_size)[feature] * factor + offset
                    write(base, feature * LANES + lane, low, high)

    return kernel(pack_samples)


@cache
def pack_kernel(size: int, placed: int, width: int) -> Any:
    """Transpose ordinary samples of the engine's own dtype into tiles; `placed` is 1 where each feature's line is
    said."""
    samples = samples_of_tile(size)

    def pack(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, PACK)[0]
        x, out = stored(c.rows, size), floats(c.tiles, size)
        tiles = (c.batch + samples - 1) // samples
        panels, pieces = units_of(1, 1, tiles, PACK_TILES, parts)
        item, final_item = share(panels * pieces, part, until, parts)
        while item < final_item:
            panel, first, whole, last, item = _piece(item, final_item, pieces, c.features)
            for tile in range(panel * PACK_TILES, min(tiles, (panel + 1) * PACK_TILES)):
                valid = min(samples, c.batch - tile * samples)
                rows, base = advance(x, tile * samples * c.row), advance(out, tile * c.tile)
                for feature in range(first, whole, 16):
                    lines = advance(ints(c.places, 4), feature)
                    block = base if placed == 1 else advance(base, feature * LANES)
                    transpose_block(width, 0, placed, advance(rows, feature), c.row, block, lines, valid)
                for feature in range(whole, last):
                    line = LANES * (ints(c.places, 4)[feature] if placed == 1 else feature)
                    for lane in range(LANES):
                        value = rows[lane * c.row + feature] if lane < valid else 0
                        if size == 2 and lane + LANES < valid:
                            base[line + lane] = value | np.uint32(rows[(lane + LANES) * c.row + feature]) << 16
                        else:
                            base[line + lane] = value

    return kernel(pack)


@njit
def _piece(item: int, final_item: int, pieces: int, features: int) -> tuple[int, int, int, int, int]:
    """What to transpose next: a panel of tiles, the features from the first to whole blocks of 16 to the last, and the
    item after them.

    Tiles and features are shared out as gather shares out tiles and rows, so that a thread finds in its cache what it
    computed or will read.
    """
    panel, blocks = item // pieces, (features + 15) // 16
    stop = min(final_item, (panel + 1) * pieces)
    first, last = share(blocks, item - panel * pieces, stop - panel * pieces, pieces)
    return panel, first * 16, min(last, features // 16) * 16, min(last * 16, features), stop


@cache
def clear_lanes_kernel(size: int) -> Any:
    """Zero in the lanes from `used` on of the tile that begins at `last`: those that hold no sample."""

    def clear_lanes(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, CLEAR_LANES)[0]
        x = advance(floats(c.x, size), c.last)
        first, last = share(c.features, part, until, parts)
        for feature in range(first, last):
            clear_line(x, feature * LANES, c.used)

    return kernel(clear_lanes)


@cache
def unpack_kernel(size: int, placed: int, width: int) -> Any:
    """Transpose tiles into ordinary samples; lanes that hold no sample are left out."""
    samples = samples_of_tile(size)

    def unpack(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, PACK)[0]
        x, out = floats(c.tiles, size), stored(c.rows, size)
        tiles = (c.batch + samples - 1) // samples
        panels, pieces = units_of(1, 1, tiles, PACK_TILES, parts)
        item, final_item = share(panels * pieces, part, until, parts)
        while item < final_item:
            panel, first, whole, last, item = _piece(item, final_item, pieces, c.features)
            for tile in range(panel * PACK_TILES, min(tiles, (panel + 1) * PACK_TILES)):
                valid = min(samples, c.batch - tile * samples)
                rows, base = advance(out, tile * samples * c.row), advance(x, tile * c.tile)
                for feature in range(first, whole, 16):
                    lines = advance(ints(c.places, 4), feature)
                    block = base if placed == 1 else advance(base, feature * LANES)
                    transpose_block(width, 1, placed, advance(rows, feature), c.row, block, lines, valid)
                for feature in range(whole, last):
                    line = LANES * (ints(c.places, 4)[feature] if placed == 1 else feature)
                    for lane in range(valid):
                        if size == 2:
                            rows[lane * c.row + feature] = base[line + lane % LANES] >> lane // LANES * 16
                        else:
                            rows[lane * c.row + feature] = base[line + lane]

    return kernel(unpack)


@cache
def widen_kernel() -> Any:
    """Two tiles of float32 of one of bfloat16; of the last, one if there are no samples for another."""

    def widen(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, WIDEN)[0]
        from_x, to = floats(c.x, 2), floats(c.out, 4)
        numbers, blocks = c.numbers, c.blocks  # numbers of a tile's words
        first, last = share(blocks, part, until, parts)
        for block in range(first, last):
            x, out = advance(from_x, block // 2 * numbers), advance(to, block * numbers)
            if block % 2 == 0:
                for k in range(numbers):
                    out[k] = lower(x, k)
            else:
                for k in range(numbers):
                    out[k] = upper(x, k)

    return kernel(widen)


@cache
def narrow_kernel() -> Any:
    """One tile of bfloat16 of two of float32; where there is no second, its lanes become zero."""

    def narrow(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, WIDEN)[0]
        from_x, to = floats(c.x, 4), floats(c.out, 2)
        numbers, blocks = c.numbers, c.blocks
        first, last = share((blocks + 1) // 2, part, until, parts)
        for tile in range(first, last):
            x, out = advance(from_x, 2 * tile * numbers), advance(to, tile * numbers)
            if 2 * tile + 1 < blocks:
                for k in range(numbers):
                    write(out, k, x[k], x[k + numbers])
            else:
                for k in range(numbers):
                    write(out, k, x[k], 0.0)

    return kernel(narrow)
