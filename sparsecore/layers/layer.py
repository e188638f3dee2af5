"""What every layer is: parameters, a forward pass and a backward pass, for tiles or for ordinary arrays."""

from __future__ import annotations

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np

from ..runtime import devices
from ..runtime.arrays import narrowed, on_host, real_numbers, rows_of
from ..runtime.border import NO_BORDER, Border
from ..runtime.copies import Whole
from ..runtime.device import Device, moved, place_of
from ..runtime.tiles import LANES, PAIRS, Tiles, tiles_of
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import fits, spell
from .curvature import Back, curvature_of

Params = dict[str, Any]

_KINDS = np.dtype(np.float32), np.dtype(np.float64)


class Graph(Protocol):
    """An ONNX graph that is being written; see `sparsecore.interop.export`.

    Attributes
    ----------
    value : str
        Name of what came out of the last node.
    shape : tuple of int
        Its shape, for one sample.
    """

    value: str
    shape: tuple[int, ...]

    def node(self, path: str, kind: str, more: Sequence[str] = (), **attributes: Any) -> None:
        """Add a node that reads `value` and `more`; its output becomes `value`."""

    def reshape(self, path: str, shape: tuple[int, ...]) -> None:
        """Bring `value` into another shape, if it has not that already."""

    def array(self, path: str, values: Any) -> str:
        """Add an array under a name; gives the name."""

    def parameters(self, path: str, layer: Any, shape: tuple[int, ...]) -> list[str]:
        """Add a sparse layer's weights, in this shape, and biases; gives their names."""


