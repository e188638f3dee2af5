"""The transposed sparse convolution: what a convolution sends back, used forward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.border import NO_BORDER, Border
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import SampledRows, Workspace
from ..storage.cached import cached
from ..storage.conv_plan import ConvPlan, Phase
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair, pair, sizes, spell
from .layer import Params
from .sparse import SparseLayer, checked_pattern


class SparseConvTranspose2d(SparseLayer):
    """y[o, v·stride + ky·dilation − padding, …] = b[o] + Σ w[o, c, ky, kx] · x[c, v, u]: Dumoulin & Visin (2016), 4.

    It is used alone, by `sparsecore.interop.torch`, not in networks. The same connections, seen from y, are a
    convolution that takes images like y and gives images like x: its mirror. y is what the mirror sends back for x, dx
    what it gives for dy.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_channels, in_channels · kernel height · kernel width), its columns as those of `SparseConv2d`.
    in_shape : (in_channels, height, width)
        Of one image.
    kernel_size, stride, padding, output_padding, dilation : (int, int)
        Vertical and horizontal, as of `torch.nn.ConvTranspose2d`.
    weight : array of shape (nnz,)
        Values in CSR order, copied.
    bias : array of shape (out_channels,), optional
        Copied; zeros if not given.
    dtype : float32 or float64

    Attributes
    ----------
    out_shape : (out_channels, height, width)
        (size − 1)·stride − 2·padding + dilation·(kernel_size − 1) + output_padding + 1 each way.

    Raises
    ------
    TypeError
        If pattern is not a SparsityPattern, or a size not an integer.
    ValueError
        If sizes are out of range or do not fit, or weight or bias has another shape.
    """

    halves = False
    bordered = True
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]

    def __init__(
        self, pattern: SparsityPattern, in_shape: tuple[int, int, int], kernel_size: int | Pair,
        stride: int | Pair = 1, padding: int | Pair = 0, output_padding: int | Pair = 0, dilation: int | Pair = 1, *,
        weight: Any = None, bias: Any = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        rows, columns = checked_pattern(pattern, "SparseConvTranspose2d").shape
        channels, height, width = sizes("in_shape", in_shape, 3)
        self.in_shape = channels, height, width
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding, self.dilation = pair("padding", padding, least=0), pair("dilation", dilation)
        self.output_padding = pair("output_padding", output_padding, least=0)
        high, wide = self.kernel_size
        if columns != channels * high * wide:
            raise ValueError(
                f"SparseConvTranspose2d: pattern must have {channels}·{high}·{wide} = {channels * high * wide} columns "
                f"for {channels} channels and filters of {high}×{wide}, got {columns}"
            )
        fields = zip(
            self.in_shape[1:], self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation,
            strict=True,
        )  # fmt: skip
        out = [(size - 1) * s - 2 * p + d * (k - 1) + more + 1 for size, k, s, p, more, d in fields]
        if min(out) < 1:
            raise ValueError(
                f"SparseConvTranspose2d: padding {self.padding} leaves nothing of images of {height}×{width}"
            )
        self.out_shape = rows, out[0], out[1]
        super().__init__(pattern, weight, bias, relu=False, format="csr", rng=None, dtype=dtype)

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """y = b + what the mirror sends back for x, phase by phase: each writes every stride-th pixel."""
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        mirror, kernels, tiles = self.plan.mirror, workspace.kernels, len(x.data)
        y = workspace.array("y", (tiles, *self.out_shape, LANES), self.dtype)
        cache = _, padded, _, _ = self.cache_of(x, y, workspace)
        for k, (phase, perm, channel) in enumerate(self.plan.walked):
            weight, bias = workspace.array(f"weight {k}", perm.shape, self.dtype), None
            kernels.reorder(self.weight, perm, weight)
            if self.bias is not None:  # a phase of several offsets has rows for each of them
                bias = workspace.array(f"bias {k}", channel.shape, self.dtype)
                kernels.reorder(self.bias, channel, bias)
            grid = mirror.phase_grid(phase, tiles, y)
            kernels.spmm(phase.layout, grid, weight, padded, bias, phase.of(y))
        return Tiles(y, x.batch), cache

    def cache_of(self, x: Tiles, y: Any, workspace: Workspace) -> Any:
        border = self.plan.mirror.dy_border
        return x, self._padded("x", x, self.in_shape, border, workspace), y, self.pattern

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """dW[p] = ⟨x, what p writes to of dy⟩, for stored p only; db = Σ dy; dx = what the mirror gives for dy."""
        x, padded, y, pattern = cache
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        self._check_dy(dy, y, x.batch)
        self._check_same(pattern)
        plan, mirror, kernels, tiles = self.plan, self.plan.mirror, workspace.kernels, len(x.data)
        padded_dy = self._padded("dy", dy, self.out_shape, mirror.x_border, workspace)
        inside = mirror.dy_border.interior(padded)
        mirrored, dw = (workspace.array(name, self.weight.shape, self.dtype) for name in ("mirrored dw", "weight"))
        grid = mirror.grid(tiles, inside)
        workspace.sample(grid, inside, padded_dy)
        kernels.sddmm(mirror.forward, grid, inside, padded_dy, mirrored, more=workspace.more)
        kernels.reorder(mirrored, plan.back, dw)
        grads = {"weight": dw}
        if self.bias is not None:
            grads["bias"] = workspace.array("bias", self.bias.shape, self.dtype)
            nothing = workspace.array("no connections", (0,), self.dtype)
            images = mirror.x_border.interior(padded_dy)
            whole = plan.sums.grid(tiles, images)
            kernels.sddmm(
                plan.sums.forward, whole, images, padded_dy, nothing, grads["bias"], more=workspace.more
            )
        if not need_dx:
            return None, grads
        weight = workspace.array("mirrored weight", self.weight.shape, self.dtype)
        kernels.reorder(self.weight, plan.perm, weight)
        dx = workspace.array("dx", (tiles, *self.in_shape, LANES), self.dtype)
        kernels.spmm(mirror.forward, mirror.grid(tiles, dx), weight, padded_dy, None, dx)
        return Tiles(dx.reshape(x.data.shape), dy.batch), grads

    def gradient_at(self, pattern: SparsityPattern, workspace: Workspace) -> Any:
        """The gradient that connections have, stored or not, from the last backward pass; see `SparseLayer`."""
        if pattern.shape != self.pattern.shape:
            raise ValueError(f"{self!r}: the pattern must have shape {self.pattern.shape}, got {pattern.shape}")
        if (sampled := workspace.sampled) is None:
            raise ValueError(f"{self!r}: has no gradient: there was no backward pass in this workspace")
        if isinstance(sampled, SampledRows):
            return super().gradient_at(pattern, workspace)
        plan, kernels = self.plan_of(pattern), workspace.played.kernels
        mirrored, found = (
            workspace.played.array(name, (pattern.nnz,), self.dtype) for name in ("mirrored others", "others")
        )
        kernels.sddmm(plan.mirror.forward, sampled.grid, sampled.dy, sampled.x, mirrored)
        kernels.reorder(mirrored, plan.back, found)
        return found

    def _padded(
        self, name: str, given: Tiles, shape: tuple[int, ...], border: Border, workspace: Workspace
    ) -> Any:
        """Images in a border of zeros; as they are if there is none."""
        images = given.data.reshape(len(given.data), *shape, LANES)
        if border == NO_BORDER and given.border == NO_BORDER:
            return images
        inner, padded = workspace.images(name, len(images), shape, border, self.dtype)
        workspace.kernels.place(images, inner)
        return inner if padded is None else padded

    def config(self) -> dict[str, Any]:
        """What makes this layer again, beside its pattern and parameters."""
        names = ("in_shape", "kernel_size", "stride", "padding", "output_padding", "dilation")
        return {name: list(getattr(self, name)) for name in names} | self._without_bias

    @classmethod
    def from_config(
        cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params
    ) -> SparseConvTranspose2d:
        if pattern is None:
            raise ValueError("SparseConvTranspose2d: needs a pattern")
        weight, bias = params["weight"], cls._bias_of(config, params)
        rest = {name: value for name, value in config.items() if name != "bias"}
        return cls(pattern, **rest, weight=weight, bias=bias, dtype=weight.dtype)

    def __repr__(self) -> str:
        return f"SparseConvTranspose2d({spell(self.in_shape)}→{spell(self.out_shape)}, {spell(self.kernel_size)})"

    def plan_of(
        self, pattern: SparsityPattern, *, moving: bool = False, together: Pair = (1, 1)
    ) -> TransposedPlan:
        return TransposedPlan(self, pattern, together)


class TransposedPlan:
    """The plan of the mirror, and in which order that has the connections.

    Attributes
    ----------
    pattern : SparsityPattern
        Of the layer.
    mirror : ConvPlan
        Of the convolution from images like y to images like x.
    perm, back : integer array of shape (nnz,)
        Where in the layer's values each of the mirror's stands, and the other way round.
    """

    def __init__(self, layer: SparseConvTranspose2d, pattern: SparsityPattern, together: Pair = (1, 1)) -> None:
        self.pattern, self.together, self.out_shape = pattern, together, layer.out_shape
        (high, wide), outputs = layer.kernel_size, pattern.shape[0]
        c, within = np.divmod(pattern.indices.astype(np.int64), high * wide)
        columns = pattern.rows.astype(np.int64) * (high * wide) + within
        self.perm: NDArray[np.int64] = np.lexsort((columns, c))
        self.back: NDArray[np.int64] = np.argsort(self.perm)
        channels = layer.in_shape[0]
        indptr = np.append(0, np.cumsum(np.bincount(c, minlength=channels)))
        mirrored = SparsityPattern((channels, outputs * high * wide), indptr, columns[self.perm])
        geometry = (layer.out_shape, layer.in_shape, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        self.mirror = ConvPlan(mirrored, *geometry, together=(together[1], together[0]))

    @cached
    def walked(self) -> list[tuple[Phase, NDArray[np.int64], NDArray[np.int64]]]:
        """Phase by phase, where in the layer's values its connections stand, and which channel of y each row is."""
        outputs = self.pattern.shape[0]
        return [
            (phase, self.perm[phase.perm], np.arange(len(phase.origins) * outputs) % outputs)
            for phase in self.mirror.phases
        ]

    @cached
    def sums(self) -> ConvPlan:
        """A convolution of y without connections: sampling it gives the sums of y's channels alone."""
        outputs = self.pattern.shape[0]
        none = SparsityPattern((outputs, outputs), np.zeros(outputs + 1, np.int64), np.zeros(0, np.int64))
        return ConvPlan(none, self.out_shape, self.out_shape, (1, 1), (1, 1), (0, 0), (1, 1))

    def chunk(self, itemsize: int) -> int:
        """How many tiles to compute at a time, where they are packed from ordinary arrays."""
        return self.mirror.chunk(itemsize)

    def fits(self, fresh: Any) -> bool:
        """Whether another plan can be written over this one: it is made anew instead."""
        return False
