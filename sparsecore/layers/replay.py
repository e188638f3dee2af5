"""Kernel calls of a use of a layer or operator, recorded once, then run on other arrays than they were recorded on.

This is what embedding costs beside the kernels: a copy of the calls, a few addresses written into it, one Python call.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runtime.device import cpu
from ..runtime.tiles import Tiles
from ..runtime.workspace import Workspace
from .sparse import SparseLayer

Array = np.ndarray[Any, Any]


class Program:
    """Recorded calls in which some arrays are to be replaced.

    It uses buffers of its own, so a thread must have programs of its own.

    Parameters
    ----------
    tape : Tape
        From the CPU's `recorder`.
    stand_ins : sequence of arrays
        What the calls were recorded on in place of the arrays to come.
    """

    def __init__(self, tape: Any, stand_ins: Sequence[Array]) -> None:
        self._tape = tape  # keeps all other arrays alive
        self._calls = tape.calls[: tape.count].copy()
        self._places = [
            (k, slot, word - array.ctypes.data)
            for k, word in enumerate(self._calls.ravel().tolist())
            for slot, array in enumerate(stand_ins)
            if array.ctypes.data <= word < array.ctypes.data + array.nbytes
        ]

    def run(self, *addresses: int) -> None:
        """Run the calls on contiguous arrays of the stand-ins' shapes and dtypes at these addresses."""
        calls = self._calls.copy()
        words = calls.reshape(-1)
        for k, slot, offset in self._places:
            words[k] = addresses[slot] + offset
        cpu().pool.run(calls, len(calls), self._tape.parts)


class LayerProgram:
    """A layer's forward and backward pass for one batch size, with arrays of others as x, parameters and results.

    `forward.run(x, weight, bias, y, room)` and `backward.run(dy, room, weight, dx, dw, db)` take addresses; dx only if
    it was asked for, as 0 otherwise.

    Parameters
    ----------
    layer : SparseLayer
        Without ReLU. Its own parameters are not used.
    batch : int
    dtype : float32 or float64
    need_dx : bool

    Attributes
    ----------
    room : (shape, whether it must be zero at first)
        Of the array that `forward` leaves for `backward`.
    """

    def __init__(self, layer: SparseLayer, batch: int, dtype: Any, need_dx: bool) -> None:
        used = layer.with_params(np.zeros(layer.pattern.nnz, dtype), np.zeros(layer.pattern.shape[0], dtype))
        weight, bias = used.weight, used.bias
        x, dy = np.zeros((batch, *layer.in_shape), dtype), np.zeros((batch, *layer.out_shape), dtype)
        kernels, tape = cpu().recorder()
        y, cache = used.forward(x, Workspace(kernels=kernels))
        kept = cache[-2]  # all that backward reads where there is no ReLU
        room = kept.data if isinstance(kept, Tiles) else kept
        self.room = room.shape, not isinstance(kept, Tiles)
        self.zero_bias = bias
        self.forward = Program(tape, [x, weight, bias, y, room])
        kernels, tape = cpu().recorder()
        workspace = Workspace(kernels=kernels)
        workspace.child(used).put("packed dy", cache[-1])  # y's tiles have been unpacked: less to keep in the caches
        dx, grads = used.backward(dy, cache, workspace, need_dx=need_dx)
        dx = dx if need_dx else np.empty(0)
        self.backward = Program(tape, [dy, room, weight, dx, grads["weight"], grads["bias"]])


_MOST = 6
"""Programs that a thread keeps of one layer: batch sizes, with and without dx. Each has buffers of its own."""

_local = threading.local()


def program_of(layer: SparseLayer, batch: int, dtype: str, need_dx: bool) -> LayerProgram:
    """This thread's program of a layer."""
    if not hasattr(_local, "programs"):
        _local.programs = weakref.WeakKeyDictionary()
    programs = _local.programs.setdefault(layer, {})
    key = batch, dtype, need_dx
    if key not in programs:
        while len(programs) >= _MOST:
            del programs[next(iter(programs))]
        programs[key] = LayerProgram(layer, batch, dtype, need_dx)
    return programs[key]
