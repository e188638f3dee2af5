"""Pooling layers: the largest or the mean of each window of an image, and the mean of all of it."""

from __future__ import annotations

from abc import abstractmethod
from math import prod
from typing import Any, ClassVar, Self

import numpy as np

from ..kernels.layout import Window
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, PAIRS, Tiles
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair, pair, read_by, sizes, spell
from .curvature import Back
from .layer import Graph, Layer, Params


class Pool2d(Layer):
    """What both poolings share: windows that stay within the image. A window has at most 256 pixels.

    Parameters
    ----------
    in_shape : (channels, height, width)
    kernel_size : int or (int, int)
        Of a window, vertical and horizontal.
    stride : int or (int, int), optional
        From one window to the next; the kernel size if not given.

    Attributes
    ----------
    out_shape : (channels, height, width)
        ⌊(size − kernel_size) / stride⌋ + 1 each way.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer, is out of range, or the window does not fit the image.
    """

    ONNX: ClassVar[str]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]

    def __init__(
        self, in_shape: tuple[int, int, int], kernel_size: int | Pair, stride: int | Pair | None = None
    ) -> None:
        self.params = {}
        channels, height, width = sizes("in_shape", in_shape, 3)
        self.in_shape = channels, height, width
        self.kernel_size = high, wide = pair("kernel_size", kernel_size)
        self.stride = down, across = pair("stride", kernel_size if stride is None else stride)
        if high > height or wide > width or prod(self.kernel_size) > 256:
            raise ValueError(
                f"{type(self).__name__}: windows must fit images of {height}×{width} and have at most 256 pixels, "
                f"got {high}×{wide}"
            )
        self.out_shape = channels, (height - high) // down + 1, (width - wide) // across + 1

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self._check_any(x)
        y = workspace.array("y", (len(x.data), *self.out_shape, LANES), x.data.dtype)
        return self._forward(x, x.data.reshape(len(x.data), *self.in_shape, LANES), y, workspace)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        x, y = cache[:2]
        self._check_dy(dy, y, x.batch)
        if not need_dx:
            return None, {}
        dx = workspace.array("dx", (len(y), *self.in_shape, LANES), y.dtype)
        masked = self._backward(dy, dy.data.reshape(y.shape), cache, dx, workspace)
        return Tiles(dx.reshape(x.data.shape), dy.batch, masked=masked), {}

    @abstractmethod
    def _forward(self, x: Tiles, images: Any, y: Any, workspace: Workspace) -> tuple[Tiles, Any]:
        """Write y; the cache begins with x and y."""

    @abstractmethod
    def _backward(self, dy: Tiles, images: Any, cache: Any, dx: Any, workspace: Workspace) -> bool:
        """Write dx; returns whether it is masked by the ReLU that gave x."""

    @property
    def halves(self) -> bool:
        """If windows do not overlap: where they do, the way back adds up what several send to a pixel."""
        return all(size <= step for size, step in zip(self.kernel_size, self.stride, strict=True))

    @property
    def _window(self) -> Window:
        return Window(*self.kernel_size, *self.stride)

    def export(self, graph: Graph, path: str) -> None:
        """A MaxPool or an AveragePool."""
        graph.reshape(f"{path}.in", self.in_shape)
        graph.node(path, self.ONNX, kernel_shape=self.kernel_size, strides=self.stride)
        graph.shape = self.out_shape

    def count_paths(self, after: Any) -> Any:
        """Every pixel of a window leads to its output."""
        before = np.zeros((len(after), *self.in_shape))
        for offset in np.ndindex(*self.kernel_size):
            read_by(before, offset, self.out_shape, self.stride)[...] += after.reshape(len(after), *self.out_shape)
        return before.reshape(len(after), -1)

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {name: list(getattr(self, name)) for name in ("in_shape", "kernel_size", "stride")}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> Self:
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({spell(self.in_shape)}→{spell(self.out_shape)})"


