"""ReLU as a layer of its own. Sparse layers have one built in, which costs nothing; this one goes anywhere."""

from __future__ import annotations

from typing import Any

from ..runtime.recording import recorded
from ..runtime.tiles import Tiles
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import spell
from .layer import Graph, Layer, Params


class ReLU(Layer):
    """y = max(x, 0).

    Parameters
    ----------
    shape : tuple of int
        Of one sample.
    """

    halves = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.params = {}
        self.in_shape = self.out_shape = tuple(shape)

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self._check_any(x)
        y = workspace.array("y", x.data.shape, x.data.dtype)
        workspace.kernels.relu(x.data, y)
        return Tiles(y, x.batch, rectified=True), (y, x.batch)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        y, batch = cache
        self._check_dy(dy, y, batch)
        if dy.masked:
            return dy, {}
        dx = workspace.array("dx", y.shape, y.dtype)
        workspace.kernels.mask(dy.data, y, dx)
        # If x came out of a ReLU itself, this is that one's mask too.
        return Tiles(dx, dy.batch, masked=True), {}

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        y = workspace.array("y", x.shape, x.dtype)
        workspace.kernels.relu(x, y)
        return y

    def export(self, graph: Graph, path: str) -> None:
        """A Relu."""
        graph.reshape(f"{path}.in", self.in_shape)
        graph.node(path, "Relu")

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"shape": list(self.in_shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> ReLU:
        return cls(tuple(config["shape"]))

    def __repr__(self) -> str:
        return f"ReLU({spell(self.in_shape)})"
