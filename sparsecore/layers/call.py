"""How a layer that holds layers, or a network, calls one of them: the one place where every call passes."""

from __future__ import annotations

from typing import Any

from ..runtime.tiles import Tiles
from ..runtime.workspace import Workspace
from .layer import Layer, Params


def forward_through(layer: Layer, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
    """y, cache = the layer's forward pass; `workspace` is the layer's own."""
    return layer.forward_tiles(x, workspace)


def backward_through(
    layer: Layer, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
) -> tuple[Tiles | None, Params]:
    """dx, grads = the layer's backward pass."""
    return layer.backward_tiles(dy, cache, workspace, need_dx=need_dx)
