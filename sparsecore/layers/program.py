"""Layers recorded once for so many samples, and run again on samples that come later: answers without gradients.

A program reads the layers' parameters where they are, and so follows whatever is written into them. What else it looked
at while it was recorded, `LookedAt` knows.
"""

from __future__ import annotations

from operator import is_
from typing import Any, Protocol

import numpy as np

from ..runtime.device import Device
from ..runtime.halves import narrowed
from ..runtime.recording import Buffer
from ..runtime.tiles import LANES, Tiles, tiles_of
from ..runtime.workspace import Ahead, Workspace
from ..storage.few import Few
from . import KINDS
from .layer import Layer

Array = np.ndarray[Any, Any]

FEW = (1, 2, 4, 8)
"""Numbers of samples for which there are kernels of their own; more are computed in tiles."""

_MOST = 8
"""Numbers of samples that programs are kept for."""


class Program(Protocol):
    """One recording, on buffers of its own: for one thread at a time."""

    def run(self, rows: Array) -> Array:
        """What the layers give for rows (samples, features) of their dtype, as (samples, outputs); a new array."""


class Programs:
    """A tree of layers for any number of samples, and of threads.

    A call takes a program that nobody uses, or makes one: so each thread has its own, and a signal handler that
    interrupts a call does too.

    Parameters
    ----------
    root : Layer
    dtype : float32 or float64
    device : Device
        Where the layers are.
    halves : bool
        Whether activations are in bfloat16. Up to eight samples, whose numbers lie side by side, never are.

    Attributes
    ----------
    known : bool
        Whether all layers are this package's own, of which it is known what they look at.
    """

    def __init__(self, root: Layer, dtype: Any, device: Device, *, halves: bool = False) -> None:
        kinds = set(KINDS.values())
        self.known = all(type(layer) in kinds for _, layer in root.walk())
        self._root, self._dtype, self._device, self._halves = root, dtype, device, halves
        self._few = self.known and device.name == "cpu"
        self._free: Few[int, list[Program]] = Few(_MOST)

    def run(self, rows: Array) -> Array:
        """As of a program, for at least one sample."""
        size = self._size(len(rows))
        free = self._free.get(size)
        if free is None:
            free = self._free[size] = []
        try:
            program = free.pop()
        except IndexError:
            program = self._made(size)
        found = program.run(rows)
        free.append(program)  # not after an error: whatever it left is not used again
        return found

    def prepare(self, samples: int) -> None:
        """Record what so many samples need."""
        self.run(np.zeros((samples, int(np.prod(self._root.in_shape))), self._dtype))

    def _size(self, samples: int) -> int:
        """For how many samples the program is that takes so many."""
        if samples <= FEW[-1] and self._few:
            return next(size for size in FEW if size >= samples)
        # A layer that is not ours may look at how many samples there are.
        return tiles_of(samples) * LANES if self.known else samples

    def _made(self, size: int) -> Program:
        if size in FEW and self._few:
            try:
                return _OfFew(self._root, size, self._dtype)
            except _UnknownWay:
                self._few = False
        samples = tiles_of(size) * LANES if self.known else size
        return _InTiles(self._root, samples, self._dtype, self._device, halves=self._halves)


class _UnknownWay(Exception):
    """There is a layer that does not know how to compute few samples."""


class _OfFew:
    """A program for 1, 2, 4 or 8 samples, whose numbers lie side by side."""

    def __init__(self, root: Layer, samples: int, dtype: Any) -> None:
        from ..kernels.cpu.few import FewLauncher  # compiling waits until a program is wanted
        from ..kernels.cpu.launch import Tape
        from ..runtime.devices import cpu

        self._tape = Tape()
        self._launcher = FewLauncher(cpu().pool, self._tape)
        x = cpu().zeros((int(np.prod(root.in_shape)), samples), dtype)
        y = root.forward_few(x, Workspace(kernels=self._launcher))
        if y is None:
            raise _UnknownWay
        self._given, self._found = x.T, _values(y).T

    def run(self, rows: Array) -> Array:
        samples = len(rows)  # perhaps fewer than there is room for: then others are computed once more
        self._given[:samples] = rows
        self._launcher.replay(self._tape)
        return self._found[:samples].copy()


class _InTiles:
    """A program for any number of samples, on any device; plain Python among the layers runs at every call."""

    def __init__(self, root: Layer, samples: int, dtype: Any, device: Device, *, halves: bool) -> None:
        self._device, self._launcher = device, device.launcher()
        kernels, self._tape = device.recorder()
        self._x = device.zeros((samples, int(np.prod(root.in_shape))), dtype)
        workspace = Workspace(device, kernels)
        tiles = workspace.array("x", (tiles_of(samples), *root.in_shape, LANES), dtype)
        kernels.pack(self._x, tiles)
        x = Tiles(tiles, samples)
        workspace.ahead = Ahead(inside=not halves)
        y, _ = root.forward_tiles(narrowed("narrow x", x, workspace) if halves else x, workspace)
        self._y = device.empty((samples, y.features), dtype)
        kernels.unpack(y.data, self._y)

    def run(self, rows: Array) -> Array:
        self._device.fill(self._x[: len(rows)], rows)
        self._launcher.replay(self._tape)
        return np.array(self._device.get(self._y[: len(rows)]))


def _values(array: Array) -> Array:
    """The array that a recording's buffer stands for."""
    return array.view(np.ndarray) if isinstance(array, Buffer) else array


class LookedAt:
    """All that recording layers of this package looks at, beside the values of arrays.

    These are the attributes of layers, and what stands in those that are lists or dicts. Where one is assigned anew,
    such as a pattern by a rewiring, it is another object, and what was recorded before must not be used.

    Parameters
    ----------
    root : Layer
        The tree as it is now.
    """

    def __init__(self, root: Layer) -> None:
        self._seen: list[tuple[Any, list[Any]]] = []
        waiting: list[Any] = [vars(root)]
        known = {id(root)}
        while waiting:
            container = waiting.pop()
            values = list(_inside(container))
            self._seen.append((container, values))
            for value in values:
                if isinstance(value, Layer) and id(value) not in known:
                    known.add(id(value))
                    waiting.append(vars(value))
                elif type(value) in (dict, list):
                    waiting.append(value)

    def is_same(self) -> bool:
        """Whether all of it is as it was. Takes a third of a microsecond for each layer's attributes."""
        for container, values in self._seen:
            now = _inside(container)
            if len(now) != len(values) or not all(map(is_, now, values)):
                return False
        return True


def _inside(container: Any) -> Any:
    return container.values() if type(container) is dict else container
