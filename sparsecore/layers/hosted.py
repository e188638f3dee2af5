"""A layer in plain Python within a recorded step: its two passes are host calls, run anew at every replay.

The layer is called as outside a step, with tiles and a workspace whose kernels run at once. Its results are copied into
arrays at fixed addresses, where the tape's kernels read them; what it keeps for its backward pass stays in Python. On a
GPU it works on the host, on copies.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..runtime.arrays import real_numbers
from ..runtime.devices import cpu
from ..runtime.recording import shallow
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Workspace
from .layer import Layer, Params

Array = np.ndarray[Any, Any]

_PARAM, _KEPT = "param ", "kept "  # before the names of arrays that are the layer's own


class Hosted:
    """One use of such a layer in a recorded step: what its forward pass leaves to its backward pass."""

    def __init__(self, layer: Layer, x: Tiles, workspace: Workspace) -> None:
        if layer.children and workspace.device.name != "cpu":
            raise TypeError(
                f"{layer!r}: holds layers and is plain Python, which works on the CPU alone: let it call these by "
                f"forward_through and backward_through, and kernels, and mark it @recorded"
            )
        self.layer, self.x, self.device = layer, x, workspace.device
        self.cache: Any = None
        own = Workspace(cpu(), training=workspace.training, stream=workspace.stream)
        self._workspace = workspace.played if self._on_cpu else own

    @property
    def _on_cpu(self) -> bool:
        """Whether the layer is on the CPU, so that it may work on its own arrays."""
        return self.device.name == "cpu"

    def inputs(self, workspace: Workspace, **arrays: Any) -> dict[str, Any]:
        """What a call of the layer reads, by name; `workspace` is the recording one."""
        if self._on_cpu:
            return arrays
        given = arrays | {_PARAM + name: array for name, array in self.layer.params.items()}
        return given if workspace.position is None else given | {"position": workspace.position}

    def kept(self) -> dict[str, Any]:
        """What a call may change besides its results: values that are kept but not trained."""
        arrays = {} if self._on_cpu else self.layer.kept
        return {_KEPT + name: array for name, array in arrays.items()}

    def run(self, method: str, arrays: dict[str, Array], *arguments: Any, **named: Any) -> Any:
        """Call a method of the layer with a workspace to compute in."""
        if self._on_cpu:
            kept = dict(self.layer.kept)
            result = getattr(self.layer, method)(*arguments, self._workspace, **named)
            _write_back(self.layer, kept)
            return result
        self._workspace.position = arrays.get("position")
        twin, kept = shallow(self.layer), _named(arrays, _KEPT)
        twin._device, twin.params = None, _named(arrays, _PARAM)
        if kept:
            twin.kept = dict(kept)
        result = getattr(twin, method)(*arguments, self._workspace, **named)
        _write_back(twin, kept)
        # Anything else that the call has set on the twin belongs to the layer.
        noted = {name: value for name, value in vars(twin).items() if name not in ("_device", "params", "kept")}
        vars(self.layer).update(noted)
        return result


def _write_back(layer: Any, kept: dict[str, Array]) -> None:
    """Where the layer has replaced a kept array, copy the new values into the old array, whose address is recorded."""
    for name, array in kept.items():
        if layer.kept[name] is not array:
            np.copyto(array, layer.kept[name])
            layer.kept[name] = array


def _named(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def forward_by_host(layer: Layer, x: Tiles, workspace: Workspace) -> tuple[Tiles, Hosted]:
    """y, cache = the forward pass, recorded as a host call."""
    say_once(layer, f"layer {layer!r}")
    use, batch = Hosted(layer, x, workspace), x.batch
    dtype = layer.dtype if layer.params else x.data.dtype
    y = workspace.array("host y", (len(x.data), *layer.out_shape, LANES), dtype)

    def forward(x: Array, y: Array, **others: Array) -> None:
        if not batch:  # a rank's part of a small batch: nobody's Python need know of it
            return
        given = Tiles(np.ascontiguousarray(_cleared(x, batch)), batch, rectified=use.x.rectified)
        result, use.cache = use.run("forward_tiles", others, given)
        copy_tiles(layer, "forward_tiles", result, y, batch)

    outputs = {"y": y, **use.kept()}
    workspace.kernels.host(f"{layer!r} forward", forward, use.inputs(workspace, x=x.data), outputs)
    return Tiles(y, batch), use


def backward_by_host(
    layer: Layer, dy: Tiles, use: Hosted, workspace: Workspace, need_dx: bool
) -> tuple[Tiles | None, Params]:
    """dx, grads = the backward pass, recorded as a host call.

    The gradient is passed on as not masked, so that the layer before masks it, perhaps a second time.
    """
    batch = dy.batch
    grads = {
        f"{path}.{name}" if path else name: workspace.at(path).array(name, array.shape, array.dtype)
        for path, each in layer.walk()
        for name, array in each.params.items()
    }
    dx = workspace.array("host dx", use.x.data.shape, use.x.data.dtype) if need_dx else None

    def backward(dy: Array, dx: Array | None = None, **others: Array) -> None:
        if not batch:
            for name in grads:
                others[f"grad {name}"][...] = 0
            return
        dy = np.ascontiguousarray(_cleared(dy, batch))  # it may lie within a border
        given = Tiles(dy.reshape(len(dy), *layer.out_shape, LANES), batch)
        result, found = use.run("backward_tiles", others, given, use.cache, need_dx=need_dx)
        if dx is not None:
            copy_tiles(layer, "backward_tiles", result, dx, batch)
        for name in grads:
            _copy_gradient(layer, name, found, others[f"grad {name}"])

    outputs = {f"grad {name}": array for name, array in grads.items()} | ({} if dx is None else {"dx": dx})
    inputs = use.inputs(workspace, dy=dy.data)
    workspace.kernels.host(f"{layer!r} backward", backward, inputs, outputs | use.kept())
    return (None if dx is None else Tiles(dx, batch)), grads


def _cleared(data: Array, batch: int) -> Array:
    """Tiles with zeros in the lanes past the batch, in a copy if there are such lanes."""
    if batch % LANES == 0:
        return data
    copied = data.copy()
    Tiles(copied, batch).clear_padding()
    return copied


def copy_tiles(owner: Any, method: str, result: Any, out: Array, batch: int) -> None:
    """Copy what a method has given to where the tape's kernels read it; lanes past the batch become zero."""
    if not isinstance(result, Tiles) or result.batch != batch or result.data.size != out.size:
        got = f"{result.data.shape} of {result.batch}" if isinstance(result, Tiles) else type(result).__name__
        raise ValueError(f"{owner!r}: {method} must give Tiles of shape {out.shape} for {batch} samples, got {got}")
    np.copyto(out, result.data.reshape(out.shape))
    Tiles(out, batch).clear_padding()


def _copy_gradient(layer: Layer, name: str, found: Any, out: Array) -> None:
    gradient: Any = found.get(name) if isinstance(found, dict) else None
    if np.shape(gradient) != out.shape:
        got = "none" if gradient is None else f"one of shape {np.shape(gradient)}"
        raise ValueError(f"{layer!r}: backward_tiles must give a gradient of {name}, of shape {out.shape}, got {got}")
    np.copyto(out, real_numbers(gradient, layer, f"the gradient of {name}"))


_said: set[type] = set()


def say_once(thing: Any, name: str) -> None:
    """Warn that something runs as Python at every step, once for each class."""
    kind = type(thing)
    if kind not in _said:
        _said.add(kind)
        warnings.warn(
            f"{name} is plain Python and runs as such at every step: its results are right, and it is slower than code "
            f"that calls kernels only and says so by @recorded", stacklevel=2,
        )  # fmt: skip
