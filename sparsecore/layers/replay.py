"""A layer used alone: its passes recorded once for a batch size, then run on its caller's arrays."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from ..runtime.devices import cpu
from ..runtime.replay import Replay
from ..runtime.tiles import Tiles
from ..runtime.workspace import Workspace
from ..storage.few import Few
from .sparse import SparseLayer


class LayerReplay:
    """A layer's forward and backward pass for one batch size, on its caller's x, parameters and results.

    `forward.run(x, weight, bias, y, scratch)` and `backward.run(dy, scratch, weight, dx, dw, db)` take addresses;
    without `need_dx`, dx is 0.

    Parameters
    ----------
    layer : SparseLayer
        Without ReLU. Its own parameters are not used.
    batch : int
    dtype : float32 or float64
    need_dx : bool

    Attributes
    ----------
    scratch : (shape, whether it must be zero at first)
        Of the array that `forward` leaves for `backward`.
    """

    def __init__(self, layer: SparseLayer, batch: int, dtype: Any, need_dx: bool) -> None:
        used = layer.with_params(np.zeros(layer.pattern.nnz, dtype), np.zeros(layer.pattern.shape[0], dtype))
        weight, bias = used.weight, used.bias
        x, dy = np.zeros((batch, *layer.in_shape), dtype), np.zeros((batch, *layer.out_shape), dtype)
        kernels, tape = cpu().recorder()
        y, cache = used.forward(x, Workspace(kernels=kernels))
        *_, kept, packed_y, _ = cache  # all that backward reads where there is no ReLU is what is kept
        scratch = kept.data if isinstance(kept, Tiles) else kept
        self.scratch = scratch.shape, not isinstance(kept, Tiles)
        self.zero_bias = bias
        self.forward = Replay(tape, [x, weight, bias, y, scratch])
        kernels, tape = cpu().recorder()
        workspace = Workspace(kernels=kernels)
        workspace.child(used).put("packed dy", packed_y)  # y's tiles have been unpacked: less to keep in the caches
        dx, grads = used.backward(dy, cache, workspace, need_dx=need_dx)
        dx = dx if need_dx else np.empty(0)
        self.backward = Replay(tape, [dy, scratch, weight, dx, grads["weight"], grads["bias"]])


_MOST = 6
"""Replays that a thread keeps of one layer: batch sizes, with and without dx. Each has buffers of its own."""

_local = threading.local()


def replay_of(layer: SparseLayer, batch: int, dtype: str, need_dx: bool) -> LayerReplay:
    """This thread's replay of a layer."""
    if not hasattr(_local, "replays"):
        _local.replays = weakref.WeakKeyDictionary()
    replays = _local.replays.get(layer.plan)  # by structure: each has a plan of its own
    if replays is None:
        replays = _local.replays[layer.plan] = Few(_MOST)
    key = batch, dtype, need_dx
    if key not in replays:
        replays[key] = LayerReplay(layer, batch, dtype, need_dx)
    found: LayerReplay = replays[key]
    return found
