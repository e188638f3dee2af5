"""∂²loss/∂w², passed back from layer to layer as Optimal Brain Damage estimates it.

Without the Hessian's off-diagonal terms and without second derivatives of the activations, what is passed back through
a layer is its ordinary backward pass with squared weights on squared inputs. A layer gives, with its output, the
function that takes the curvature of that output back to its input and its parameters (`Layer.curvature`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..runtime.recording import shallow
from ..runtime.tiles import Tiles
from ..runtime.workspace import Workspace

Back = Callable[[Tiles, bool], tuple[Tiles | None, dict[str, Any]]]
"""`back(h, need_dx)` takes h of the output, masked if that is said to be rectified, to h of the input and, by name, of
the parameters."""


def curvature_of(layer: Any, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
    """The output of a layer that holds no others, and how curvature goes back through it."""
    y, cache = layer.forward_tiles(x, workspace)

    def back(h: Tiles, need_dx: bool) -> tuple[Tiles | None, dict[str, Any]]:
        child = workspace.child("curvature")
        if layer.params:
            below, grads = _squared_backward(layer, x, h, child, need_dx=need_dx)
        else:
            below, grads = layer.backward_tiles(h, cache, child, need_dx=need_dx)
        return None if below is None else behind_relu(below, x, child), grads

    return y, back


def behind_relu(h: Tiles, x: Tiles, workspace: Workspace) -> Tiles:
    """h, set to zero where the ReLU that gave x let nothing through."""
    if not x.rectified or h.masked:
        return h
    masked = workspace.array("h", h.data.shape, h.data.dtype)
    workspace.kernels.mask(h.data, x.data, masked)
    return Tiles(masked, h.batch, masked=True)


def _squared_backward(
    layer: Any, x: Tiles, h: Tiles, workspace: Workspace, *, need_dx: bool
) -> tuple[Tiles | None, dict[str, Any]]:
    """The backward pass with squared weights on squared inputs; ReLU's mask is in `h` already."""
    device, squared = layer.device, shallow(layer)
    squared.params = {name: device.put(device.get(array) ** 2) for name, array in layer.params.items()}
    inputs = workspace.array("x²", x.data.shape, x.data.dtype)
    device.fill(inputs, device.get(x.data) ** 2)
    _, cache = squared.forward_tiles(Tiles(inputs, x.batch), workspace)
    return squared.backward_tiles(Tiles(h.data, h.batch, masked=True), cache, workspace, need_dx=need_dx)
