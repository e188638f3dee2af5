"""A network: a tree of layers, and the table of their parameters."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from .data.answers import Answers
from .data.normalisation import Normalisation
from .layers.compiled import Compiled
from .layers.inputs import Inputs
from .layers.layer import Layer
from .layers.live import Live
from .layers.sequential import Sequential
from .layers.sparse import SparseLayer
from .runtime.arrays import narrowed, real_numbers
from .runtime.device import Device, place_of
from .runtime.halves import narrowed as in_halves
from .runtime.halves import storable
from .runtime.recording import is_recorded
from .runtime.tiles import LANES, PAIRS, Tiles, tile_samples, tiles_of
from .runtime.workspace import Ahead, Workspace
from .scalars import whole
from .storage.parameters import ByPath, LayerPath, ParameterTable, rows_of
from .storage.pattern import SparsityPattern
from .storage.rewiring import Move, move_in_place, move_of, moved_table
from .storage.sizes import spell

AT_ONCE = 1 << 28
"""Bytes of activations that a network may take outside training, where the user does not say how many samples."""


class LayerSummary(NamedTuple):
    """One line of a network's table."""

    path: str
    name: str
    shape: tuple[int, int]
    connections: int
    biases: int
    sparsity: float


class Network:
    """A tree of layers, applied one after another, and the table of all their parameters.

    All trained parameters lie in one flat array, `params`, of which the layers' own are views: an optimizer is one pass
    over it. Layers are named by path, such as "stage2.0.conv1"; in a flat network, whose layers hold no layers, their
    numbers work too.

    Parameters
    ----------
    layers : iterable of Layer, or mapping of str to Layer
        Each takes what the one before gives. A layer may appear only once, and in one network, which takes over its
        parameters. In a mapping they have names; otherwise their numbers are their names.
    sparse : iterable of paths or integers, optional
        The sparse layers: those that `sparsity` measures and that pruning changes. If not given, all whose pattern is
        not full.
    normalisation : Normalisation, optional
        How raw inputs are normalised for this network; a trainer sets it.
    answers : Answers, optional
        What the outputs mean, where they are not classes 0, 1, 2, …: the classes' names, or the scale of numbers; a
        trainer sets it.

    Attributes
    ----------
    layers : list of Layer
        Those at the top of the tree.
    table : ParameterTable
        Every parameter, by path.
    sparse : tuple of str
        Paths of the sparse layers.
    version : int
        Rises when parameters or connections have moved: a step that was recorded before must be recorded again.

    Raises
    ------
    TypeError
        If one of them is not a Layer.
    ValueError
        If there are no layers, one appears twice or holds itself, shapes do not meet, or dtypes or devices differ.
    """

    answers: Answers | None = None  # networks that earlier versions pickled have none
    _halves = False
    _live: Live | None = None

    def __init__(
        self, layers: Iterable[Layer] | Mapping[str, Layer], *, sparse: Iterable[str | int] | None = None,
        normalisation: Normalisation | None = None, answers: Answers | None = None,
    ) -> None:  # fmt: skip
        self.root = Sequential(layers)
        self.normalisation, self.answers = normalisation, answers
        first: dict[int, str] = {}
        self._by_path = self._tree()
        for path, layer in self.walk():
            if id(layer) in first:
                raise ValueError(
                    f"a layer may appear only once in a network, and {layer!r} is both {first[id(layer)]} and {path}: "
                    "make a second one with the same pattern"
                )
            first[id(layer)] = path
        kinds = {array.dtype for _, layer in self.walk() for array in (*layer.params.values(), *layer.kept.values())}
        if len(kinds) > 1:
            raise ValueError(f"all layers must have one dtype, got {', '.join(sorted(str(kind) for kind in kinds))}")
        devices = {layer.device.name for _, layer in self.walk() if not layer.children}
        if len(devices) > 1:
            raise ValueError(f"all layers must be on one device, got {', '.join(sorted(devices))}: move them with to()")
        self.dtype = kinds.pop() if kinds else np.dtype(np.float32)
        self.version = 0
        self.flatten()
        patterns = self.patterns
        chosen = sparse if sparse is not None else (k for k, pattern in patterns.items() if not pattern.is_full)
        named = {str(k) if isinstance(k, str) else str(operator.index(k)) for k in chosen}
        if not patterns.keys() >= named:
            raise ValueError(
                f"sparse must name layers with connections, among {', '.join(patterns) or 'none'}, got "
                f"{', '.join(sorted(named))}"
            )
        self.sparse = tuple(path for path in patterns if path in named)

    @property
    def layers(self) -> list[Layer]:
        """The layers at the top of the tree."""
        return self.root.layers

    def walk(self) -> Iterator[tuple[str, Layer]]:
        """All layers with their paths, each before those that it holds."""
        yield from self._by_path.items()

    def _tree(self) -> dict[str, Layer]:
        return {path: layer for path, layer in self.root.walk() if path}

    def __getitem__(self, path: str | int) -> Layer:
        """The layer at a path, or the layer of a number at the top of the tree.

        Raises
        ------
        KeyError
            If there is none.
        """
        numbers = range(-len(self.root.names), len(self.root.names))
        name = self.root.names[path] if isinstance(path, int) and path in numbers else path
        layer = self._by_path.get(name) if isinstance(name, str) else None
        if layer is None:
            raise KeyError(f"{self!r}: no layer {path}, got {', '.join(self._by_path)}")
        return layer

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
        values = real_numbers(values, self, "params", truths=False)
        if values.shape != self._params.shape:
            raise ValueError(f"{self!r}: params must have shape {self._params.shape}, got {values.shape}")
        self._params[...] = narrowed(values, self.dtype, self, "params")

    @property
    def device(self) -> Device:
        """Where the parameters are, and where the network computes."""
        return self.layers[0].device

    def to(self, device: str | Device | None = None, *, activations: str | None = None) -> Self:
        """Move the parameters to a device, or store activations and their gradients in another dtype.

        Parameters
        ----------
        device : {"cpu", "cuda", "cuda:1", "auto"} or Device, optional
            "auto" is a GPU that works if there is one. An optimizer that has taken steps moves with its own `to`.
        activations : {"float32", "float64", "bfloat16"}, optional
            The parameters' dtype, or bfloat16 beside parameters of float32: half the bytes, rounded to the nearest.
            Parameters, their gradients, all sums, the network's output and the loss stay float32. A tile then holds 32
            samples: batches of a multiple of 32 fill them.

        Raises
        ------
        DeviceError
            If there is no such device. Nothing has moved then, nor after any other error, such as a full memory.
        ValueError
            If activations cannot be stored so.
        """
        kind = self.activations if activations is None else storable(activations, self.dtype, self)
        if device is not None:
            self._move(device)
        if kind != self.activations:
            self._halves = kind == "bfloat16"
            self._live = None
            self.version += 1
        return self

    @property
    def activations(self) -> str:
        """The dtype in which activations and their gradients are stored: the parameters', or bfloat16."""
        return "bfloat16" if self._halves else self.dtype.name

    def _move(self, device: str | Device) -> None:
        before = [(layer, layer.params, layer.kept, layer._device) for _, layer in self.root.walk()]
        here = self.device
        try:
            self.root.to(device)
            if self.device is not here:
                self.flatten()
        except BaseException:  # a device that is full: the network stays where it was, whole
            for layer, params, kept, own_device in before:
                layer.params, layer._device = params, own_device
                if kept:
                    layer.kept = kept
            raise

    def flatten(self) -> None:
        """Gather the parameters into one flat array. Call it after replacing a layer's pattern or arrays."""
        for _, layer in self.walk():
            for name, array in (*layer.params.items(), *layer.kept.items()):
                layer._check_device(array, name)
                real_numbers(array, layer, name, truths=False)
                if array.ndim != 1:
                    raise ValueError(f"{layer!r}: {name} must be a flat array, got one of shape {array.shape}")
        entries = [
            (f"{path}.{name}", array.size, getattr(layer, "pattern", None) if name == "weight" else None, trained,
             trained and name not in layer.undecayed)
            for path, layer in self.walk()
            for arrays, trained in ((layer.params, True), (layer.kept, False))
            for name, array in arrays.items()
        ]  # fmt: skip
        rows = rows_of(entries)
        values = self.device.empty((sum(row.size for row in rows),), self.dtype)
        columns = self.table.columns if "table" in vars(self) else {}
        table = ParameterTable(rows, values, columns)
        self._adopt(table, {path: {**layer.params, **layer.kept} for path, layer in self.walk()})

    def _adopt(self, table: ParameterTable, content: Mapping[str, Mapping[str, Any]] | None) -> None:
        """Take a table: the layers' arrays become views of it. `content` is copied in; None if it is there already."""
        for path, layer in self.walk():
            for arrays in (layer.params, layer.kept):
                for name in arrays:
                    piece = table.values[table.by_path[f"{path}.{name}"].slice]
                    if content is not None:
                        piece[...] = content[path][name]
                    arrays[name] = piece  # type: ignore[index]
        self.table = table
        self._params = table.values[: table.trained]
        self._adopted = [(path, layer, _own(layer)) for path, layer in self.walk()]
        self._live = None  # which would keep the old arrays
        self.version += 1

    def rewire(
        self, patterns: Mapping[Any, SparsityPattern], fill: float | Mapping[Any, Any] = 0.0
    ) -> None:
        """Give layers other connections: some go, some come, the others keep their values.

        Every column of the table moves: a connection that stays keeps its value and what an optimizer knows of it, bit
        for bit; a new one starts with the value `fill` and zeros in the optimizer's columns. Where every layer ends
        with as many connections as it had, no address changes; if its plan can be patched too, recorded steps stay
        valid. Any other change makes new arrays, and steps are recorded again (see `version`).

        Parameters
        ----------
        patterns : mapping of path (or layer number) to SparsityPattern
            Each of the layer's shape.
        fill : float, or mapping of path (or layer number) to float or array of shape (nnz,)
            Values of the new connections, zeros for layers that it leaves out. An array is in the new pattern's order;
            only its entries at new ones count.

        Raises
        ------
        KeyError, TypeError, ValueError
            If there is no such layer, it has no connections to move or is named twice, a pattern has another shape, or
            a fill does not fit or is of a layer without a pattern. Nothing has changed then, nor if memory runs out.
        """
        self.carry_out(self._moves(patterns, fill))

    def let_move(self, paths: Iterable[str], together: tuple[int, int] = (1, 1)) -> None:
        """Give layers plans that can be patched when their connections move, as the first `rewire` would otherwise do.

        A run that moves connections does so at its start, so that one that is resumed computes with the same plans.
        `together` is how many neighbouring outputs, and inputs, move together: they go on in groups.
        """
        for path in paths:
            layer = self._sparse_layer(path)
            layer.take_pattern(layer.pattern, layer.plan_of(layer.pattern, moving=True, together=together))
        self.version += 1

    def carry_out(self, moves: Sequence[Move]) -> None:
        """Do what `rewire` does, given moves that say where connections come from; see `storage.rewiring`."""
        if not moves:
            return
        self._check_own()
        self.table.drop_misfits()
        stays = all(move.pattern.nnz == move.row.size for move in moves)
        layers = [self._sparse_layer(move.path) for move in moves]
        plans = [
            layer.plan_of(move.pattern, moving=stays or layer.plan.moving, together=layer.plan.together)
            for layer, move in zip(layers, moves, strict=True)
        ]
        # A GPU works on a copy of the plan, which patching does not reach.
        on_cpu = self.device.name == "cpu"
        patch = stays and on_cpu and all(layer.plan.fits(plan) for layer, plan in zip(layers, plans, strict=True))
        table = None
        if stays:
            move_in_place(self.table, moves, self.device)
        else:
            table = moved_table(self.table, moves, self.device)
        # Nothing below can fail: a rewiring is done as a whole, or not at all.
        for layer, move, plan in zip(layers, moves, plans, strict=True):
            if patch:
                layer.plan.patch(plan)
            layer.take_pattern(move.pattern, layer.plan if patch else plan)
        if table is not None:
            self._adopt(table, None)
        elif not patch:
            self.version += 1

    def _moves(self, patterns: Mapping[Any, Any], fill: Any) -> list[Move]:
        """The moves of the layers whose patterns change, checked."""
        moves, fills = [], self._paths(fill, "fill") if isinstance(fill, Mapping) else None
        found = self._paths(patterns, "patterns")
        if alone := sorted((fills or {}).keys() - found.keys()):
            raise ValueError(f"rewire: fill is of layer {alone[0]}, of which patterns has none")
        for path, pattern in found.items():
            row = self.table.by_path.get(f"{path}.weight")
            if not isinstance(self[path], SparseLayer) or row is None or row.pattern is None:
                able = ", ".join(self.patterns) or "none"
                raise ValueError(f"rewire: layers must be among {able}, those with connections, got {path}")
            given = fill if fills is None else fills.get(path, 0.0)
            try:
                given = narrowed(real_numbers(given, "rewire", "fill", truths=False), self.dtype, "rewire", "fill")
            except TypeError as error:
                raise ValueError(f"rewire: layer {path}: fill must be a number, or one a connection: {error}") from None
            move = move_of(row, pattern, given)
            if move is not None:
                moves.append(move)
        return moves

    def _paths(self, given: Mapping[Any, Any], name: str) -> dict[str, Any]:
        """What is given by paths or numbers, by path."""
        found: dict[str, Any] = {}
        for key, value in given.items():
            if (path := self._path(key)) in found:
                raise ValueError(f"rewire: {name} must have one entry a layer, got two of {path}")
            found[path] = value
        return found

    def _sparse_layer(self, path: str) -> SparseLayer:
        layer = self[path]
        assert isinstance(layer, SparseLayer)
        return layer

    def _path(self, key: Any) -> str:
        """A layer's path, given that or its number at the top of the tree."""
        if isinstance(key, str):
            self[key]
            return key
        number = operator.index(key)
        if not 0 <= number < len(self.root.names):
            raise KeyError(f"{self!r}: no layer {number}")
        return self.root.names[number]

    def __getstate__(self) -> dict[str, Any]:
        made = ("_params", "_adopted", "_by_path", "_live", "table")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._by_path = self._tree()
        self.flatten()  # a copy's layers have arrays of their own

    def __copy__(self) -> Network:
        return copy.deepcopy(self)  # layers belong to one network: a shallow copy would take them away from this one

    def views(self, flat: Any) -> ByPath[dict[str, Any]]:
        """The pieces of a flat array that is laid out as `params`, by layer and by the parameter's name."""
        pieces: ByPath[dict[str, Any]] = ByPath({path: {} for path, layer in self.walk() if not layer.children})
        for row in self.table.rows:
            if row.trained:
                path, _, name = row.path.rpartition(".")
                pieces.setdefault(path, {})[name] = flat[row.slice]
        return pieces

    def forward(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, list[Any]]:
        """y, caches = forward(x).

        y has the shape (tiles, features, LANES): images at the end lie in a row, as losses take them.

        Raises
        ------
        ValueError
            If a layer's parameters are no longer views of `params`, or the workspace is another network's.
        TypeError
            If the workspace or x is on another device.
        """
        self._check_device(x, workspace, "x")
        self._check_own()
        workspace.belong_to(self)
        x.clear_padding()
        workspace.ahead = Ahead(inside=x.data.dtype != PAIRS)
        y, caches = self.root.forward_tiles(x, workspace)
        return replace(y, data=y.data.reshape(len(y.data), y.features, LANES)), caches

    def backward(self, dy: Tiles, caches: list[Any], workspace: Workspace) -> None:
        """Write the gradients of all parameters into the layers' workspaces, under the parameters' names.

        The gradient with respect to the network's input is not computed.

        Raises
        ------
        ValueError
            If a layer's parameters are no longer views of `params`, so that changing these would not change it; or the
            workspace is another network's.
        TypeError
            If the workspace or dy is on another device.
        """
        self._check_device(dy, workspace, "dy")
        self._check_own()
        workspace.belong_to(self)
        dy.clear_padding()
        self.root.backward_tiles(replace(dy, free=False), caches, workspace, need_dx=False)

    def samples_at_once(self, most: int) -> int:
        """How many samples to compute at once outside training: `most`, or fewer where activations would take too much.

        Every layer keeps what it gives; all together should take no more than AT_ONCE bytes.
        """
        numbers = sum(int(np.prod(layer.out_shape)) for _, layer in self.walk() if not layer.children)
        kind = PAIRS if self._halves else self.dtype
        samples = tile_samples(kind)
        tiles = AT_ONCE // (numbers * LANES * kind.itemsize)
        return max(samples, min(most, tiles * samples))

    def logits(self, x: Any, batch_size: int | None = None, *, normalised: bool = False) -> Any:
        """The network's output for ordinary arrays.

        Parameters
        ----------
        x : array of shape (batch, features) or (batch, *in_shape)
            What the network was trained on is normalised by `normalisation`, as in training: pixels, in integers of any
            kind, or numbers. Floats given to a network of pixels must be normalised already.
        batch_size : int, optional
            Samples computed at once; 1024, or fewer in a deep network, if not given.
        normalised : bool
            Take x as it is.

        Returns
        -------
        array of shape (batch, *out_shape)

        Raises
        ------
        TypeError, ValueError
            If x does not have such a shape or cannot be what the network takes.
        """
        if batch_size is not None and whole(f"{self!r}: batch_size", batch_size) < 1:
            raise ValueError(f"{self!r}: batch_size must be at least 1, got {batch_size}")
        live = self._live_now()
        inputs, last = live.inputs, self.layers[-1]
        x = x if type(x) is np.ndarray else inputs.checked(x, self, normalised=normalised)
        if x.ndim and 0 < len(x) <= (live.most if batch_size is None else min(live.most, batch_size)):
            rows = inputs.rows(x, self, normalised=normalised)
            return live.programs.run(rows).reshape(len(rows), *last.out_shape)
        x = inputs.checked(x, self, normalised=normalised)
        batch_size = self.samples_at_once(1024) if batch_size is None else batch_size
        out = np.empty((len(x), *last.out_shape), self.dtype)
        device = self.device
        workspace = Workspace(device)
        for start in range(0, len(x), batch_size):
            part = inputs.converted(x[start : start + batch_size], self, normalised=normalised)
            tiles = workspace.array("x", (tiles_of(len(part)), *self.layers[0].in_shape, LANES), self.dtype)
            workspace.kernels.pack(part if device.owns(part) else device.put(part), tiles)
            packed = Tiles(tiles, len(part))
            y, _ = self.forward(in_halves("narrow x", packed, workspace) if self._halves else packed, workspace)
            flat = workspace.array("logits", (len(part), y.features), self.dtype)
            workspace.kernels.unpack(y.data, flat)
            out[start : start + batch_size] = device.get(flat).reshape(len(part), *last.out_shape)
        return out

    def _live_now(self) -> Live:
        """How few samples are answered, as the network is now."""
        live = self._live
        if live is None or not live.is_of(self.root, self.normalisation):
            live = self._live = Live.of(self.root, self.normalisation, self.dtype, self.device, self._halves)
        self._check_own()
        return live

    def compile(self, batch: int = 1) -> Compiled:
        """Make the network ready to answer: a snapshot of it, recorded once.

        Parameters
        ----------
        batch : int
            Samples that a call will give, at most.

        Returns
        -------
        Compiled
            To be called with samples, from any number of threads; gives their logits.

        Raises
        ------
        ValueError
            If batch is not at least 1.
        """
        self._check_own()
        return Compiled(self.root, self.normalisation, self.dtype, self.device, batch, halves=self._halves)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """What a sample must fit: the first layer's shape and, where that is flat, that of the data it was trained on.

        See `storage.sizes.fits`.
        """
        return Inputs(self.layers[0].in_shape, self.normalisation, self.dtype).shapes

    def predict(
        self, x: Any, batch_size: int | None = None, *, normalised: bool = False
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The class of the largest logit for each sample of x, shape (batch,); arguments as for `logits`.

        Of images of logits it is the channel of the largest, for each pixel if there are several.

        Raises
        ------
        ValueError
            Where a logit is NaN, of which none is the largest.
        """
        found = np.argmax(self._answers(x, batch_size, normalised), axis=1)
        return found.reshape(len(found)) if set(found.shape[1:]) <= {1} else found

    def predict_proba(self, x: Any, batch_size: int | None = None, *, normalised: bool = False) -> Any:
        """The probability of each class, the softmax of `logits`, in their shape and dtype; arguments as for these.

        Raises
        ------
        ValueError
            Where a logit is NaN, as of `predict`.
        """
        found = self._answers(x, batch_size, normalised)
        with np.errstate(invalid="ignore"):  # of a logit that is infinite: it has all, and equals share it
            powers = np.exp(found - found.max(axis=1, keepdims=True))
        powers[np.isnan(powers)] = 1
        return powers / powers.sum(axis=1, keepdims=True)

    def _answers(self, x: Any, batch_size: int | None, normalised: bool) -> Any:
        """Logits, none of which is NaN."""
        found = self.logits(x, batch_size, normalised=normalised)
        if (unanswered := np.isnan(found)).any():
            sample = int(np.argwhere(unanswered)[0, 0])
            raise ValueError(f"{self!r}: x must be samples that it can answer, got NaN as logits of sample {sample}")
        return found

    @property
    def patterns(self) -> ByPath[SparsityPattern]:
        """The patterns of the layers that have connections, by path."""
        found = ((path, getattr(layer, "pattern", None)) for path, layer in self.walk())
        return ByPath({LayerPath(path): pattern for path, pattern in found if pattern is not None})

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
        """Fraction of the possible connections of all layers that is not stored."""
        return self._sparsity(self.patterns)

    def summary(self) -> list[LayerSummary]:
        """A line for each layer that has connections."""
        lines = []
        for path, pattern in self.patterns.items():
            layer = self[path]
            biases = sum(array.size for name, array in layer.params.items() if name != "weight")
            lines.append(LayerSummary(path, repr(layer), pattern.shape, pattern.nnz, biases, pattern.sparsity))
        return lines

    def __repr__(self) -> str:
        shapes = [self.layers[0].in_shape, *(layer.out_shape for layer in self.layers)]
        return "Network(" + "→".join(map(spell, shapes)) + ")"

    def _check_device(self, x: Tiles, workspace: Workspace, name: str) -> None:
        if workspace.device.name != self.device.name or not self.device.owns(x.data):
            raise TypeError(
                f"{self!r}: is on {self.device.name}, {name} on {place_of(x.data)} and the workspace on "
                f"{workspace.device.name}: move the network with to(), or make the others with its device"
            )

    def _check_own(self) -> None:
        """Refuse to go on where a layer has other arrays than the table's: one of the two would be ignored."""
        for path, layer, given in self._adopted:
            params, kept = layer.params, layer.kept
            for name, array in given.items():
                if params.get(name) is not array and kept.get(name) is not array:
                    raise ValueError(
                        f"layer {path}, {layer!r}, has parameters that are not {self!r}'s: call flatten() to gather "
                        f"them"
                    )

    def _sparsity(self, layers: Iterable[str]) -> float:
        patterns = self.patterns
        layers = tuple(layers)
        possible = sum(patterns[k].shape[0] * patterns[k].shape[1] for k in layers)
        return (possible - sum(patterns[k].nnz for k in layers)) / possible if possible else 0.0


def _own(layer: Layer) -> dict[str, Any]:
    """Arrays that must stay the table's: all but what a layer in plain Python keeps, which may replace it."""
    kept = layer.kept if is_recorded(layer.forward_tiles, layer.backward_tiles) else {}
    return {**layer.params, **kept}
