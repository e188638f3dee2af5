"""ReLU as a layer of its own. Sparse layers have one built in, which costs nothing; this one goes anywhere."""

from __future__ import annotations

from typing import Any

from ..tiles import Tiles
from ..workspace import Workspace
from .layer import Layer, Params


class ReLU(Layer):
    """y = max(x, 0).

    Parameters
    ----------
    shape : tuple of int
        Of one sample.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.params = {}
        self.in_shape = self.out_shape = tuple(shape)

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        y = workspace.array("y", x.data.shape, x.data.dtype)
        workspace.kernels.relu(x.data, y)
        return Tiles(y, x.batch, rectified=True), y

    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        if dy.masked:
            return dy, {}
        dx = workspace.array("dx", dy.data.shape, dy.data.dtype)
        workspace.kernels.mask(dy.data, cache, dx)
        return Tiles(dx, dy.batch), {}

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"shape": list(self.in_shape)}

    def __repr__(self) -> str:
        return f"ReLU({'×'.join(str(size) for size in self.in_shape)})"
