"""The way around a block that has no parameters: fewer pixels, and new channels that are zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair, pair, sizes, spell
from .layer import Graph, Layer, Params


class PadChannels(Layer):
    """y = every `stride`-th pixel of x; channels that x does not have are zero and come last.

    Parameters
    ----------
    in_shape : (channels, height, width)
    out_channels : int
        At least as many as x has.
    stride : int or (int, int)
        Vertical and horizontal.

    Attributes
    ----------
    out_shape : (out_channels, ⌈height / stride⌉, ⌈width / stride⌉)

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer or is out of range.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 3.3, shortcut A.
    """

    halves = bordered = True
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]

    def __init__(self, in_shape: tuple[int, int, int], out_channels: int, stride: int | Pair = 2) -> None:
        self.params: Params = {}
        channels, height, width = sizes("in_shape", in_shape, 3)
        (out_channels,) = sizes("out_channels", (out_channels,), 1)
        self.stride = down, across = pair("stride", stride)
        if out_channels < channels:
            raise ValueError(f"PadChannels: out_channels must be at least the {channels} of x, got {out_channels}")
        self.in_shape = channels, height, width
        self.out_shape = out_channels, -(-height // down), -(-width // across)

    def _seen(self, x: Any) -> Any:
        """The pixels of x that go on: a view."""
        images = x.reshape(len(x), *self.in_shape, LANES)
        return images[:, :, :: self.stride[0], :: self.stride[1]]

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self._check_any(x)
        y = workspace.array("y", (len(x.data), *self.out_shape, LANES), x.data.dtype, zero=True)
        workspace.kernels.place(self._seen(x.data), y[:, : self.in_shape[0]])
        return Tiles(y, x.batch, rectified=x.rectified), (x, y)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        x, y = cache
        self._check_dy(dy, y, x.batch)
        if not need_dx:
            return None, {}
        onto = workspace.onto
        if onto is not None and onto.data.size == x.data.size:  # most of its pixels have nothing to add to them
            here, mask = self._seen(onto.data), self._seen(x.data) if onto.masked else None
            workspace.kernels.add(here, dy.data.reshape(y.shape)[:, : self.in_shape[0]], here, mask=mask)
            return replace(onto, joined=True), {}
        dx = workspace.array("dx", x.data.shape, y.dtype, zero=True)
        workspace.kernels.place(dy.data.reshape(y.shape)[:, : self.in_shape[0]], self._seen(dx))
        return Tiles(dx, dy.batch, masked=dy.masked and x.rectified), {}

    def export(self, graph: Graph, path: str) -> None:
        """A Slice and a Pad."""
        graph.reshape(f"{path}.in", self.in_shape)
        bounds = {"starts": (0, 0), "ends": self.in_shape[1:], "axes": (2, 3), "steps": self.stride}
        named = [graph.array(f"{path}.{name}", np.array(values, np.int64)) for name, values in bounds.items()]
        graph.node(f"{path}.seen", "Slice", named)
        more = self.out_shape[0] - self.in_shape[0]
        graph.node(path, "Pad", [graph.array(f"{path}.pads", np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))])
        graph.shape = self.out_shape

    def count_paths(self, after: Any) -> Any:
        """Each output of a channel that x has is one of its pixels."""
        before = np.zeros((len(after), *self.in_shape))
        given = after.reshape(len(after), *self.out_shape)[:, : self.in_shape[0]]
        before[:, :, :: self.stride[0], :: self.stride[1]] = given
        return before.reshape(len(after), -1)

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"in_shape": list(self.in_shape), "out_channels": self.out_shape[0], "stride": list(self.stride)}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> PadChannels:
        return cls(**config)

    def __repr__(self) -> str:
        return f"PadChannels({spell(self.in_shape)}→{spell(self.out_shape)})"
