"""Buffers and kernels for one thread of use. Layers hold none, so that one layer can be used in several places at
once."""

from __future__ import annotations

import copy
from typing import Any

from .device import Device
from .devices import cpu


class Workspace:
    """Named arrays that are allocated once and reused while their shape stays the same.

    Parameters
    ----------
    device : Device, optional
        The CPU if not given.
    kernels : optional
        What to launch kernels with: the device's own launcher if not given, or a recorder.
    clock : int64 device array, optional
        In training: the batch's first sample, the epoch and the seed, which random numbers are made from. It is read
        when kernels run, so that a recorded step draws anew. None outside training.
    stream : int
        Tells the random numbers of a network's layers apart.
    """

    def __init__(
        self, device: Device | None = None, kernels: Any = None, *, clock: Any = None, stream: int = 0
    ) -> None:
        self.device = device if device is not None else cpu()
        self.kernels = kernels if kernels is not None else self.device.launcher()
        self.clock, self.stream = clock, stream
        self._arrays: dict[str, Any] = {}
        self._children: dict[Any, Workspace] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any, *, zero: bool = False) -> Any:
        """The array of this name; uninitialised, or zero, when it is new or its shape or dtype has changed."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            make = self.device.zeros if zero else self.device.empty
            found = self._arrays[name] = make(shape, dtype)
        return found

    def find(self, name: str) -> Any:
        """The array of this name, or None."""
        return self._arrays.get(name)

    def put(self, name: str, array: Any) -> None:
        """Let `array` be the array of this name: how a network makes layers write into its own flat arrays."""
        self._arrays[name] = array

    def child(self, key: Any, stream: int | None = None) -> Workspace:
        """The workspace of one use of a layer.

        Parameters
        ----------
        key : hashable
            A layer's name among those that are held together, or its number, which stands for the same name.
        stream : int, optional
            Of its random numbers; the key if that is a number, and this workspace's own otherwise.
        """
        if isinstance(key, int):
            stream, key = key if stream is None else stream, str(key)
        if key not in self._children:
            self._children[key] = Workspace(self.device, self.kernels, clock=self.clock, stream=self.stream)
        found = self._children[key]
        if stream is not None:
            found.stream = stream
        return found

    def at(self, path: str | int) -> Workspace:
        """The workspace of a layer further down, by its path."""
        workspace = self
        for name in str(path).split("."):
            workspace = workspace.child(name)
        return workspace

    def recording(self, kernels: Any) -> Workspace:
        """A workspace of the same arrays, children's too, for another recorder."""
        twin = copy.copy(self)
        twin.kernels = kernels
        twin._children = {key: child.recording(kernels) for key, child in self._children.items()}
        return twin

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, children included."""
        own = sum(int(array.nbytes) for array in self._arrays.values())
        return own + sum(child.nbytes for child in self._children.values())
