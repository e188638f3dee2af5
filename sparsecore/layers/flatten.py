"""Images become vectors: the same numbers in the same order."""

from __future__ import annotations

from math import prod
from typing import Any

from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import spell
from .layer import Graph, Layer, Params


class Flatten(Layer):
    """y = x, all of a sample's numbers in one row. Nothing is copied.

    Parameters
    ----------
    in_shape : tuple of int
        Of one sample.
    """

    halves = True

    def __init__(self, in_shape: tuple[int, ...]) -> None:
        self.params = {}
        self.in_shape, self.out_shape = tuple(in_shape), (prod(in_shape),)

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self._check(x, self.in_shape, x.data.dtype, "x")
        return Tiles(x.data.reshape(len(x.data), *self.out_shape, LANES), x.batch, rectified=x.rectified), x

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        self._check_dy(dy, cache.data, cache.batch)
        return Tiles(dy.data.reshape(cache.data.shape), dy.batch, masked=dy.masked), {}

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        """x, whose numbers lie in one row already."""
        return x

    def export(self, graph: Graph, path: str) -> None:
        """A Reshape."""
        graph.reshape(path, self.out_shape)

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"in_shape": list(self.in_shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> Flatten:
        return cls(tuple(config["in_shape"]))

    def __repr__(self) -> str:
        return f"Flatten({spell(self.in_shape)})"