class MaxPool2d(Pool2d):
    """y = the largest x of each window. Of equal ones the first counts; NaN is larger than any number."""

    ONNX = "MaxPool"

    def _forward(self, x: Tiles, images: Any, y: Any, workspace: Workspace) -> tuple[Tiles, Any]:
        index = workspace.array("index", y.shape, np.uint16 if y.dtype == PAIRS else np.uint8)  # a byte a sample
        workspace.kernels.max_pool(images, self._window, y, index)
        return Tiles(y, x.batch, rectified=x.rectified), (x, y, index)

    def _backward(self, dy: Tiles, images: Any, cache: Any, dx: Any, workspace: Workspace) -> bool:
        x, _, index = cache
        workspace.kernels.max_unpool(images, index, self._window, dx)
        # dx is dy at each window's largest pixel, whose x is y: if dy is zero wherever y is, dx is zero wherever x is.
        return dy.masked and x.rectified


class AvgPool2d(Pool2d):
    """y = the mean of each window of x."""

    ONNX = "AveragePool"

    def _forward(self, x: Tiles, images: Any, y: Any, workspace: Workspace) -> tuple[Tiles, Any]:
        workspace.kernels.mean_pool(images, self._window, y)
        return Tiles(y, x.batch), (x, y)

    def _backward(self, dy: Tiles, images: Any, cache: Any, dx: Any, workspace: Workspace) -> bool:
        workspace.kernels.mean_unpool(images, self._window, dx)
        return False

    def curvature(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
        """With the squared weights of a mean."""
        return averaged(super().curvature(x, workspace), prod(self.kernel_size), workspace)


class GlobalAvgPool(Layer):
    """y = the mean of each channel over all pixels.

    Parameters
    ----------
    in_shape : (channels, height, width)

    Attributes
    ----------
    out_shape : (channels,)

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer.

    References
    ----------
    M. Lin, Q. Chen, S. Yan, Network In Network, ICLR 2014, section 3.2.
    """

    halves = True
    in_shape: tuple[int, int, int]
    out_shape: tuple[int]

    def __init__(self, in_shape: tuple[int, int, int]) -> None:
        self.params = {}
        channels, height, width = sizes("in_shape", in_shape, 3)
        self.in_shape, self.out_shape = (channels, height, width), (channels,)

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self._check_any(x)
        y = workspace.array("y", (len(x.data), *self.out_shape, LANES), x.data.dtype)
        images = x.data.reshape(len(x.data), *self.in_shape, LANES)
        workspace.kernels.mean_pool(images, self._window, self._means(y))
        return Tiles(y, x.batch), (x, y)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        x, y = cache
        self._check_dy(dy, y, x.batch)
        if not need_dx:
            return None, {}
        dx = workspace.array("dx", (len(y), *self.in_shape, LANES), y.dtype)
        workspace.kernels.mean_unpool(self._means(dy.data), self._window, dx)
        return Tiles(dx.reshape(x.data.shape), dy.batch), {}

    @property
    def _window(self) -> Window:
        return Window(*self.in_shape[1:], 1, 1)

    def _means(self, y: Any) -> Any:
        """One number a channel as images of one pixel."""
        return y.reshape(len(y), self.in_shape[0], 1, 1, LANES)

    def curvature(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
        """As of AvgPool2d."""
        return averaged(super().curvature(x, workspace), prod(self.in_shape[1:]), workspace)

    def export(self, graph: Graph, path: str) -> None:
        """A GlobalAveragePool."""
        graph.reshape(f"{path}.in", self.in_shape)
        graph.node(path, "GlobalAveragePool")
        graph.shape = self.in_shape[0], 1, 1
        graph.reshape(f"{path}.out", self.out_shape)

    def count_paths(self, after: Any) -> Any:
        """Every pixel of a channel leads to its mean."""
        return np.repeat(after, prod(self.in_shape[1:]), axis=1)

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"in_shape": list(self.in_shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> GlobalAvgPool:
        return cls(tuple(config["in_shape"]))

    def __repr__(self) -> str:
        return f"GlobalAvgPool({spell(self.in_shape)})"


def averaged(curvature: tuple[Tiles, Back], count: int, workspace: Workspace) -> tuple[Tiles, Back]:
    """The curvature of a mean of `count`: it has weights 1/count, and squared ones 1/count², so h is divided once more
    than a gradient."""
    y, plain = curvature

    def back(h: Tiles, need_dx: bool) -> tuple[Tiles | None, dict[str, Any]]:
        below, grads = plain(h, need_dx)
        if below is not None:
            workspace.device.fill(below.data, workspace.device.get(below.data) / count)
        return below, grads

    return y, back
