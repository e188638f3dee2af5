"""What the nodes of a traced forward do, as layers: the kinds of operations that have a counterpart."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from ...errors import one_line
from ...layers.dropout import Dropout
from ...layers.flatten import Flatten
from ...layers.layer import Layer
from ...layers.norm import BatchNorm
from ...layers.pooling import AvgPool2d, GlobalAvgPool, MaxPool2d
from ...layers.relu import ReLU
from ...layers.residual import Residual
from ...layers.shortcut import PadChannels
from ...layers.sparse import SparseLayer
from ...network import Network
from .from_modules import Order, features_of, weighted, with_outputs
from .named import Named, tree_of, way_of


@dataclass
class Point:
    """A tensor on the way: how it comes out of one before it.

    Attributes
    ----------
    above : fx.Node or None
        The last tensor that all ways to this one go through.
    name, layer
        What leads here from there; None where nothing is to be done.
    shape : tuple of int
        Of one sample, as PyTorch has it.
    order
        Of its channels, or features.
    """

    above: fx.Node | None
    name: str
    layer: Layer | None
    shape: tuple[int, ...]
    order: Order = None


_BATCH = object()
"""Stands for the number of samples, which a forward may ask for."""


class Reader:
    """Walks a graph in its order, and makes a point of every tensor."""

    def __init__(self, model: nn.Module, graph: fx.Graph, shape: tuple[int, ...]) -> None:
        self.modules, self.graph, self.shape = dict(model.named_modules()), graph, shape
        self.points: dict[fx.Node, Point] = {}
        self.numbers: dict[fx.Node, Any] = {}  # what is no tensor: sizes
        self.place = {node: k for k, node in enumerate(graph.nodes)}
        self.used: dict[int, str] = {}

    def network(self) -> Network:
        """The layers along the way to the output, as a tree of the model's names."""
        for node in self.graph.nodes:
            if node.op == "output":
                found = node.args[0]
                if not isinstance(found, fx.Node) or found not in self.points:
                    raise ValueError(f"from_torch: expected a model that gives one tensor, got {found}")
                last = self._point(node, found)
                if last.order is not None and not self._reorder(found, None, np.sort(last.order)):
                    raise ValueError(f"from_torch: {last.name}: its channels come in another order and are the output")
                return _network(self._along(found, None))
            try:
                self._read(node)
            except (TypeError, ValueError) as error:
                said = str(error).removeprefix("from_torch: ")
                raise ValueError(f"from_torch: {_name_of(node)}: {one_line(said, 400)}") from None
        raise ValueError("from_torch: expected a model that gives a tensor, got one that gives nothing")

    def _read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.points:
                raise ValueError("expected a model of one input, got another one")
            self.points[node] = Point(None, node.name, None, self.shape)
        elif node.op == "call_module":
            self._module(node, self.modules[str(node.target)])
        elif node.op in ("call_function", "call_method") and (known := _CALLS.get(node.target)) is not None:
            read, names = known
            given = dict(zip(names, node.args, strict=False))
            given |= {_OURS.get(name, name): value for name, value in node.kwargs.items()}
            if len(node.args) > len(names) and names[-1:] != ("rest",):
                raise ValueError(f"takes at most {len(names)} arguments, got {len(node.args)}")
            if names[-1:] == ("rest",):
                given["rest"] = node.args[len(names) - 1 :]
            read(self, node, **{name: self._number(value) for name, value in given.items()})
        else:
            raise ValueError(f"is of a kind that has no counterpart here ({node.op} of {_spelled(node.target)})")

    def _number(self, value: Any) -> Any:
        """An argument with the sizes that were asked for before in place of their nodes."""
        return fx.node.map_arg(value, lambda each: self.numbers.get(each, each))

    def _point(self, node: fx.Node, given: Any) -> Point:
        if not isinstance(given, fx.Node) or given not in self.points:
            raise ValueError(f"expected a tensor that comes from the input, got {given}")
        return self.points[given]

    def _then(
        self, node: fx.Node, x: Any, layer: Layer | None, shape: Sequence[int] | None = None, order: Any = ...
    ) -> None:
        """The tensor behind a layer that follows x."""
        before = self._point(node, x)
        after = before.shape if shape is None else tuple(shape)
        self.points[node] = Point(x, _name_of(node), layer, after, before.order if order is ... else order)

    # -- modules -----------------------------------------------------------------------------------------------------

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        kind, make = type(module), weighted(module)
        if len(node.args) != 1 or node.kwargs:
            raise ValueError("expected a module of one input, got another one")
        x = node.args[0]
        before = self._point(node, x)
        if make is not None:
            for each in (module, *module.parameters(recurse=False)):
                if (other := self.used.setdefault(id(each), node.name)) != node.name:
                    raise ValueError(f"is used twice, first as {other}: layers share no parameters here")
            layer = make(module, before.shape, before.order)
            is_norm = isinstance(layer, BatchNorm)
            self._then(node, x, layer, layer.out_shape, before.order if is_norm else None)
        elif isinstance(module, nn.ReLU):
            self._relu(node, x, module.inplace)
        elif isinstance(module, nn.MaxPool2d):
            steps = (module.kernel_size, module.stride, module.padding, module.dilation)
            self._max_pool(node, x, *steps, module.ceil_mode, module.return_indices)
        elif isinstance(module, nn.AvgPool2d):
            self._avg_pool(
                node, x, module.kernel_size, module.stride, module.padding, module.ceil_mode,
                module.count_include_pad, module.divisor_override,
            )  # fmt: skip
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._adaptive(node, x, module.output_size)
        elif isinstance(module, nn.Flatten):
            self._flatten(node, x, module.start_dim, module.end_dim)
        elif isinstance(module, nn.Unflatten):
            self._unflatten(node, x, module.dim, module.unflattened_size)
        elif kind is nn.Dropout:
            if module.inplace:
                self._check_last(node, x)
            self._then(node, x, Dropout(before.shape, module.p))
        elif kind is nn.Identity:
            self._then(node, x, None)
        else:
            raise ValueError(f"is a {kind.__name__}, of which there is no counterpart here")

    # -- what modules, functions and methods do alike ------------------------------------------------------------------

    def _relu(self, node: fx.Node, x: Any, inplace: bool = False) -> None:
        before = self._point(node, x)
        if inplace:
            self._check_last(node, x)
        layer = before.layer
        if isinstance(layer, SparseLayer | BatchNorm | Residual) and not layer.relu and len(x.users) == 1:
            layer.relu = True
            self._then(node, x, None)
        else:
            self._then(node, x, ReLU(before.shape))

    def _relu_(self, node: fx.Node, x: Any) -> None:
        self._relu(node, x, True)

    def _check_last(self, node: fx.Node, given: Any) -> None:
        """Refuse to change a tensor that is read afterwards, also where it is a view of one, or its other name."""
        x: fx.Node | None = given
        while x is not None:
            if any(self.place[user] > self.place[node] for user in x.users):
                raise ValueError(f"works in place on {x.name}, which is read again after it")
            point = self.points[x]
            same = point.layer is None or isinstance(point.layer, Flatten | Dropout | PadChannels)
            x = point.above if same else None

    def _max_pool(
        self, node: fx.Node, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> None:  # fmt: skip
        if _pair(padding) != (0, 0) or _pair(dilation) != (1, 1) or ceil_mode or return_indices:
            raise ValueError("pools without padding, dilation, ceil_mode and indices only")
        layer = MaxPool2d(self._image(node, x), _pair(kernel_size), _pair(stride or kernel_size))
        self._then(node, x, layer, layer.out_shape)

    def _avg_pool(
        self, node: fx.Node, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> None:  # fmt: skip
        if _pair(padding) != (0, 0) or ceil_mode or divisor_override is not None:
            raise ValueError("pools without padding, ceil_mode and divisor_override only")
        shape = self._image(node, x)
        if _pair(kernel_size) == shape[1:]:
            self._then(node, x, GlobalAvgPool(shape), (shape[0], 1, 1))
        else:
            layer = AvgPool2d(shape, _pair(kernel_size), _pair(stride or kernel_size))
            self._then(node, x, layer, layer.out_shape)

    def _adaptive(self, node: fx.Node, x: Any, output_size: Any) -> None:
        if _pair(output_size) != (1, 1):
            raise ValueError(f"averages over all pixels only (output_size 1), got output_size {output_size}")
        shape = self._image(node, x)
        self._then(node, x, GlobalAvgPool(shape), (shape[0], 1, 1))

    def _mean(self, node: fx.Node, x: Any, dim: Any = None, keepdim: bool = False) -> None:
        shape = self._image(node, x)
        if not isinstance(dim, tuple | list) or sorted(d % 4 for d in dim) != [2, 3]:
            raise ValueError(f"averages over all pixels only (dim (2, 3)), got dim {dim}")
        self._then(node, x, GlobalAvgPool(shape), (shape[0], 1, 1) if keepdim else shape[:1])

    def _flatten(self, node: fx.Node, x: Any, start_dim: int = 0, end_dim: int = -1) -> None:
        shape = self._point(node, x).shape
        if start_dim != 1 or end_dim not in (-1, len(shape)):
            raise ValueError(f"flattens samples whole (start_dim 1), got start_dim {start_dim} and end_dim {end_dim}")
        self._flat(node, x)

    def _flat(self, node: fx.Node, x: Any) -> None:
        before = self._point(node, x)
        shape, order = before.shape, before.order
        features = prod(shape)
        layer = Flatten(shape) if features > shape[0] else None
        self._then(node, x, layer, (features,), None if order is None else features_of(order, features // shape[0]))

    def _unflatten(self, node: fx.Node, x: Any, dim: int, sizes: Any) -> None:
        shape = tuple(int(size) for size in sizes)
        before = self._point(node, x)
        if dim != 1 or len(before.shape) != 1 or prod(shape) != before.shape[0] or before.order is not None:
            raise ValueError(f"makes images of features only, got {before.shape} for {shape} along {dim}")
        self._then(node, x, None, shape)

    def _view(self, node: fx.Node, x: Any, rest: Any) -> None:
        shape = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        before = self._point(node, x).shape
        last = shape[-1] if len(shape) == 2 else None
        if not (shape[0] is _BATCH and last == -1) and last != prod(before):
            raise ValueError(f"makes a sample's numbers one row only (batch, -1), got {_sizes(shape)}")
        self._flat(node, x)

    def _size(self, node: fx.Node, x: Any, dim: int | None = None) -> None:
        found = (_BATCH, *self._point(node, x).shape)
        self.numbers[node] = found if dim is None else found[dim]

    def _attribute(self, node: fx.Node, x: Any, name: str) -> None:
        if name != "shape":
            raise ValueError(f"asks for {name}, which is not known here")
        self._size(node, x)

    def _item(self, node: fx.Node, x: Any, key: Any) -> None:
        """A size among those of a tensor, or every k-th pixel of images."""
        if isinstance(x, tuple):
            self.numbers[node] = x[key]
            return
        shape = self._image(node, x)
        whole = slice(None)
        if not isinstance(key, tuple) or len(key) != 4 or key[:2] != (whole, whole):
            raise ValueError("takes every k-th pixel, x[:, :, ::k, ::k], only")
        steps = [1 if each.step is None else each.step for each in key[2:] if isinstance(each, slice)]
        if len(steps) != 2 or any(each.start not in (None, 0) or each.stop is not None for each in key[2:]):
            raise ValueError("takes every k-th pixel, x[:, :, ::k, ::k], only")
        layer = PadChannels(shape, shape[0], (steps[0], steps[1]))
        self._then(node, x, layer, layer.out_shape)

    def _pad(self, node: fx.Node, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> None:
        """Channels of zeros before and behind; ours all come behind, in an order that is kept in mind."""
        shape = self._image(node, x)
        if mode != "constant" or value not in (None, 0) or len(pad) < 6 or any(pad[:4]) or any(pad[6:]):
            raise ValueError(f"pads channels with zeros only, got {tuple(pad)} in mode {mode} with {value}")
        front, behind = pad[4:6]
        before, source = self._point(node, x), x
        stride, inner = (1, 1), before.layer
        if isinstance(inner, PadChannels) and inner.out_shape[0] == inner.in_shape[0] and len(x.users) == 1:
            stride, shape, source = inner.stride, inner.in_shape, before.above
        count = front + shape[0] + behind
        layer = PadChannels(shape, count, stride)
        order = before.order
        if front:
            own = np.arange(shape[0]) if order is None else order
            order = np.concatenate([front + own, np.arange(front), np.arange(front + shape[0], count)])
        elif order is not None:
            order = np.append(order, np.arange(shape[0], count))
        self._then(node, source, layer, layer.out_shape, order)

    def _add(self, node: fx.Node, a: Any, b: Any, alpha: Any = 1) -> None:
        """A Residual: from the last tensor that both ways go through, the longer way is `main`."""
        one, other = self._point(node, a), self._point(node, b)
        if alpha != 1 or one.shape != other.shape:
            raise ValueError(f"sums tensors of one shape only, got {one.shape}, {other.shape} and alpha {alpha}")
        above = set(self._spine(a))
        start = next(each for each in self._spine(b) if each in above)
        if not _same(one.order, other.order):
            wanted = [np.arange(one.shape[0]) if each.order is None else each.order for each in (one, other)]
            if not self._reorder(a, start, wanted[1]) and not self._reorder(b, start, wanted[0]):
                raise ValueError("the channels of its two ways come in other orders, and neither can be brought to it")
        ways = sorted((self._along(a, start), self._along(b, start)), key=len, reverse=True)
        if not ways[0]:
            raise ValueError("sums a tensor and itself, which has no counterpart here")
        one_way, other_way = ({id(each) for _, top in way for _, each in top.walk()} for way in ways)
        if one_way & other_way:
            raise ValueError("its two ways have a layer in common, and cross another sum's: a network is a tree")
        _flatten_alike(ways)
        layer = Residual(way_of(ways[0]), way_of(ways[1]) if ways[1] else None)
        name = _scope(node) or node.name
        self.points[node] = Point(start, name, layer, one.shape, self.points[a].order)

    def _add_(self, node: fx.Node, a: Any, b: Any, alpha: Any = 1) -> None:
        self._check_last(node, a)
        self._add(node, a, b, alpha)

    # -- ways ----------------------------------------------------------------------------------------------------------

    def _spine(self, node: fx.Node | None) -> Iterator[fx.Node]:
        """A tensor, and all that every way to it goes through, back to the input."""
        while node is not None:
            yield node
            node = self.points[node].above

    def _along(self, node: fx.Node, start: fx.Node | None) -> Named:
        """The layers from one tensor to another behind it."""
        found: Named = []
        for each in self._spine(node):
            if each is start:
                break
            point = self.points[each]
            if point.layer is not None:
                found.append((point.name, point.layer))
        return found[::-1]

    def _reorder(self, node: fx.Node, start: fx.Node | None, wanted: Any) -> bool:
        """Bring channels into an order by that of the weights that make them, if nobody else reads them on the way."""
        now = self.points[node].order
        take = wanted if now is None else np.argsort(now)[wanted]
        way: list[Point] = []
        for each in self._spine(node):
            point = self.points[each]
            if each is start or len(each.users) > 1 or point.shape[0] != len(wanted):
                return False
            if isinstance(point.layer, Residual | PadChannels):
                return False
            way.append(point)
            if isinstance(point.layer, SparseLayer):
                break
        else:
            return False
        for point in way:
            if isinstance(point.layer, SparseLayer | BatchNorm):
                point.layer = with_outputs(point.layer, take)
            point.order = wanted
        return True

    def _image(self, node: fx.Node, x: Any) -> tuple[int, int, int]:
        shape = self._point(node, x).shape
        if len(shape) != 3:
            raise ValueError(f"takes images, got {shape}")
        return shape[0], shape[1], shape[2]


_MAX = ("x", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG = ("x", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_CALLS: dict[Any, tuple[Callable[..., None], tuple[str, ...]]] = {
    functional.relu: (Reader._relu, ("x", "inplace")), torch.relu: (Reader._relu, ("x",)),
    "relu": (Reader._relu, ("x",)), "relu_": (Reader._relu_, ("x",)), torch.relu_: (Reader._relu_, ("x",)),
    functional.max_pool2d: (Reader._max_pool, _MAX), functional.avg_pool2d: (Reader._avg_pool, _AVG),
    functional.adaptive_avg_pool2d: (Reader._adaptive, ("x", "output_size")),
    torch.mean: (Reader._mean, ("x", "dim", "keepdim")), "mean": (Reader._mean, ("x", "dim", "keepdim")),
    torch.flatten: (Reader._flatten, ("x", "start_dim", "end_dim")),
    "flatten": (Reader._flatten, ("x", "start_dim", "end_dim")),
    "view": (Reader._view, ("x", "rest")), "reshape": (Reader._view, ("x", "rest")),
    "size": (Reader._size, ("x", "dim")), getattr: (Reader._attribute, ("x", "name")),
    operator.getitem: (Reader._item, ("x", "key")),
    functional.pad: (Reader._pad, ("x", "pad", "mode", "value")),
    operator.add: (Reader._add, ("a", "b")), torch.add: (Reader._add, ("a", "b")),
    "add": (Reader._add, ("a", "b")), "add_": (Reader._add_, ("a", "b")), operator.iadd: (Reader._add_, ("a", "b")),
}  # fmt: skip
"""What functions and methods are read by, with the names of their arguments; `rest` is all that are left."""
_OURS = {"input": "x", "other": "b"}
"""Names of PyTorch's arguments that are ours by another name."""


def _network(layers: Named) -> Network:
    if not layers:
        raise ValueError("from_torch: expected a model that does something to its input, got one that gives it back")
    try:
        return Network(tree_of(layers))
    except ValueError as error:
        raise ValueError(f"from_torch: {one_line(error, 400)}") from None


def _pair(size: Any) -> tuple[int, int]:
    return (size[0], size[1]) if isinstance(size, tuple | list) else (size, size)


def _same(one: Order, other: Order) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one, other))


def _scope(node: fx.Node) -> str:
    """Where in the model an operation stands: the path of the module whose forward has it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _name_of(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return ".".join(filter(None, (_scope(node), node.name)))


def _sizes(shape: Any) -> str:
    """The arguments of a view, of which one may be the batch's size."""
    return "(" + ", ".join("batch" if each is _BATCH else str(each) for each in shape) + ")"


def _spelled(value: Any) -> str:
    return str(getattr(value, "__name__", value))


def _flatten_alike(ways: list[Named]) -> None:
    """Where one way gives features and the other images of one pixel, which PyTorch's layers do not tell apart as ours
    do, make features of these too."""
    main, around = ways
    ends = [main[-1][1].out_shape, around[-1][1].out_shape if around else main[0][1].in_shape]
    if len(ends[0]) == len(ends[1]) or prod(ends[0]) != prod(ends[1]):
        return
    way, shape = (main, ends[0]) if len(ends[0]) > 1 else (around, ends[1])
    way.append(("flat", Flatten(shape)))
