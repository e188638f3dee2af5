"""Layers one after another, as one layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from ..runtime.border import NO_BORDER, Border
from ..runtime.recording import recorded
from ..runtime.tiles import Tiles
from ..runtime.workspace import Ahead, Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import spell
from .call import backward_through, borders, forward_through
from .curvature import Back
from .layer import Graph, Layer, Params


class Sequential(Layer):
    """y = the last layer of … of the first layer of x.

    Parameters
    ----------
    layers : iterable of Layer, or mapping of str to Layer
        Each takes what the one before gives: the same shape, or, where one of the two is flat, as many features. In a
        mapping they have names, which stand in the paths of their parameters; otherwise their numbers are their names.

    Raises
    ------
    TypeError
        If one of them is not a Layer.
    ValueError
        If there are none, shapes do not meet, or a name is empty or holds a dot or a colon.
    """

    halves = bordered = True

    def __init__(self, layers: Iterable[Layer] | Mapping[str, Layer]) -> None:
        self.params: Params = {}
        self.layers, names = _named(layers)
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"a network is made of Layers, got {type(layer).__name__}")
        if not self.layers:
            raise ValueError("a network needs at least one layer")
        self.names = tuple(names)
        for k in range(1, len(self.layers)):
            before, after = self.layers[k - 1 : k + 1]
            if not meet(before.out_shape, after.in_shape):
                raise ValueError(
                    f"layer {names[k]}, {after!r}, takes {after.in_shape}, but layer {names[k - 1]}, {before!r}, "
                    f"before it gives {before.out_shape}"
                )
        self.children = dict(zip(names, self.layers, strict=True))
        self.in_shape, self.out_shape = self.layers[0].in_shape, self.layers[-1].out_shape

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """y, and the cache of each layer."""
        caches, stream = [], workspace.stream
        for name, layer, following in zip(self.names, self.layers, [*self.layers[1:], None], strict=True):
            own = workspace.child(name, stream)
            own.ahead = workspace.ahead if following is None else Ahead(borders(following)[0])
            x, cache = forward_through(layer, x, own)
            caches.append(cache)
            stream += layer.leaves
        return x, caches

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """dx, and all gradients under the layers' names: "0.weight"."""
        grads: Params = {}
        dx: Tiles | None = dy
        for k in range(len(self.layers) - 1, -1, -1):
            layer, name = self.layers[k], self.names[k]
            here = workspace.child(name)
            # The first layer of all sends nothing back, and so reads nothing around its dy.
            reads = k > 1 or (k == 1 and need_dx)
            here.back_border = borders(self.layers[k - 1])[1] if reads else NO_BORDER
            here.onto = None
            if k == 0:
                here.back_border, here.onto = workspace.back_border, workspace.onto
            dx, own = backward_through(layer, dy, cache[k], here, need_dx=need_dx or k > 0, give=True)
            grads |= {f"{name}.{key}": array for key, array in own.items()}
            dy = dx if dx is not None else dy
        return dx if need_dx else None, grads

    @property
    def x_border(self) -> Border:
        """The first layer's."""
        return borders(self.layers[0])[0]

    @property
    def dy_border(self) -> Border:
        """The last layer's."""
        return borders(self.layers[-1])[1]

    @property
    def ends_inside(self) -> bool:
        """It is the last one."""
        return True

    @property
    def joins(self) -> bool:
        """If the last layer does."""
        return self.layers[-1].joins

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        """From layer to layer, if all know how."""
        for name, layer in zip(self.names, self.layers, strict=True):
            x = layer.forward_few(x, workspace.child(name))
            if x is None:
                return None
        return x

    def curvature(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
        """From layer to layer."""
        backs = []
        for name, layer in self.children.items():
            x, back = layer.curvature(x, workspace.child(name))
            x.clear_padding()
            backs.append((name, back))

        def through(h: Tiles, need_dx: bool) -> tuple[Tiles | None, dict[str, Any]]:
            found: dict[str, Any] = {}
            below: Tiles | None = h
            for name, back in reversed(backs):
                below, own = back(h, need_dx or name != self.names[0])
                found |= {f"{name}.{key}": array for key, array in own.items()}
                h = below if below is not None else h
            return below, found

        return x, through

    def export(self, graph: Graph, path: str) -> None:
        """Layer after layer."""
        for name, layer in self.children.items():
            layer.export(graph, f"{path}.{name}" if path else name)

    def count_paths(self, after: Any) -> Any:
        """Through layer after layer."""
        for layer in reversed(self.layers):
            after = layer.count_paths(after)
        return after

    def config(self) -> dict[str, Any]:
        """Nothing: a Sequential is its layers."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> Sequential:
        raise ValueError("Sequential: is made of its layers, by from_children")

    @classmethod
    def from_children(cls, config: dict[str, Any], children: Mapping[str, Layer]) -> Sequential:
        """Make the layer that holds these."""
        return cls(children)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({spell(self.in_shape)}→{spell(self.out_shape)}, {len(self.layers)} layers)"


def meet(given: tuple[int, ...], taken: tuple[int, ...]) -> bool:
    """Whether a layer can take what another gives: one shape, or one of the two flat and of as many features."""
    given, taken = tuple(given), tuple(taken)
    return given == taken or (prod(given) == prod(taken) and 1 in (len(given), len(taken)))


def _named(layers: Iterable[Layer] | Mapping[str, Layer]) -> tuple[list[Layer], list[str]]:
    if not isinstance(layers, Mapping):
        found = list(layers)
        return found, [str(k) for k in range(len(found))]
    for name in layers:
        if not isinstance(name, str) or not name or set(name) & set(".:"):
            raise ValueError(f"a layer's name must be a word without dots and colons, got {name!r}")
    return list(layers.values()), list(layers)