class Layer(Whole, ABC):
    """A function with parameters, and its gradient.

    `forward` takes Tiles and gives Tiles, or an ordinary array `(batch, features)` and gives one: NumPy's, or CuPy's on
    a GPU. Those of other libraries are read where they lie (DLPack, `__cuda_array_interface__`). What `backward` needs
    travels in the cache. Layers hold no buffers: these belong to the workspace, where each layer has its own, and
    what a call returns in Tiles is valid until the next call of the same layer with the same workspace.

    Attributes
    ----------
    params : dict of str to array
        Flat arrays by name. `backward` gives gradients under the same names.
    kept : mapping of str to array
        Flat arrays that a checkpoint holds beside the parameters but that are not trained, such as a running mean. A
        layer that has any sets this to a dict of them.
    undecayed : frozenset of str
        Names of parameters that weight decay leaves alone.
    starts : mapping of str to float
        The number at which each parameter and kept row of a new layer begins, but for connections, which are drawn:
        `refresh` starts a layer anew by it.
    least_batch : int
        Fewest samples of a batch that it can be trained on.
    children : mapping of str to Layer
        The layers that this one holds, by the names that stand in their paths.
    """

    params: Params
    kept: Mapping[str, Any] = MappingProxyType({})
    undecayed: frozenset[str] = frozenset()
    starts: Mapping[str, float] = MappingProxyType({})
    least_batch: int = 1
    children: Mapping[str, Layer] = MappingProxyType({})
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    _device: Device | None = None

    @property
    def device(self) -> Device:
        """Where the parameters are, and where the layer computes."""
        if self.children:
            return next(iter(self.children.values())).device
        return self._device if self._device is not None else devices.cpu()

    def to(self, device: str | Device) -> Self:
        """Move the parameters to a device, such as "cuda", "cuda:1" or "cpu"; a layer of a network moves with that.

        Raises
        ------
        DeviceError
            If there is no such device. Nothing has moved then.
        """
        target, here = devices.device(device), self.device
        if target is not here:
            params, kept = moved(self.params, here, target), moved(self.kept, here, target)
            for child in self.children.values():
                child.to(target)
            self.params, self._device = params, target
            if kept:
                self.kept = kept
        return self

    def walk(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all layers in it, each before those that it holds, with their paths below `path`.

        Raises
        ------
        ValueError
            If a layer holds itself.
        """
        return self._walk(path, ())

    def _walk(self, path: str, above: tuple[Layer, ...]) -> Iterator[tuple[str, Layer]]:
        if any(self is each for each in above):
            raise ValueError(f"layer {path or repr(self)} holds itself: a network is a tree of layers")
        yield path, self
        for name, child in self.children.items():
            yield from child._walk(f"{path}.{name}" if path else name, (*above, self))

    @property
    def x_border(self) -> Border:
        """Zeros that the layer reads around images: whoever makes these may make them within such a border."""
        return NO_BORDER

    @property
    def dy_border(self) -> Border:
        """The same of the gradient that is sent back to it."""
        return NO_BORDER

    @property
    def bordered(self) -> bool:
        """Whether x and dy may lie within a border that it has not asked for, as they do where another layer reads them
        too, or gives what it gives; any other layer is then given a copy."""
        return False

    @property
    def halves(self) -> bool:
        """Whether it computes on activations in bfloat16 as they are: any other layer is given float32, and what it
        gives is rounded."""
        return False

    @property
    def ends_inside(self) -> bool:
        """Whether the layer that gives its output is one that it holds."""
        return False

    @property
    def joins(self) -> bool:
        """Whether it adds what its workspace says comes `ahead` to its output."""
        return False

    @property
    def leaves(self) -> int:
        """How many layers without children there are in it: 1 if it has no children itself."""
        return sum(child.leaves for child in self.children.values()) if self.children else 1

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
            If x has another shape, or Tiles another dtype than the layer.
        TypeError
            If x does not hold real numbers, or x, the workspace and the parameters are not on one device.
        """
        workspace = self._own(workspace)
        if isinstance(x, Tiles):
            self._check_device(x.data, "x")
            x.clear_padding()
            return self.forward_tiles(x, workspace)
        return self._forward_rows(self._rows(x, self.in_shape, "x", workspace), x, workspace)

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
            Whether to compute dx, which is None otherwise: the first layer of a network needs none.

        Returns
        -------
        dx : Tiles or array of shape (batch, *in_shape), or None
        grads : dict with the keys of `params`
            Overwritten, never accumulated.
        """
        workspace = self._own(workspace)
        if isinstance(dy, Tiles):
            self._check_device(dy.data, "dy")
            dy.clear_padding()
            kept = replace(dy, free=False)  # the caller has it
            return self.backward_tiles(kept, cache, workspace, need_dx=need_dx)
        return self._backward_rows(self._rows(dy, self.out_shape, "dy", workspace), dy, cache, workspace, need_dx)

    def _forward_rows(self, rows: Any, x: Any, workspace: Workspace) -> tuple[Any, Any]:
        """`forward` for x that lies in rows (batch, features); y goes where x is."""
        y, cache = self.forward_tiles(self._pack(rows, self.in_shape, "x", workspace), workspace)
        return self._unpack(y, self.out_shape, x, workspace), cache

    def _backward_rows(
        self, rows: Any, dy: Any, cache: Any, workspace: Workspace, need_dx: bool
    ) -> tuple[Any, Params]:
        """`backward` for dy that lies in rows; dx goes where dy is."""
        tiles = self._pack(rows, self.out_shape, "dy", workspace)
        dx, grads = self.backward_tiles(tiles, cache, workspace, need_dx=need_dx)
        return (None if dx is None else self._unpack(dx, self.in_shape, dy, workspace)), grads

    @abstractmethod
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """`forward` for tiles."""

    @abstractmethod
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """`backward` for tiles."""

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        """y of few samples outside training, while a program is recorded (`layers.program`).

        Only buffers are named and kernels called, as in a method marked `@recorded`.

        Parameters
        ----------
        x : array, shape (features, samples)
            1, 2, 4 or 8 samples side by side.
        workspace : Workspace
            Whose kernels record, `spmm_few` among them.

        Returns
        -------
        array of shape (features, samples), or None
            None, as here, if the layer knows no such way: the network then computes in tiles.
        """
        return None

    def curvature(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
        """y, and the function that takes ∂²loss/∂y² back to x and to the parameters; see `layers.curvature`.

        This version is for layers that are linear, and for those that pass on, drop or choose among their inputs.
        """
        return curvature_of(self, x, workspace)

    def export(self, graph: Graph, path: str) -> None:
        """Add what this layer computes outside training to an ONNX graph.

        Raises
        ------
        ValueError
            If there is no counterpart in ONNX here.
        """
        raise ValueError(f"to_onnx: layer {path}, {self!r}, is of a kind that has no counterpart in ONNX here")

    def count_paths(self, after: Any) -> Any:
        """How many paths along stored connections lead from this layer's inputs on, given how many from its outputs.

        Parameters
        ----------
        after : float64 array, shape (ends, outputs)
            How many paths lead from each output of this layer to each of the network's outputs.

        Returns
        -------
        float64 array, shape (ends, inputs)
            This version returns `after`: each output is the input of the same number.
        """
        return after

    def config(self) -> dict[str, Any]:
        """What makes this layer again, beside its pattern, parameters and children: JSON's types only.

        This version takes the attributes that have the names of the constructor's parameters.

        Raises
        ------
        ValueError
            If one is missing, or JSON has no such type.
        """
        names = [name for name in inspect.signature(type(self)).parameters if name not in self.children]
        return {name: self._told(name) for name in names}

    def _told(self, name: str) -> Any:
        try:
            return json.loads(json.dumps(getattr(self, name), allow_nan=False))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self!r}: expected an attribute {name}, as the constructor has it and of JSON's types: set it, or "
                f"write config ({error})"
            ) from None

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> Layer:
        """Make the layer that gave this config; foreign input may raise KeyError, TypeError or ValueError.

        This version calls the constructor with the config, and gives the layer these parameters.
        """
        layer = cls(**config)
        layer.take(params)
        return layer

    @classmethod
    def from_children(cls, config: dict[str, Any], children: Mapping[str, Layer]) -> Layer:
        """Make the layer that holds these; this version calls the constructor with them, by name, and the config."""
        return cls(**children, **config)

    def take(self, arrays: Mapping[str, Any]) -> None:
        """Have these arrays instead of those in `params` and `kept`.

        Raises
        ------
        ValueError
            If names or sizes are others.
        """
        own = {**self.params, **self.kept}
        wanted, found = ({name: np.shape(array) for name, array in each.items()} for each in (own, arrays))
        if wanted != found:
            raise ValueError(f"{self!r}: expected arrays {wanted}, got {found}")
        self.params = {name: arrays[name] for name in self.params}
        if self.kept:
            self.kept = {name: arrays[name] for name in self.kept}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters; float32 where there are none.

        Raises
        ------
        ValueError
            If it is one that no kernel computes in.
        """
        if not self.params:
            return self._parameter_dtype() or _KINDS[0]
        values = next(iter(self.params.values()))
        for kind in _KINDS:
            if getattr(values, "dtype", None) == kind:
                return kind
        found = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"{self!r}: parameters must be float32 or float64, got {found}")

    def _parameter_dtype(self) -> np.dtype[Any] | None:
        """Of the parameters, or of those of the layers that this one holds; None if there are none."""
        if self.params:
            return self.dtype
        return next((kind for child in self.children.values() if (kind := child._parameter_dtype())), None)

    def _own(self, workspace: Workspace | None) -> Workspace:
        """This layer's part of a workspace, which must be on the layer's device."""
        if workspace is None:
            workspace = Workspace(self.device)
        elif workspace.device.name != self.device.name:
            raise TypeError(
                f"{self!r}: is on {self.device.name}, and the workspace on {workspace.device.name}: move the layer "
                f"with to(), or make the workspace with its device"
            )
        return workspace.child(self)

    def _check_device(self, array: Any, name: str) -> None:
        """Refuse an array of another device."""
        if not self.device.owns(array):
            raise TypeError(
                f"{self!r}: is on {self.device.name}, and {name} on {place_of(array)}: move the layer with to(), or "
                f"the array with the device's put()"
            )

    def _check(self, x: Tiles, shape: tuple[int, ...], dtype: Any, name: str) -> None:
        """Refuse tiles that a kernel would misread."""
        self._check_device(x.data, name)
        features, dtype = math.prod(shape), np.dtype(dtype)
        halves = x.data.dtype == PAIRS and dtype == np.float32 and self.halves
        if x.features != features or (x.data.dtype != dtype and not halves):
            raise ValueError(
                f"{self!r}: {name} must have {features} features of {dtype}, got {x.features} of {x.data.dtype}"
            )
        if not fits(x.data.shape[1:-1], shape):
            raise ValueError(f"{self!r}: {name} must be of {spell(shape)}, got {spell(x.data.shape[1:-1])}")
        if not x.data.flags.c_contiguous and x.within is None:
            raise ValueError(f"{self!r}: {name}'s tiles must be contiguous, got strides {x.data.strides}")

    def _check_any(self, x: Tiles) -> None:
        """Refuse tiles that a layer without parameters cannot compute with: it takes any floats as they come."""
        self._check(x, self.in_shape, np.float64 if x.data.dtype == np.float64 else np.float32, "x")

    def _check_dy(self, dy: Tiles, y: Any, batch: int) -> None:
        """Refuse a gradient that does not belong to the output `y` of a batch."""
        self._check(dy, self.out_shape, np.float32 if y.dtype == PAIRS else y.dtype, "dy")
        if dy.data.dtype != y.dtype:
            raise ValueError(f"{self!r}: dy must be of {y.dtype}, as y is, got {dy.data.dtype}")
        if dy.batch != batch:
            raise ValueError(f"{self!r}: dy must be of the {batch} samples that x had, got {dy.batch}")
        if y.size != dy.data.size:
            raise ValueError(f"{self!r}: the cache must be what this layer's forward returned, got another layer's")

    def _rows(self, x: Any, shape: tuple[int, ...], name: str, workspace: Workspace) -> Any:
        """An ordinary array that lies on the workspace's device or on the host as rows (batch, features) on the
        device, in the dtype that is computed in."""
        x = real_numbers(workspace.device.take(x), self, name)
        batch, size = len(x) if x.ndim else 0, math.prod(shape)
        if x.ndim < 2 or x.shape[1:] not in (shape, (size,)):
            wanted = ", ".join(str(size) for size in shape)
            raise ValueError(f"{self!r}: {name} must have shape (batch, {wanted}), got {x.shape}")
        dtype = np.dtype(np.float64) if self._parameter_dtype() is None and x.dtype == np.float64 else self.dtype
        rows, device = x.reshape(batch, size), workspace.device
        if isinstance(rows, np.ndarray):
            rows = rows_of(narrowed(rows, dtype, self, name), dtype)
        elif rows.dtype != dtype or not rows.flags.c_contiguous:
            rows = rows.astype(dtype, order="C")
        return rows if device.owns(rows) else device.put(rows)

    def _pack(self, rows: Any, shape: tuple[int, ...], name: str, workspace: Workspace) -> Tiles:
        """Tiles of rows on the workspace's device."""
        data = workspace.array(f"packed {name}", (tiles_of(len(rows)), *shape, LANES), rows.dtype)
        workspace.kernels.pack(rows, data)
        return Tiles(data, len(rows))

    def _unpack(self, y: Tiles, shape: tuple[int, ...], like: Any, workspace: Workspace) -> Any:
        """An ordinary array of tiles, where `like` lies: on the workspace's device or on the host."""
        device = workspace.device
        out = device.empty((y.batch, y.features), y.data.dtype)
        workspace.kernels.unpack(y.data, out)
        return (device.get(out) if on_host(like) else out).reshape(y.batch, *shape)
