"""Buffers and kernels for one thread. Layers hold none, so that several threads can use one layer at once."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..kernels.layout import LANES
from .arrays import unfit
from .border import NO_BORDER, Border, bordered
from .device import Device, place_of
from .devices import cpu
from .ranks import Ranks
from .recording import Buffer, buffer
from .scratch import nowhere


class Sampled(NamedTuple):
    """The operands of a layer's dW: any connection's gradient can be sampled from them, stored or not.

    Attributes
    ----------
    grid : Grid
    dy, x : arrays
    strips : int
        Into how many images are cut: see `ConvPlan.strips`.
    """

    grid: Any
    dy: Any
    x: Any
    strips: int = 1


class SampledRows(NamedTuple):
    """The same of a pass over ordinary arrays: dy, x, and the tiles of y that a ReLU's mask is read from.

    dy is the caller's own array.
    """

    dy: Any
    x: Any
    seen: Any


class Share(NamedTuple):
    """What is known of a batch of which each rank of an MPI job takes some rows.

    Attributes
    ----------
    ranks : Ranks
    batch : int
        Samples of the whole.
    rows : tuple of int
        How many each rank takes.
    norms : bool
        Whether batch normalisation is of the whole.
    """

    ranks: Ranks
    batch: int
    rows: tuple[int, ...]
    norms: bool


class Ahead(NamedTuple):
    """What comes right behind a layer, which may do it at once and then says so by its Tiles.

    Attributes
    ----------
    border : Border
        Zeros around images that the next layer reads.
    around : Tiles, optional
        What is added to the layer's output.
    relu : bool
        Whether a ReLU follows that sum.
    inside : bool
        Whether another layer takes what this one gives, and not who asked the network.
    """

    border: Border = NO_BORDER
    around: Any = None
    relu: bool = False
    inside: bool = True


class Workspace:
    """Named arrays that are allocated once and reused while their shape stays the same.

    Parameters
    ----------
    device : Device, optional
        The CPU if not given.
    kernels : optional
        What to launch kernels with: the device's own launcher if not given, or a recorder.
    training : bool
        Whether what is computed is a step of training; children's too. Dropout does nothing outside it.
    position : int64 device array, optional
        Where in the data a batch is: its first sample, the epoch and the seed, from which random numbers are made.
        Kernels read it when they run, so that each run of a recorded step draws its own.
    stream : int
        Makes the random numbers of a network's layers differ.

    Attributes
    ----------
    ahead : Ahead
        What comes behind the layer in its forward pass; a layer that holds layers says it before each call.
    more : bool
        Whether gradients of parameters are added to what is there: to those of the same batch's chunks before.
    whole : bool
        Whether what a layer is given is a whole batch, not one of its chunks.
    passing : dict, optional
        Where a recording's arrays are noted by their names, several if their shape changes: others write to their
        memory between two runs, so that borders are made zero in each.
    onto : Tiles, optional
        A gradient that is added to the one that this layer gives back; its array may be written over. A layer that has
        added it there says so by its Tiles.
    back_border : Border
        Zeros that the layer before reads around the gradient that this one gives back.
    share : Share, optional
        What other ranks take of the same batch; children's too. A step sets it.
    kernels_given : bool
        Whether these are others than the device's own launcher.
    recording : bool
        Whether kernels are only written down. Arrays are then handed out without values: see `runtime.recording`.
    """

    def __init__(
        self, device: Device | None = None, kernels: Any = None, *, training: bool = False, position: Any = None,
        stream: int = 0,
    ) -> None:  # fmt: skip
        self.device = device if device is not None else cpu()
        if position is not None and not isinstance(position, Buffer):
            found = f"{getattr(position, 'dtype', type(position).__name__)} of shape {getattr(position, 'shape', '?')}"
            if not self.device.owns(position) or position.dtype != np.int64 or position.shape != (3,):
                raise ValueError(f"a workspace's position must be three int64 numbers on its device, got {found}")
            if why := unfit(position, written=False):
                raise ValueError(f"a workspace's position must be a contiguous array, got {why}")
        self.kernels = kernels if kernels is not None else self.device.launcher()
        self.training, self.position, self.stream = training, position, stream
        self.recording = getattr(self.kernels, "recording", False) is True
        self.kernels_given = kernels is not None
        self.ahead, self.back_border, self.more, self.whole = Ahead(), NO_BORDER, False, True
        self.passing: dict[str, list[Any]] | None = None
        self.onto: Any = None
        self.share: Share | None = None
        self._arrays: dict[str, Any] = {}
        self._children: dict[Any, Workspace] = {}
        self._played: Workspace | None = None  # the same arrays with values, where this one only records
        self._buffers: dict[str, tuple[Any, Any]] = {}
        self._sampled: Sampled | SampledRows | None = None
        self.sampling: Any = None  # how the gradient of other connections was sampled last: a recorded call
        self.sampled_plan: Any = None  # or, after a pass over ordinary arrays, their plan
        self._owner: Any = None  # a weak reference to the network that computes here
        if self.recording:
            self._plays_in(Workspace(self.device, training=training, position=position, stream=stream))

    def array(self, name: str, shape: tuple[int, ...], dtype: Any, *, zero: bool = False) -> Any:
        """The array of this name; uninitialised, or zero, when it is new or its shape or dtype has changed."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            if self.passing is None:
                found = (self.device.zeros if zero else self.device.empty)(shape, dtype)
            else:
                found = nowhere(shape, dtype)
                self.passing.setdefault(name, []).append(found)
            self._arrays[name] = found
        return self._handed_out(name, found)

    def images(self, name: str, tiles: int, shape: tuple[int, ...], border: Border, dtype: Any) -> tuple[Any, Any]:
        """Images of a shape (channels, height, width), and the array within whose border of zeros they lie.

        Without a border that array is None.
        """
        if border == NO_BORDER:
            return self.array(name, (tiles, *shape, LANES), dtype), None
        name, passes = f"padded {name}", self.passing is not None
        known = self._arrays.get(name)
        within = self.array(name, (tiles, *bordered(shape, border), LANES), dtype, zero=not passes)
        if passes and self._arrays[name] is not known:
            nothing = np.zeros(LANES, dtype)
            for edge in border.edges(within):
                self.kernels.place(np.broadcast_to(nothing, edge.shape), edge)
        return border.interior(within), within

    def contiguous(self, name: str, data: Any) -> Any:
        """The data, or a copy of images that lie within a border."""
        if data.flags.c_contiguous:
            return data
        out = self.array(f"{name} without its border", data.shape, data.dtype)
        self.kernels.place(data, out)
        return out

    def find(self, name: str) -> Any:
        """The array of this name, or None."""
        found = self._arrays.get(name)
        return None if found is None else self._handed_out(name, found)

    def put(self, name: str, array: Any) -> None:
        """Let `array` be the array of this name: how a network makes layers write into its own flat arrays.

        Raises
        ------
        TypeError
            If it is not on the workspace's device.
        ValueError
            If it is not contiguous, or cannot be written to.
        """
        if not isinstance(array, Buffer):  # which stands for one that was looked at before
            if not self.device.owns(array):
                raise TypeError(f"a workspace on {self.device.name}: {name} is on {place_of(array)}")
            if why := unfit(array):
                raise ValueError(f"a workspace: {name} must be a contiguous array that can be written to, got {why}")
        self._arrays[name] = array

    def sample(self, grid: Any, dy: Any, x: Any, strips: int = 1) -> None:
        """Remember from what a layer's dW is computed: the grid, dy and x that `kernels.sddmm` is called with."""
        self.played._sampled = Sampled(grid, _with_values(dy), _with_values(x), strips)

    def sample_rows(self, dy: Any, x: Any, seen: Any) -> None:
        """Remember the same of a pass over ordinary arrays."""
        self._sampled = SampledRows(dy, x, seen)

    @property
    def sampled(self) -> Sampled | SampledRows | None:
        """What `sample` or `sample_rows` was last given; the arrays hold the numbers of the last step that ran here."""
        return self.played._sampled

    def child(self, key: Any, stream: int | None = None) -> Workspace:
        """The workspace of one use of a layer.

        Parameters
        ----------
        key : hashable
            A layer's name within the layer that holds it; a number stands for the same name.
        stream : int, optional
            Of the layer's random numbers; the key if that is a number, and this workspace's own otherwise.
        """
        if isinstance(key, int):
            stream, key = key if stream is None else stream, str(key)
        if key not in self._children:
            if self._played is not None:
                self._children[key] = self._played.child(key, stream).recorded_by(self.kernels)
            else:
                self._children[key] = made = Workspace(
                    self.device, self.kernels, training=self.training, position=self.position, stream=self.stream
                )
                made.kernels_given, made.share = self.kernels_given, self.share
        found = self._children[key]
        if stream is not None:
            found.stream = stream
            if found._played is not None:
                found._played.stream = stream
        return found

    def belong_to(self, network: Any) -> None:
        """Be this network's: arrays go by its layers' paths, and another's would be written over.

        Raises
        ------
        ValueError
            If it is another network's that is still there.
        """
        place = self.played
        owner = None if place._owner is None else place._owner()
        if owner is network:
            return
        if owner is not None:
            raise ValueError(f"{network!r}: the workspace is that of another, {owner!r}: make one for each network")
        place._owner = weakref.ref(network)

    def at(self, path: str | int) -> Workspace:
        """The workspace of a layer further down, by its path; this one for an empty path."""
        workspace = self
        for name in str(path).split(".") if path != "" else ():
            workspace = workspace.child(name)
        return workspace

    def recorded_by(self, kernels: Any) -> Workspace:
        """A workspace for a recorder, on this one's arrays and its children's."""
        twin = copy.copy(self)
        twin.kernels, twin.recording = kernels, getattr(kernels, "recording", False) is True
        twin._children, twin._buffers = {}, {}
        twin._plays_in(self)
        return twin

    @property
    def played(self) -> Workspace:
        """Where what this one records will run: the same arrays, with values, and kernels that compute."""
        return self if self._played is None else self._played

    def _plays_in(self, played: Workspace) -> None:
        self._played, self._arrays = played, played._arrays
        if self.recording:
            self.position = buffer(played.position)

    def arrays(self) -> Iterator[Any]:
        """All arrays, children's included."""
        yield from self._arrays.values()
        for child in self._children.values():
            yield from child.arrays()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, children included."""
        return sum(int(array.nbytes) for array in self.arrays())

    def _handed_out(self, name: str, array: Any) -> Any:
        """The array; while a step is recorded, the one buffer that stands for it."""
        if not self.recording:
            return array
        known = self._buffers.get(name)
        if known is None or known[0] is not array:
            known = self._buffers[name] = array, buffer(array)
        return known[1]


def _with_values(array: Any) -> Any:
    """The array that a buffer stands for."""
    return array.view(np.ndarray) if isinstance(array, Buffer) else array
