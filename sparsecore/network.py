"""A network: layers in a row, their parameters in one flat array."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np

from .data.normalisation import Normalisation
from .layers.call import backward_through, forward_through
from .layers.layer import Layer, real_numbers
from .runtime.device import Device, place_of
from .runtime.tiles import LANES, Tiles, tiles_of
from .runtime.workspace import Workspace
from .storage.pattern import SparsityPattern


class LayerSummary(NamedTuple):
    """One line of a network's table."""

    name: str
    shape: tuple[int, int]
    connections: int
    biases: int
    sparsity: float


class Network:
    """Layers applied one after another.

    All parameters lie in one flat array, `params`, of which the layers' own are views: an optimizer is one pass over
    it.

    Parameters
    ----------
    layers : iterable of Layer
        Each takes what the one before gives. A layer may appear only once, and in one network, which takes over its
        parameters.
    sparse : iterable of int, optional
        Which layers are the sparse ones: those that `sparsity` is about, and that are pruned. All whose pattern is not
        full, if not given.
    normalisation : Normalisation, optional
        How raw inputs become this network's; a trainer sets it.

    Raises
    ------
    TypeError
        If something else than a Layer is among them.
    ValueError
        If there are no layers, one appears twice, shapes do not meet, or dtypes or devices differ.
    """

    def __init__(
        self, layers: Iterable[Layer], *, sparse: Iterable[int] | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:  # fmt: skip
        self.layers = list(layers)
        self.normalisation = normalisation
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"a network is made of Layers, got {type(layer).__name__}")
        if not self.layers:
            raise ValueError("a network needs at least one layer")
        if len({id(layer) for layer in self.layers}) != len(self.layers):
            raise ValueError("a layer may appear only once in a network: make a second one with the same pattern")
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if int(np.prod(before.out_shape)) != int(np.prod(after.in_shape)):
                raise ValueError(f"{after!r} takes {after.in_shape}, but {before!r} before it gives {before.out_shape}")
        kinds = {array.dtype for layer in self.layers for array in layer.params.values()}
        if len(kinds) > 1:
            raise ValueError(f"all layers must have one dtype, got {', '.join(sorted(str(kind) for kind in kinds))}")
        places = {layer.device.name for layer in self.layers}
        if len(places) > 1:
            raise ValueError(f"all layers must be on one device, got {', '.join(sorted(places))}: move them with to()")
        self.dtype = kinds.pop() if kinds else np.dtype(np.float32)
        self.version = 0
        self.flatten()
        patterns = self.patterns
        given = sparse if sparse is not None else (k for k, pattern in patterns.items() if not pattern.is_full)
        self.sparse = tuple(sorted({operator.index(k) for k in given}))
        if not patterns.keys() >= set(self.sparse):
            raise ValueError(f"sparse must name layers with connections, among {sorted(patterns)}, got {self.sparse}")

    @property
    def params(self) -> Any:
        """All parameters, in an array of which the layers' own are views. Assigning to it copies values in.

        They are on the network's device, and values that are assigned must be, too.
        """
        return self._params

    @params.setter
    def params(self, values: Any) -> None:
        if self.device.name != "cpu" and not self.device.owns(values):
            raise TypeError(
                f"{self!r}: is on {self.device.name}, and params given on {place_of(values)}: put() them there"
            )
        shape = values.shape if self.device.owns(values) else np.shape(values)
        if shape != self._params.shape:
            raise ValueError(f"{self!r}: params must have shape {self._params.shape}, got {shape}")
        self._params[...] = values

    @property
    def device(self) -> Device:
        """Where the parameters are, and where the network computes."""
        return self.layers[0].device

    def to(self, device: str | Device) -> Self:
        """Move the parameters to a device: "cpu", "cuda", "cuda:1", or "auto" for a GPU that works if there is one.

        An optimizer that has taken steps moves with its own `to`.

        Raises
        ------
        DeviceError
            If there is no such device. Nothing has moved then, nor after any other error, such as of a full memory.
        """
        before = [(layer, layer.params, layer._device) for layer in self.layers]
        here = self.device
        try:
            for layer in self.layers:
                layer.to(device)
            if self.device is not here:
                self.flatten()
        except BaseException:  # a device that is full: the network stays where it was, whole
            for layer, params, place in before:
                layer.params, layer._device = params, place
            raise
        return self

    def flatten(self) -> None:
        """Gather the parameters into one flat array; to be called when a layer's pattern has changed."""
        size = sum(array.size for _, _, array in self._named())
        params = self.device.empty((size,), self.dtype)
        for layer, name, piece, array in self._pieces(params):
            piece[...] = array
            layer.params[name] = piece
        self._params = params
        self._given = [dict(layer.params) for layer in self.layers]
        self.version += 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_params", "_given")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.flatten()  # a copy's layers have arrays of their own

    def views(self, flat: Any) -> list[dict[str, Any]]:
        """For each layer, the pieces of a flat array that belong to its parameters."""
        pieces: list[dict[str, Any]] = [{} for _ in self.layers]
        index = {id(layer): k for k, layer in enumerate(self.layers)}
        for layer, name, piece, _ in self._pieces(flat):
            pieces[index[id(layer)]][name] = piece
        return pieces

    def forward(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, list[Any]]:
        """y, caches = forward(x). Raises TypeError if the workspace or x is on another device."""
        self._check_place(x, workspace, "x")
        x.clear_padding()
        caches = []
        for k, layer in enumerate(self.layers):
            x, cache = forward_through(layer, x, workspace.child(k))
            caches.append(cache)
        return x, caches

    def backward(self, dy: Tiles, caches: list[Any], workspace: Workspace) -> None:
        """Gradients of all parameters, written into the workspace's arrays of the layers' names.

        The gradient with respect to the network's input is not computed.

        Raises
        ------
        ValueError
            If a layer's parameters are no longer views of `params`, so that changing these would not change it.
        TypeError
            If the workspace or dy is on another device.
        """
        self._check_place(dy, workspace, "dy")
        for layer, given in zip(self.layers, self._given, strict=True):
            if any(layer.params[name] is not array for name, array in given.items()):
                raise ValueError(f"{layer!r} has parameters that are not {self!r}'s: call flatten() to gather them")
        dy.clear_padding()
        for k in range(len(self.layers) - 1, -1, -1):
            dx, _ = backward_through(self.layers[k], dy, caches[k], workspace.child(k), need_dx=k > 0)
            if dx is not None:
                dy = dx

    def logits(self, x: Any, batch_size: int = 1024) -> Any:
        """The network's output for ordinary arrays.

        Parameters
        ----------
        x : array of shape (batch, features) or (batch, *in_shape)
            uint8 inputs are normalised as in training by `normalisation`; any others must be so already.
        batch_size : int
            Samples computed at once.

        Returns
        -------
        array of shape (batch, *out_shape)
        """
        if hasattr(x, "__cuda_array_interface__"):
            raise TypeError(f"{self!r}: x must be a NumPy array, got an array on {place_of(x)}")
        x = real_numbers(x, self, "x")
        if batch_size < 1:
            raise ValueError(f"{self!r}: batch_size must be at least 1, got {batch_size}")
        first, last = self.layers[0], self.layers[-1]
        if x.ndim < 2 or int(np.prod(x.shape[1:])) != int(np.prod(first.in_shape)):
            wanted = ", ".join(str(size) for size in first.in_shape)
            raise ValueError(f"{self!r}: x must have shape (batch, {wanted}), got {x.shape}")
        if x.dtype == np.uint8 and self.normalisation is None:
            raise ValueError(f"{self!r}: uint8 x needs the network's normalisation, which is not set; normalise x")
        out = np.empty((len(x), *last.out_shape), self.dtype)
        device = self.device
        workspace = Workspace(device)
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size]
            if x.dtype == np.uint8 and self.normalisation is not None:
                part = self.normalisation(part, self.dtype)
            part = np.ascontiguousarray(part, self.dtype).reshape(len(part), int(np.prod(first.in_shape)))
            tiles = workspace.array("x", (tiles_of(len(part)), *first.in_shape, LANES), self.dtype)
            workspace.kernels.pack(part if device.owns(part) else device.put(part), tiles)
            y, _ = self.forward(Tiles(tiles, len(part)), workspace)
            flat = workspace.array("logits", (len(part), y.features), self.dtype)
            workspace.kernels.unpack(y.data, flat)
            out[start : start + batch_size] = device.get(flat).reshape(len(part), *last.out_shape)
        return out

    def predict(self, x: Any, batch_size: int = 1024) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The class of the largest logit for each sample of x, shape (batch,)."""
        return np.argmax(self.logits(x, batch_size), axis=1)

    @property
    def patterns(self) -> dict[int, SparsityPattern]:
        """The patterns of the layers that have connections, by their places in `layers`."""
        found = {k: getattr(layer, "pattern", None) for k, layer in enumerate(self.layers)}
        return {k: pattern for k, pattern in found.items() if pattern is not None}

    @property
    def connections(self) -> int:
        """Stored weights of all layers; biases are not counted."""
        return sum(line.connections for line in self.summary())

    @property
    def sparsity(self) -> float:
        """Fraction of the possible connections of the sparse layers that is not stored; 0 if there are none."""
        return self._sparsity(self.sparse)

    @property
    def global_sparsity(self) -> float:
        """The same of all layers."""
        return self._sparsity(self.patterns)

    def summary(self) -> list[LayerSummary]:
        """A line for each layer that has connections."""
        lines = []
        for k, pattern in self.patterns.items():
            name, biases = repr(self.layers[k]), self.layers[k].params["bias"].size
            lines.append(LayerSummary(name, pattern.shape, pattern.nnz, biases, pattern.sparsity))
        return lines

    def __repr__(self) -> str:
        shapes = [self.layers[0].in_shape, *(layer.out_shape for layer in self.layers)]
        return "Network(" + "→".join("×".join(str(size) for size in shape) for shape in shapes) + ")"

    def _check_place(self, x: Tiles, workspace: Workspace, name: str) -> None:
        if workspace.device.name != self.device.name or not self.device.owns(x.data):
            raise TypeError(
                f"{self!r}: is on {self.device.name}, {name} on {place_of(x.data)} and the workspace on "
                f"{workspace.device.name}: move the network with to(), or make the others with its device"
            )

    def _sparsity(self, layers: Iterable[int]) -> float:
        patterns = self.patterns
        layers = tuple(layers)
        possible = sum(patterns[k].shape[0] * patterns[k].shape[1] for k in layers)
        return (possible - sum(patterns[k].nnz for k in layers)) / possible if possible else 0.0

    def _named(self) -> Iterator[tuple[Layer, str, Any]]:
        for layer in self.layers:
            for name, array in layer.params.items():
                yield layer, name, array

    def _pieces(self, flat: Any) -> Iterator[tuple[Layer, str, Any, Any]]:
        start = 0
        for layer, name, array in list(self._named()):
            yield layer, name, flat[start : start + array.size], array
            start += array.size
