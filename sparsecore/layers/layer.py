"""What every layer is: parameters, a forward pass and a backward pass, for tiles or for ordinary arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..tiles import LANES, Tiles, tiles_of
from ..workspace import Workspace

Params = dict[str, Any]


class Layer(ABC):
    """A function with parameters, and its gradient.

    `forward` takes Tiles and gives Tiles, or an ordinary NumPy array `(batch, features)` and gives one. What `backward` needs
    travels in the cache. Layers hold no buffers: these belong to the workspace, and what a call returns is valid until the next
    call with the same workspace.

    Attributes
    ----------
    params : dict of str to array
        Flat arrays by name. `backward` gives gradients under the same names.
    """

    params: Params
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def forward(self, x: Any, workspace: Workspace | None = None) -> tuple[Any, Any]:
        """y, cache = forward(x).

        Parameters
        ----------
        x : Tiles, or array of shape (batch, *in_shape)
        workspace : Workspace, optional
            Where buffers come from; new ones are made if it is not given.

        Returns
        -------
        y : Tiles or array of shape (batch, *out_shape), as x was
        cache : object
            For `backward`.

        Raises
        ------
        ValueError
            If x has another shape.
        """
        workspace = workspace if workspace is not None else Workspace()
        if isinstance(x, Tiles):
            return self.forward_tiles(x, workspace)
        y, cache = self.forward_tiles(self._pack(x, self.in_shape, "x", workspace), workspace)
        return self._unpack(y, self.out_shape, workspace), cache

    def backward(
        self, dy: Any, cache: Any, workspace: Workspace | None = None, *, need_dx: bool = True
    ) -> tuple[Any, Params]:
        """dx, grads = backward(dy, cache).

        Parameters
        ----------
        dy : Tiles, or array of shape (batch, *out_shape)
            Gradient of the loss with respect to y.
        cache : object
            What `forward` returned.
        workspace : Workspace, optional
        need_dx : bool
            Without it dx is None and is not computed: the first layer of a network needs none.

        Returns
        -------
        dx : Tiles or array of shape (batch, *in_shape), or None
        grads : dict with the keys of `params`
            Overwritten, never accumulated.
        """
        workspace = workspace if workspace is not None else Workspace()
        if isinstance(dy, Tiles):
            return self.backward_tiles(dy, cache, workspace, need_dx=need_dx)
        tiles = self._pack(dy, self.out_shape, "dy", workspace)
        dx, grads = self.backward_tiles(tiles, cache, workspace, need_dx=need_dx)
        return (self._unpack(dx, self.in_shape, workspace) if need_dx else None), grads

    @abstractmethod
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """`forward` for tiles."""

    @abstractmethod
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """`backward` for tiles."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters; float32 where there are none."""
        return next((array.dtype for array in self.params.values()), np.dtype(np.float32))

    def _pack(self, x: Any, shape: tuple[int, ...], name: str, workspace: Workspace) -> Tiles:
        x = np.asarray(x)
        if x.ndim < 2 or (x.shape[1:] != shape and x.shape[1:] != (int(np.prod(shape)),)):
            wanted = ", ".join(str(size) for size in shape)
            raise ValueError(f"{self!r}: {name} must have shape (batch, {wanted}), got {x.shape}")
        batch = len(x)
        flat = np.ascontiguousarray(x.reshape(batch, -1), self.dtype)
        data = workspace.array(f"packed {name}", (tiles_of(batch), *shape, LANES), self.dtype)
        workspace.kernels.pack(workspace.device.put(flat), data)
        return Tiles(data, batch)

    def _unpack(self, y: Tiles, shape: tuple[int, ...], workspace: Workspace) -> Any:
        out = workspace.device.empty((y.batch, y.features), self.dtype)
        workspace.kernels.unpack(y.data, out)
        return workspace.device.get(out).reshape(y.batch, *shape)
