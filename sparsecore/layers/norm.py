"""Batch normalisation: every feature, or every channel of images, at mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from ..kernels.tuning import NORM_PIXELS
from ..runtime.arrays import narrowed, real_numbers, unfit
from ..runtime.border import NO_BORDER, Border
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Tiles, tile_samples
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import sizes, spell
from .curvature import Back, behind_relu
from .layer import Graph, Layer, Params
from .norm_shared import moments_of_all, slopes_of_all


class BatchNorm(Layer):
    """y = (x − mean) / √(variance + eps) · scale + shift, then a ReLU if `relu`.

    In training mean and variance are the batch's, over its samples and, of images, over all pixels; running rows,
    `kept`, follow them by `momentum`. Outside training the running rows take their place. The variance divides by the
    number of values to normalise, and by one less in the running row, as PyTorch's does.

    Parameters
    ----------
    shape : (features,) or (channels, height, width)
        Of one sample.
    eps : float
        Added to the variance; positive.
    momentum : float
        How far a running row moves towards a batch's value; from 0 to 1.
    relu : bool
        Apply max(y, 0) on the way out.
    scale, shift, mean, var : array of shape (channels,), optional
        Copied. Ones, zeros, zeros and ones if not given.
    dtype : float32 or float64

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a size, eps or momentum is out of range, an array has another shape, or a variance is negative; in training
        if there is only one value a channel.

    References
    ----------
    S. Ioffe, C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
    ICML 2015, algorithms 1 and 2.
    """

    undecayed = frozenset({"scale", "shift"})
    starts = MappingProxyType({"scale": 1.0, "shift": 0.0, "mean": 0.0, "var": 1.0})

    halves = bordered = True

    def __init__(
        self, shape: Sequence[int], *, eps: float = 1e-5, momentum: float = 0.1, relu: bool = False,
        scale: Any = None, shift: Any = None, mean: Any = None, var: Any = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        if not isinstance(shape, Sequence) or len(shape) not in (1, 3):
            raise ValueError(f"BatchNorm: shape must be (features,) or (channels, height, width), got {shape!r}")
        self.in_shape = self.out_shape = sizes("shape", shape, len(shape))
        self.eps, self.momentum, self.relu = _number("eps", eps), _number("momentum", momentum), bool(relu)
        if not 0 < self.eps < np.inf or not 0 <= self.momentum <= 1:
            raise ValueError(
                f"BatchNorm: eps must be positive and finite, and momentum from 0 to 1, got {eps} and {momentum}"
            )
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"BatchNorm: dtype must be float32 or float64, got {kind}")
        given = {"scale": scale, "shift": shift, "mean": mean, "var": var}
        arrays = {name: self._row(name, values, kind) for name, values in given.items()}
        if (arrays["var"] < 0).any():
            raise ValueError(f"{self!r}: var must not be negative, got {arrays['var'].min()}")
        self.params = {name: arrays[name] for name in ("scale", "shift")}
        self.least_batch = 1 if self.pixels > 1 else 2
        self.kept = {name: arrays[name] for name in ("mean", "var")}

    def _row(self, name: str, values: Any, dtype: Any) -> np.ndarray[Any, Any]:
        channels = self.in_shape[0]
        if values is None:
            return np.full(channels, self.starts[name], dtype)
        values = real_numbers(values, self, name, truths=False)
        if np.shape(values) != (channels,):
            raise ValueError(f"{self!r}: {name} must have shape ({channels},), got {np.shape(values)}")
        return np.array(narrowed(values, dtype, self, name), dtype)

    def _check_values(self) -> None:
        """Refuse rows that kernels would misread: anyone may write to `params` and `kept`."""
        kind, channels = self.dtype, self.in_shape[0]
        for name, array in (*self.params.items(), *self.kept.items()):
            self._check_device(array, name)
            if array.shape != (channels,) or array.dtype != kind or unfit(array, written=False):
                raise ValueError(
                    f"{self!r}: {name} must be a contiguous array of {channels} {kind} numbers, got {array.dtype} "
                    f"{array.shape}"
                )

    @property
    def pixels(self) -> int:
        """Of a channel of one sample."""
        return prod(self.in_shape[1:])

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """Mean and variance of the batch, or those that were kept; then one pass."""
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        kernels, channels, images = workspace.kernels, self.in_shape[0], self._images(x.data)
        share = workspace.share if workspace.training else None
        joint = share is not None and share.norms
        whole = share.batch if share is not None and joint else x.batch  # what mean and variance are of
        empty = share is not None and not whole
        if workspace.training and whole * self.pixels < 2 and not empty:
            raise ValueError(
                f"{self!r}: in training needs more than one value a channel, got a batch of {whole}: choose a "
                "batch size that leaves no batch of one sample"
            )
        ahead = workspace.ahead
        border = self._border(ahead.border)
        y, within = self._out("y", x, border, workspace)
        if y is x.data:
            raise ValueError(f"{self!r}: x is this layer's last output in the same workspace; give each use its own")
        found = workspace.array("found", (channels, 2), np.float64)
        if workspace.training and not empty:
            partial = self._partial(x, workspace)
            kernels.moments(images, x.batch, partial)
            if joint:
                partial = moments_of_all(partial, self.pixels, x.batch, tile_samples(x.data.dtype), workspace)
            rows = self.kept["mean"], self.kept["var"]
            samples = tile_samples(x.data.dtype)
            kernels.settle(partial, self.pixels, whole, self.eps, self.momentum, *rows, found, samples=samples)
        else:
            kernels.recall(self.kept["mean"], self.kept["var"], self.eps, found)
        around = ahead.around if self.joins else None
        relu = self.relu if around is None else ahead.relu
        kernels.normalise(
            images, found, self.params["scale"], self.params["shift"], self._images(y), x.batch,
            around=None if around is None else self._images(around.data), relu=relu,
        )  # fmt: skip
        # Not said to be rectified: what ReLU stopped is found again from x, which backward reads anyway.
        tiles = Tiles(y, x.batch, border=border, within=within, joined=around is not None)
        return tiles, (x, y, found, workspace.training)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """Two sums a channel, which are also the gradients of scale and shift; then one pass."""
        x, y, found, training = cache
        self._check_values()
        self._check_dy(dy, y, x.batch)
        kernels, scale, images = workspace.kernels, self.params["scale"], self._images(x.data)
        given, shift = self._images(dy.data), self.params["shift"]
        grads = {name: workspace.array(name, scale.shape, self.dtype) for name in ("scale", "shift")}
        partial, totals = self._partial(x, workspace), workspace.array("totals", found.shape, np.float64)
        kernels.slopes(given, images, found, scale, shift, x.batch, partial, relu=self.relu)
        kernels.settle_slopes(partial, found, totals, grads["scale"], grads["shift"])
        share = workspace.share
        if not need_dx:
            return None, grads
        if training and share is not None and share.norms:
            slopes_of_all(totals, x.batch, workspace)
        border = self._border(workspace.back_border)
        dx, within = self._out("dx", x, border, workspace)
        out = self._images(dx)
        kernels.normalise_back(
            given, images, found, scale, shift, totals, out, x.batch, training=training, relu=self.relu
        )
        return Tiles(dx, dy.batch, border=border, within=within), grads

    @property
    def joins(self) -> bool:
        """Unless a ReLU comes between."""
        return not self.relu

    def _out(self, name: str, x: Tiles, border: Border, workspace: Workspace) -> tuple[Any, Any]:
        """An array for images or features, of x's shape, and the array within whose border it lies, if any."""
        if border == NO_BORDER:
            return workspace.array(name, x.data.shape, x.data.dtype), None
        return workspace.images(name, len(x.data), self.in_shape, border, x.data.dtype)

    def _border(self, asked: Border) -> Border:
        """What a neighbour reads around images, if they are this layer's too: features it makes into images itself."""
        return asked if len(self.in_shape) == 3 else NO_BORDER

    def _images(self, data: Any) -> Any:
        """The same memory as this layer's images, whatever a neighbour takes it for: features have one pixel."""
        shape = (*self.in_shape, 1, 1)[:3]
        if data.shape[1:-1] == shape:
            return data  # perhaps within a border, where a reshape would copy
        return data.reshape(len(data), *shape, LANES)

    def _partial(self, x: Tiles, workspace: Workspace) -> Any:
        """Where the sums of segments go: as many tiles make one as hold NORM_PIXELS lines of a channel."""
        tiles = len(x.data)
        segments = -(-tiles // max(1, NORM_PIXELS // self.pixels))
        return workspace.array("partial", (self.in_shape[0], segments, 2), np.float64)

    def folded(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """factor, offset: outside training y = factor · x + offset, in float64 and on the host.

        Whatever takes this layer into the weights before it (export, inference, removing channels) starts from here.
        """
        params = {**self.params, **self.kept}
        scale, shift, mean, var = (
            np.asarray(self.device.get(params[name]), np.float64) for name in ("scale", "shift", "mean", "var")
        )
        factor = scale / np.sqrt(var + self.eps)
        return factor, shift - mean * factor

    def curvature(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Back]:
        """Mean and variance are taken as constants: h goes back times the square of what x was multiplied by."""
        y, cache = self.forward_tiles(x, workspace)
        get, fill = self.device.get, self.device.fill
        found = np.asarray(get(cache[2]))
        mean, rate = (found[:, k, None, None, None] for k in range(2))

        def back(h: Tiles, need_dx: bool) -> tuple[Tiles | None, dict[str, Any]]:
            own = workspace.child("curvature")
            h = behind_relu(h, replace(y, rectified=self.relu), own)
            given, images = self._images(np.asarray(get(h.data))), self._images(np.asarray(get(x.data)))
            factor = (np.asarray(get(self.params["scale"]), np.float64)[:, None, None, None] * rate) ** 2
            grads = {name: own.array(name, (self.in_shape[0],), self.dtype) for name in ("scale", "shift")}
            fill(grads["scale"], np.sum(given * ((images - mean) * rate) ** 2, (0, 2, 3, 4)).astype(self.dtype))
            fill(grads["shift"], given.sum((0, 2, 3, 4)).astype(self.dtype))
            if not need_dx:
                return None, grads
            below = own.array("dx", x.data.shape, self.dtype)
            fill(below, (given * factor).astype(self.dtype).reshape(x.data.shape))
            return behind_relu(Tiles(below, h.batch), x, own), grads

        return y, back

    def export(self, graph: Graph, path: str) -> None:
        """A BatchNormalization, and a Relu if there is one."""
        graph.reshape(f"{path}.in", self.in_shape)
        arrays = {**self.params, **self.kept}
        names = [
            graph.array(f"{path}.{name}", self.device.get(arrays[name])) for name in ("scale", "shift", "mean", "var")
        ]
        graph.node(path, "BatchNormalization", names, epsilon=self.eps)
        if self.relu:
            graph.node(f"{path}.relu", "Relu")

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"shape": list(self.in_shape), "eps": self.eps, "momentum": self.momentum, "relu": self.relu}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> BatchNorm:
        if not isinstance(config["relu"], bool):
            raise ValueError("BatchNorm: relu must be true or false")
        rows = {name: params[name] for name in ("scale", "shift")}
        kept = {name: params[name] for name in ("mean", "var") if name in params}
        return cls(**config, **rows, **kept, dtype=rows["scale"].dtype)

    def __repr__(self) -> str:
        return f"BatchNorm({spell(self.in_shape)})"


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"BatchNorm: {name} must be a number, got {value!r}") from None
