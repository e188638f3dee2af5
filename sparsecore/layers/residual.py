"""A layer with a way around it: the two are summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..runtime.border import NO_BORDER, Border
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Ahead, Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import spell
from .call import backward_through, borders, forward_through, mask_tiles
from .curvature import Back, behind_relu
from .layer import Graph, Layer, Params


class Residual(Layer):
    """y = main(x) + shortcut(x), then a ReLU if `relu`.

    Parameters
    ----------
    main : Layer
        Such as a Sequential of two convolutions.
    shortcut : Layer, optional
        Such as a 1×1 convolution where `main` changes the shape; x itself if not given.
    relu : bool
        Apply max(y, 0) to the sum.

    Raises
    ------
    TypeError
        If one of the two is no Layer.
    ValueError
        If they do not take and give the same shapes.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, equations 1 and 2.
    """

    halves = bordered = True

    def __init__(self, main: Layer, shortcut: Layer | None = None, *, relu: bool = False) -> None:
        self.params: Params = {}
        self.main, self.shortcut, self.relu = main, shortcut, bool(relu)
        self.children = {"main": main} | ({} if shortcut is None else {"shortcut": shortcut})
        for name, layer in self.children.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Residual: {name} must be a Layer, got {type(layer).__name__}")
        self.in_shape, self.out_shape = tuple(main.in_shape), tuple(main.out_shape)
        around = self.in_shape if shortcut is None else tuple(shortcut.out_shape)
        if shortcut is not None and tuple(shortcut.in_shape) != self.in_shape:
            raise ValueError(f"Residual: main takes {self.in_shape}, but shortcut takes {shortcut.in_shape}")
        if around != self.out_shape:
            way = "x, which goes around it, is" if shortcut is None else "shortcut gives"
            raise ValueError(f"Residual: main gives {self.out_shape}, but {way} {around}: project it by a shortcut")

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """The sum, in one pass over both summands."""
        self._check(x, self.in_shape, x.data.dtype, "x")
        around, shortcut_cache = x, None
        if self.shortcut is not None:
            beside = workspace.child("shortcut", workspace.stream + self.main.leaves)
            beside.ahead = Ahead()
            around, shortcut_cache = forward_through(self.shortcut, x, beside)
        inside = workspace.child("main", workspace.stream)
        inside.ahead = Ahead(workspace.ahead.border, around, self.relu) if self.main.joins else Ahead()
        y, main_cache = forward_through(self.main, x, inside)
        if not y.joined:
            out = workspace.array("y", (len(x.data), *self.out_shape, LANES), x.data.dtype)
            workspace.kernels.add(y.data.reshape(out.shape), around.data.reshape(out.shape), out, relu=self.relu)
            y = Tiles(out, x.batch)
        y = replace(y, rectified=self.relu, joined=False)
        return y, (x, y.data, main_cache, shortcut_cache)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """dy goes both ways; dx is the sum of what comes back."""
        x, y, main_cache, shortcut_cache = cache
        self._check_dy(dy, y, x.batch)
        if self.relu and not dy.masked:
            border = x.border if self.shortcut is None else NO_BORDER  # main's gradient may be added where x lies
            masked, within = workspace.images("masked dy", len(y), self.out_shape, border, y.dtype)
            mask_tiles(workspace, dy.data, y, masked)
            dy = Tiles(masked, dy.batch, border=border, within=within, free=True)
        # Not masked yet by a ReLU at the end of main or shortcut.
        dy = replace(dy, masked=False)
        inside = workspace.child("main")
        inside.back_border = NO_BORDER
        # Behind a layer that joins, such as a batch norm, nothing in main keeps this dy, not even for later questions.
        inside.onto = dy if self.shortcut is None and dy.free and self.main.joins else None
        dx, own = backward_through(self.main, dy, main_cache, inside, need_dx=need_dx)
        grads = {f"main.{name}": array for name, array in own.items()}
        back: Tiles | None = dy
        if self.shortcut is not None:
            beside = workspace.child("shortcut")
            beside.back_border = NO_BORDER
            beside.onto = dx if dx is not None and dx.free and dx.masked == x.rectified else None
            back, own = backward_through(self.shortcut, dy, shortcut_cache, beside, need_dx=need_dx)
            grads |= {f"shortcut.{name}": array for name, array in own.items()}
        if not need_dx or dx is None or back is None:
            return None, grads
        if dx.joined or back.joined:  # with each other, not with what this block's workspace may say
            return replace(dx if dx.joined else back, joined=False), grads
        out, within = workspace.array("dx", x.data.shape, y.dtype), None
        if x.within is not None:  # where x lies, the gradient of another block may be added onto this one
            out, within = workspace.images("dx", len(x.data), self.in_shape, x.border, y.dtype)
        summands = dx.data.reshape(out.shape), back.data.reshape(out.shape)
        workspace.kernels.add(*summands, out, mask=x.data if x.rectified else None)
        tiles = Tiles(out, dy.batch, masked=x.rectified, border=x.border, within=within, free=True)
        return tiles, grads

    @property
    def x_border(self) -> Border:
        """What main reads, if what goes around may lie within a border too."""
        return borders(self.main)[0] if self.main.joins else NO_BORDER

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        """The sum, if both ways know how."""
        around = x if self.shortcut is None else self.shortcut.forward_few(x, workspace.child("shortcut"))
        through = self.main.forward_few(x, workspace.child("main"))
        if around is None or through is None:
            return None
        y = workspace.array("y", through.shape, through.dtype)
        summands = (array.reshape(1, -1) for array in (through, around, y))
        workspace.kernels.add(*summands, relu=self.relu)
        return y

    def curvature(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
        """The curvature of the sum goes both ways; what comes back is summed, without the mixed terms."""
        through, back = self.main.curvature(x, workspace.child("main"))
        around, other = x, None
        if self.shortcut is not None:
            around, other = self.shortcut.curvature(x, workspace.child("shortcut"))
        y = workspace.array("y", (len(x.data), *self.out_shape, LANES), x.data.dtype)
        workspace.kernels.add(through.data.reshape(y.shape), around.data.reshape(y.shape), y, relu=self.relu)

        def both(h: Tiles, need_dx: bool) -> tuple[Tiles | None, dict[str, Any]]:
            own = workspace.child("curvature")
            below, found = back(behind_relu(Tiles(h.data, h.batch), through, own.child("main")), need_dx)
            found = {f"main.{name}": array for name, array in found.items()}
            beside: Tiles | None = h
            if other is not None:
                beside, more = other(behind_relu(Tiles(h.data, h.batch), around, own.child("shortcut")), need_dx)
                found |= {f"shortcut.{name}": array for name, array in more.items()}
            if below is None or beside is None:
                return None, found
            out = own.array("dx", x.data.shape, h.data.dtype)
            summands = below.data.reshape(out.shape), beside.data.reshape(out.shape)
            workspace.kernels.add(*summands, out, mask=x.data if x.rectified else None)
            return Tiles(out, h.batch, masked=x.rectified), found

        return Tiles(y, x.batch, rectified=self.relu), both

    def export(self, graph: Graph, path: str) -> None:
        """Both ways, an Add, and a Relu if there is one."""
        graph.reshape(f"{path}.in", self.in_shape)
        start = graph.value
        self.main.export(graph, f"{path}.main")
        graph.reshape(f"{path}.out", self.out_shape)
        through, graph.value, graph.shape = graph.value, start, self.in_shape
        if self.shortcut is not None:
            self.shortcut.export(graph, f"{path}.shortcut")
        graph.reshape(f"{path}.around", self.out_shape)
        graph.node(path, "Add", [through])
        if self.relu:
            graph.node(f"{path}.relu", "Relu")

    def count_paths(self, after: Any) -> Any:
        """Those through it and those around it."""
        around = after if self.shortcut is None else self.shortcut.count_paths(after)
        return self.main.count_paths(after) + around

    def config(self) -> dict[str, Any]:
        """What makes this layer again, beside the layers that it holds."""
        return {"relu": self.relu}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> Residual:
        raise ValueError("Residual: is made of its layers, by from_children")

    @classmethod
    def from_children(cls, config: dict[str, Any], children: Mapping[str, Layer]) -> Residual:
        """Make the layer that holds these."""
        if not isinstance(config["relu"], bool) or not {"main"} <= children.keys() <= {"main", "shortcut"}:
            raise ValueError("Residual: needs main, perhaps shortcut, and relu true or false")
        return cls(children["main"], children.get("shortcut"), relu=config["relu"])

    def __repr__(self) -> str:
        return f"Residual({spell(self.in_shape)}→{spell(self.out_shape)})"
