"""How a network, or a layer that holds layers, calls one of them: every such call passes through here.

While a step is recorded, a layer whose passes have the mark `@recorded` writes down its kernels; any other is plain
Python, and both its passes become host calls. Plain Python may sum over lanes: it finds zeros in those past the batch.

Of a sample that is not there a layer makes what it makes of zeros, such as its biases, and the layers behind may make
Inf of that where no sample has any: times the zeros of a gradient it would be NaN. So whatever a layer gives is cleared
in those lanes before another takes it, in every pass that a gradient may follow.

One layer's images may be another one's features: each is given its numbers in its own shape. What is said of tiles goes
no further than it is meant: a border to layers that know borders, the leave to write over them to one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..runtime.border import NO_BORDER, Border
from ..runtime.halves import narrowed, widened
from ..runtime.recording import buffer, check_known, is_recorded, recording, shallow
from ..runtime.tiles import LANES, PAIRS, Tiles, tile_samples
from ..runtime.workspace import Ahead, Workspace
from ..storage.sizes import fits
from .hosted import Hosted, backward_by_host, forward_by_host
from .layer import Layer, Params


def forward_through(layer: Layer, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
    """y, cache = the layer's forward pass; `workspace` is the layer's own."""
    x = _taken("x", x, layer, layer.in_shape, workspace)
    if x.data.dtype == PAIRS and not (layer.halves and (workspace.ahead.inside or layer.ends_inside)):
        return _forward_wide(layer, x, workspace)
    plain = not is_recorded(layer.forward_tiles, layer.backward_tiles)
    if not workspace.recording:
        if plain:
            x.clear_padding()
        y, cache = layer.forward_tiles(x, workspace)
        y.clear_padding()
        return y, cache
    if plain:
        return forward_by_host(layer, x, workspace)
    with recording(layer, "forward_tiles"):
        y, cache = _without_values(layer).forward_tiles(x, workspace)
    _check_result(layer, "forward_tiles", "y", y, x, workspace)
    if workspace.training and y.batch % tile_samples(y.data.dtype):
        workspace.kernels.clear_lanes(y.data if y.within is None else y.within, y.batch)
    return y, cache


class _Wide(NamedTuple):
    """The cache of a layer that computed in float32 among others that do so in bfloat16, and whether y was rounded."""

    cache: Any
    rounded: bool


def _forward_wide(layer: Layer, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
    """The forward pass in float32. What a network gives is not rounded afterwards."""
    ahead, workspace.ahead = workspace.ahead, Ahead()
    y, cache = forward_through(layer, widened("wide x", x, workspace), workspace)
    workspace.ahead = ahead
    return (narrowed("narrow y", y, workspace) if ahead.inside else y), _Wide(cache, ahead.inside)


def _backward_wide(
    layer: Layer, dy: Tiles, cache: _Wide, workspace: Workspace, need_dx: bool
) -> tuple[Tiles | None, Params]:
    workspace.onto, workspace.back_border = None, NO_BORDER
    given = widened("wide dy", dy, workspace) if cache.rounded else dy
    dx, grads = backward_through(layer, given, cache.cache, workspace, need_dx=need_dx)
    return (None if dx is None else narrowed("narrow dx", dx, workspace)), grads


def borders(layer: Layer) -> tuple[Border, Border]:
    """What a layer reads around x and around dy, if it is one that is recorded; plain Python gets whole arrays."""
    known = is_recorded(layer.forward_tiles, layer.backward_tiles)
    return (layer.x_border, layer.dy_border) if known else (NO_BORDER, NO_BORDER)


def backward_through(
    layer: Layer, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True, give: bool = False
) -> tuple[Tiles | None, Params]:
    """dx, grads = the layer's backward pass. With `give`, whose dy it is hands it over: where it may be written over,
    the layer may; otherwise nobody may, since another layer may be sent the same."""
    dy = _taken("dy", dy if give else replace(dy, free=False), layer, layer.out_shape, workspace)
    if isinstance(cache, _Wide):
        return _backward_wide(layer, dy, cache, workspace, need_dx)
    if not workspace.recording:
        return layer.backward_tiles(dy, cache, workspace, need_dx=need_dx)
    if isinstance(cache, Hosted):
        return backward_by_host(layer, dy, cache, workspace, need_dx)
    with recording(layer, "backward_tiles"):
        dx, grads = _without_values(layer).backward_tiles(dy, cache, workspace, need_dx=need_dx)
    if dx is not None:
        _check_result(layer, "backward_tiles", "dx", dx, dy, workspace)
    return dx, grads


def _taken(name: str, tiles: Tiles, layer: Layer, shape: Sequence[int], workspace: Workspace) -> Tiles:
    """The same numbers in the shape of a layer that takes them, and within no border if it knows none; what does not
    fit is left for it to refuse."""
    given, wanted = tiles.data.shape[1:-1], tuple(shape)
    if tiles.within is not None and not (layer.bordered and given == wanted):
        data = workspace.contiguous(f"taken {name}", tiles.data)
        tiles = replace(tiles, data=data, border=NO_BORDER, within=None, free=False)
    if given == wanted or not fits(given, wanted):
        return tiles
    return replace(tiles, data=tiles.data.reshape(len(tiles.data), *wanted, LANES))


def mask_tiles(workspace: Workspace, dy: Any, y: Any, out: Any) -> None:
    """out = dy where y > 0, and 0 elsewhere; images may lie within a border."""
    if all(array.flags.c_contiguous for array in (dy, y, out)):
        workspace.kernels.mask(dy, y, out)
    else:
        workspace.kernels.place(dy.reshape(y.shape), out, y)


def _without_values(layer: Layer) -> Layer:
    """The same layer, on arrays of its own that kernels take and NumPy cannot compute with."""
    twin = shallow(layer)
    for arrays in ("params", "kept"):
        if found := getattr(layer, arrays, None):
            setattr(twin, arrays, {name: buffer(array) for name, array in found.items()})
    return twin


def _check_result(layer: Layer, method: str, name: str, result: Any, given: Tiles, workspace: Workspace) -> None:
    if not isinstance(result, Tiles):
        raise TypeError(f"{layer!r}: {method} must give Tiles as {name}, got {type(result).__name__}")
    onto = [] if workspace.onto is None else [workspace.onto.data]
    check_known(layer, method, name, result.data, [given.data, *onto, *workspace.arrays()])
