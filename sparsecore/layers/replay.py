"""A layer on ordinary arrays: packed, computed and unpacked a few tiles at a time, so that a tile stays in the cache.

Both passes are recorded once for a batch size, chunk after chunk on the same small buffers, then run on their caller's
arrays, in memory that all layers share. A backward pass packs x again: nothing packed is kept between the two. Images
are packed into the border that their layer reads, from whichever order their numbers lie in.
Gradients of parameters are summed over the chunks, whose borders depend on the layer's shape alone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..runtime.border import NO_BORDER, Border, places
from ..runtime.devices import cpu
from ..runtime.replay import Replay
from ..runtime.scratch import nowhere
from ..runtime.tiles import LANES, PAIRS, Tiles, tile_samples, tiles_of
from ..runtime.workspace import Workspace
from ..storage.few import Few

SparseLayer = Any  # which imports this module


class Chunk(NamedTuple):
    """Neighbouring samples of a batch that are computed together, and the tiles that they fill."""

    samples: slice
    tiles: slice
    batch: int


def chunks(batch: int, most: int, samples: int = LANES) -> Iterator[Chunk]:
    """The chunks of a batch, of at most so many tiles of so many samples each; an empty batch is one chunk."""
    for first in range(0, max(batch, 1), most * samples):
        last = min(first + most * samples, batch)
        yield Chunk(slice(first, last), slice(first // samples, -(-last // samples)), last - first)


def forward_of(layer: SparseLayer, batch: int, dtype: str, *, biased: bool, channels_last: bool = False) -> Replay:
    """This thread's replay of a layer's forward pass, on addresses of its caller's arrays.

    Runs on (x, weight, bias, y, seen): arrays of shape (batch, *in_shape), (nnz,), (rows,) and (batch, *out_shape), and
    y's tiles, of shape (tiles, *out_shape, LANES), which only a layer with a ReLU writes, and its backward pass reads.
    An address that is not used is 0. The layer's own parameters are not used. With `channels_last`, the numbers of x
    and y, images both, lie as (batch, height, width, channels). Where the dtype is bfloat16, x and y are, and a layer
    takes them so (`Layer.halves`); the others are float32.
    """
    key = "forward", batch, dtype, biased, layer.relu, channels_last
    return _replay(layer, key, lambda: _forward(_Arrays(layer, batch, dtype, biased, channels_last)))


def backward_of(
    layer: SparseLayer, batch: int, dtype: str, *, biased: bool, need_dx: bool, channels_last: bool = False
) -> Replay:
    """The same of its backward pass: runs on (dy, x, seen, weight, dx, dw, db), where dy and dx lie as x does."""
    key = "backward", batch, dtype, biased, layer.relu, need_dx, channels_last
    return _replay(layer, key, lambda: _backward(_Arrays(layer, batch, dtype, biased, channels_last), need_dx))


class _Arrays:
    """What a pass is recorded on: arrays that stand for those of its callers, and a workspace of its own.

    Nobody writes to the arrays, so that they take addresses but no memory.
    """

    def __init__(self, layer: SparseLayer, batch: int, dtype: str, biased: bool, channels_last: bool) -> None:
        rows, halves = layer.pattern.shape[0], dtype == "bfloat16"
        self.kept = kept = "float32" if halves else dtype  # of what is no activation
        self.weight, self.bias = nowhere((layer.pattern.nnz,), kept), nowhere((rows,), kept) if biased else None
        self.layer, self.channels_last = layer.with_params(self.weight, self.bias), channels_last
        self.dtype: Any = np.dtype(np.uint16 if halves else dtype)
        self.lines: Any = PAIRS if halves else self.dtype
        self.x, self.y = nowhere((batch, *layer.in_shape), self.dtype), nowhere((batch, *layer.out_shape), self.dtype)
        tiles = tiles_of(batch, self.lines)
        self.seen = nowhere((tiles, *layer.out_shape, LANES), self.lines) if layer.relu else None
        self.kernels, self.tape = cpu().recorder()
        self.workspace = Workspace(kernels=self.kernels)
        self.passing: dict[str, list[Any]] = {}
        self.workspace.passing = self.passing
        self.chunks = list(chunks(batch, layer.plan.chunk(self.lines.itemsize), tile_samples(self.lines)))
        self.workspace.whole = len(self.chunks) == 1 and not halves  # which know no strips
        self.x_border, self.dy_border = layer.borders(batch, whole=self.workspace.whole)

    def packed(self, rows: Any, name: str, border: Border) -> Tiles:
        """Tiles of some of the samples, written to the buffer of this name."""
        _, *shape = rows.shape
        tiles = tiles_of(len(rows), self.lines)
        if border == NO_BORDER:
            data, within = self.workspace.array(name, (tiles, *shape, LANES), self.lines), None
        else:
            data, within = self.workspace.images(name, tiles, tuple(shape), border, self.lines)
        self.kernels.pack(_flat(rows), data if within is None else within, self._places(rows, border))
        return Tiles(data, len(rows), border=border, within=within)

    def unpacked(self, tiles: Tiles, rows: Any) -> None:
        """What tiles hold, written to some of the samples."""
        data = tiles.data if tiles.within is None else tiles.within
        self.kernels.unpack(data, _flat(rows), self._places(rows, tiles.border))

    def _places(self, rows: Any, border: Border) -> Any:
        return places(rows.shape[1:], border, channels_last=self.channels_last)

    def replay(self, *stand_ins: Any) -> Replay:
        """What has been recorded, to be run on what stood there for others."""
        return Replay(self.tape, stand_ins, self.passing.values())


def _forward(it: _Arrays) -> Replay:
    for chunk in it.chunks:
        x = it.packed(it.x[chunk.samples], "packed x", it.x_border)
        if it.seen is not None:
            it.workspace.put("y", it.seen[chunk.tiles])
        y, _ = it.layer.forward_tiles(x, it.workspace)
        it.unpacked(y, it.y[chunk.samples])
    return it.replay(it.x, it.weight, it.bias, it.y, it.seen)


def _backward(it: _Arrays, need_dx: bool) -> Replay:
    dx, dw = nowhere(it.x.shape, it.dtype) if need_dx else None, nowhere(it.weight.shape, it.kept)
    db = None if it.bias is None else nowhere(it.bias.shape, it.kept)
    it.workspace.put("weight", dw)
    if db is not None:
        it.workspace.put("bias", db)
    for k, chunk in enumerate(it.chunks):
        x = it.packed(it.x[chunk.samples], "packed x", it.x_border)
        dy = it.packed(it.y[chunk.samples], "packed dy", it.dy_border if need_dx else NO_BORDER)
        cache = it.layer.cache_of(x, dy.data if it.seen is None else it.seen[chunk.tiles], it.workspace)
        it.workspace.more = k > 0
        found, _ = it.layer.backward_tiles(dy, cache, it.workspace, need_dx=need_dx)
        if found is not None and dx is not None:
            it.unpacked(found, dx[chunk.samples])
    return it.replay(it.y, it.x, it.seen, it.weight, dx, dw, db)


def _flat(rows: Any) -> Any:
    return rows.reshape(len(rows), int(np.prod(rows.shape[1:])))


_MOST = 12
"""Replays that a thread keeps of one layer: batch sizes, forward and backward. Each has buffers of its own."""

_local = threading.local()


def _replay(layer: SparseLayer, key: tuple[Any, ...], make: Callable[[], Replay]) -> Replay:
    if not hasattr(_local, "replays"):
        _local.replays = weakref.WeakKeyDictionary()
    replays = _local.replays.get(layer.plan)  # by structure: each has a plan of its own
    if replays is None:
        replays = _local.replays[layer.plan] = Few(_MOST)
    if key not in replays:
        replays[key] = make()
    found: Replay = replays[key]
    return found
