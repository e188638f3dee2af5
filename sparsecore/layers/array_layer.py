"""A layer of one's own in plain NumPy: two methods on ordinary arrays."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from ..runtime.arrays import real_numbers
from ..runtime.tiles import LANES, Tiles, rows_of_tiles, tiled
from ..runtime.workspace import Workspace
from .layer import Layer, Params

Array = np.ndarray[Any, Any]


class ArrayLayer(Layer):
    """A layer whose passes are written for ordinary arrays, samples first, and run in Python at every step.

    A subclass sets `in_shape`, `out_shape` and `params`, which are flat arrays, and writes `forward_array` and
    `backward_array`. It works on every device; on a GPU, on copies. It is slower than a layer that calls kernels only,
    which is said once.
    """

    @abstractmethod
    def forward_array(self, x: Array, *, training: bool) -> tuple[Array, Any]:
        """y of shape (batch, *out_shape), and whatever the backward pass needs, from x of shape (batch, *in_shape)."""

    @abstractmethod
    def backward_array(self, dy: Array, cache: Any) -> tuple[Array, Params]:
        """dx of shape (batch, *in_shape), and the gradients by the parameters' names, from dy of shape (batch,
        *out_shape); a gradient may have any shape of its parameter's size."""

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        rows = rows_of_tiles(x.data, x.batch).reshape(x.batch, *self.in_shape)
        y, cache = self._pair(self.forward_array(rows, training=workspace.training), "forward_array", "y and a cache")
        return self._tiles(y, self.out_shape, "forward_array", x.batch, x.data.dtype), cache

    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        rows = rows_of_tiles(dy.data, dy.batch).reshape(dy.batch, *self.out_shape)
        dx, grads = self._pair(self.backward_array(rows, cache), "backward_array", "dx and gradients by name")
        flat = {name: np.reshape(grads[name], -1) for name in self.params if name in grads}
        if not need_dx:
            return None, flat
        return self._tiles(dx, self.in_shape, "backward_array", dy.batch, dy.data.dtype), flat

    def _pair(self, found: Any, method: str, wanted: str) -> Any:
        pair = isinstance(found, tuple) and len(found) == 2
        if not pair or (method == "backward_array" and not isinstance(found[1], dict)):
            raise TypeError(f"{self!r}: {method} must give {wanted}, got {type(found).__name__}")
        return found

    def _tiles(self, rows: Any, shape: tuple[int, ...], method: str, batch: int, dtype: Any) -> Tiles:
        found = real_numbers(np.asarray(rows), self, f"what {method} gives")
        if found.shape != (batch, *shape):
            raise ValueError(f"{self!r}: {method} must give an array of shape {(batch, *shape)}, got {found.shape}")
        return Tiles(tiled(found.reshape(batch, -1), dtype).reshape(-1, *shape, LANES), batch)
