"""The sparse convolution: y = W ∗ x + b with W in compressed storage."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime.border import NO_BORDER, Border
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, PAIRS, Tiles
from ..runtime.workspace import Workspace
from ..storage.conv_plan import ConvPlan
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair, pair, read_by, sizes, spell
from .layer import Graph, Params
from .sparse import Format, SparseLayer, checked_pattern


class SparseConv2d(SparseLayer):
    """y = W ∗ x + b over images, then a ReLU if `relu`. Only W's connections cost memory, arithmetic or gradients.

    y[o, v, u] = b[o] + Σ w[o, c, ky, kx] · x[c, v·stride + ky·dilation − padding, u·stride + kx·dilation − padding]
    with x zero beyond its edges. A dense convolution is the same thing with a full pattern; `topology.filters` makes
    patterns whose filters are stored whole or not at all.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_channels, in_channels · kernel height · kernel width). Column (c · kernel height + ky) · kernel width
        + kx is the weight at (ky, kx) of the filter on input channel c.
    in_shape : (in_channels, height, width)
        Of one image.
    kernel_size, stride, padding, dilation : int or (int, int)
        Vertical and horizontal.
    weight : array of shape (nnz,), optional
        Values in CSR order, copied; drawn by `initial_values` if not given.
    bias : array of shape (out_channels,), or False, optional
        Copied; zeros if not given. False makes a layer without biases.
    relu : bool
        Apply max(y, 0) on the way out.
    format : {"csr", "coo"}
        How the connections are walked. CSR suits nearly every layer; COO balances hypersparse ones.
    rng : numpy.random.Generator, optional
        Draws the initial values.
    dtype : float32 or float64

    Attributes
    ----------
    out_shape : (out_channels, height, width)
        ⌊(size + 2·padding − dilation·(kernel_size − 1) − 1) / stride⌋ + 1 each way.

    Raises
    ------
    TypeError
        If pattern is not a SparsityPattern, or a size not an integer.
    ValueError
        If sizes are out of range or do not fit, weight or bias has another shape, or the format is not one of these.
    """

    bordered = True
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]

    def __init__(
        self, pattern: SparsityPattern, in_shape: tuple[int, int, int], kernel_size: int | Pair,
        stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, *,
        weight: Any = None, bias: Any = None, relu: bool = False, format: Format = "csr",
        rng: np.random.Generator | None = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        rows, columns = checked_pattern(pattern, "SparseConv2d").shape
        channels, height, width = sizes("in_shape", in_shape, 3)
        self.in_shape = channels, height, width
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding, self.dilation = pair("padding", padding, least=0), pair("dilation", dilation)
        high, wide = self.kernel_size
        if columns != channels * high * wide:
            raise ValueError(
                f"SparseConv2d: pattern must have {channels}·{high}·{wide} = {channels * high * wide} columns for "
                f"{channels} channels and filters of {high}×{wide}, got {columns}"
            )
        fields = zip(self.in_shape[1:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        out = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in fields]
        if min(out) < 1:
            raise ValueError(
                f"SparseConv2d: filters of {high}×{wide}, dilation {self.dilation}, do not fit images of "
                f"{height}×{width} with padding {self.padding}"
            )
        self.out_shape = rows, out[0], out[1]
        super().__init__(pattern, weight, bias, relu=relu, format=format, rng=rng, dtype=dtype)

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """y = W ∗ x + b."""
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        tiles, strips = len(x.data), self._strips(x, workspace)
        plan, kernels = self.plan.folded(strips), workspace.kernels
        y = workspace.array("y", (tiles, *self.out_shape, LANES), x.data.dtype)
        if y is x.data:
            raise ValueError(f"{self!r}: x is this layer's last output in the same workspace; give each use its own")
        cache = _, seen, _, _ = self.cache_of(x, y, workspace)
        out = y if strips == 1 else workspace.array("strips of y", (1, *plan.out_shape, LANES), self.dtype)
        kernels.spmm(plan.forward, plan.grid(tiles, out), self.weight, seen, self.bias, out, relu=self.relu)
        if strips > 1:
            kernels.unfold(out, y, x.batch, plan.out_shape[1], 0)
        return Tiles(y, x.batch, rectified=self.relu), cache

    def cache_of(self, x: Tiles, y: Any, workspace: Workspace) -> Any:
        plan = self.plan.folded(self._strips(x, workspace))
        return x, self._seen("x", x, self.in_shape, plan, plan.x_border, None, workspace), y, self.pattern

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """dW[p] = ⟨dy[row p], what p reads of x⟩ over all positions, for stored p only; db = Σ dy; dx = Wᵀ ∗ dy."""
        x, seen, y, pattern = cache
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        self._check_dy(dy, y, x.batch)
        self._check_same(pattern)
        kernels, tiles, strips = workspace.kernels, len(x.data), self._strips(x, workspace)
        plan = self.plan.folded(strips)
        border = plan.dy_border if need_dx else NO_BORDER
        mask = y if self.relu and not dy.masked else None
        seen_dy = self._seen("dy", dy, self.out_shape, plan, border, mask, workspace)
        inside = border.interior(seen_dy)
        dw = workspace.array("weight", self.weight.shape, self.dtype)
        grads = {"weight": dw}
        if self.bias is not None:
            grads["bias"] = workspace.array("bias", self.bias.shape, self.dtype)
        grid = plan.grid(tiles, inside)
        workspace.sample(grid, inside, seen, strips)
        kernels.sddmm(plan.forward, grid, inside, seen, dw, grads.get("bias"), more=workspace.more)
        if not need_dx:
            return None, grads
        # The gradient of x lies as x does: the mask is read where the gradient is written.
        onto = self._onto(x, workspace) if strips == 1 else None
        if onto is None:
            dx, within = workspace.images("dx", tiles, self.in_shape, x.border, x.data.dtype)
        else:
            dx, within = onto.data, onto.within
        mask = x.data.reshape(dx.shape) if x.rectified else None
        if strips == 1:
            self._transposed(plan, seen_dy, dx, mask, onto is not None, workspace)
        else:
            out = workspace.array("strips of dx", (1, *plan.in_shape, LANES), self.dtype)
            self._transposed(plan, seen_dy, out, None, False, workspace)
            kernels.unfold(out, dx, x.batch, plan.out_shape[1] * self.stride[0], self.padding[0], mask)
        dx = dx if within is not None else dx.reshape(x.data.shape)
        joined = onto is not None
        return (
            Tiles(dx, dy.batch, masked=x.rectified, border=x.border, within=within, joined=joined, free=True), grads
        )  # fmt: skip

    def _transposed(self, plan: ConvPlan, dy: Any, dx: Any, mask: Any, onto: bool, workspace: Workspace) -> None:
        """dx = Wᵀ ∗ dy, or what it is already and that; zero where `mask` is not positive."""
        more = {"more": True} if onto else {}
        for k, phase in enumerate(plan.phases):
            weight_t = workspace.array(f"weight_t {k}", phase.perm.shape, self.dtype)
            if not workspace.more:
                workspace.kernels.reorder(self.weight, phase.perm, weight_t)
            grid, of_phase = plan.phase_grid(phase, len(dx), dx), None if mask is None else phase.of(mask)
            workspace.kernels.spmm(phase.layout, grid, weight_t, dy, None, phase.of(dx), mask=of_phase, **more)

    def _strips(self, x: Tiles, workspace: Workspace) -> int:
        """Into how many strips images are cut: 1 in a chunk of a larger batch, all of whose samples get the same
        bits."""
        return self.plan.strips(x.batch) if workspace.whole and x.data.dtype != PAIRS else 1

    def _onto(self, x: Tiles, workspace: Workspace) -> Tiles | None:
        """The gradient that is to be added to this layer's, if the transposed product can go on from it where it is."""
        onto: Tiles | None = workspace.onto
        if onto is None or self.format != "csr":
            return None
        return onto if (onto.data.shape, onto.data.strides) == (x.data.shape, x.data.strides) else None

    def _seen(
        self, name: str, given: Tiles, shape: tuple[int, ...], plan: ConvPlan, border: Border, mask: Any,
        workspace: Workspace,
    ) -> Any:  # fmt: skip
        """Images as a plan reads them: in a border of zeros, and themselves zero where `mask` is not positive.

        They are copied where they have another border, or where the plan is of strips, for which x has what filters
        read beyond these.
        """
        images = given.data.reshape(len(given.data), *shape, LANES)
        if plan is not self.plan:
            of_x = name == "x"
            inner, padded = workspace.images(
                f"strips of {name}", 1, plan.in_shape if of_x else plan.out_shape, border, self.dtype
            )
            step, top = (plan.out_shape[1] * self.stride[0], self.padding[0]) if of_x else (plan.out_shape[1], 0)
            workspace.kernels.fold(images, inner, given.batch, step, top, mask)
        elif given.border == border and mask is None:
            return images if given.within is None else given.within
        else:
            inner, padded = workspace.images(name, len(images), shape, border, images.dtype)
            workspace.kernels.place(images, inner, mask)
        return inner if padded is None else padded

    @property
    def x_border(self) -> Border:
        """What the filters read beyond the edges."""
        border: Border = self.plan.x_border
        return border

    @property
    def dy_border(self) -> Border:
        """What the transposed filters read beyond the edges of dy, if no ReLU has to mask that first."""
        border: Border = NO_BORDER if self.relu else self.plan.dy_border
        return border

    def borders(self, batch: int, *, whole: bool) -> tuple[Border, Border]:
        if whole and self.plan.strips(batch) > 1:  # which are copied into borders of their own
            return NO_BORDER, NO_BORDER
        return self.x_border, self.dy_border

    def export(self, graph: Graph, path: str) -> None:
        """A Conv, and a Relu if there is one."""
        graph.reshape(f"{path}.in", self.in_shape)
        names = graph.parameters(path, self, (self.out_shape[0], self.in_shape[0], *self.kernel_size))
        graph.node(
            path, "Conv", names, kernel_shape=self.kernel_size, strides=self.stride, dilations=self.dilation,
            pads=[*self.padding, *self.padding],
        )  # fmt: skip
        graph.shape = self.out_shape
        if self.relu:
            graph.node(f"{path}.relu", "Relu")

    def count_paths(self, after: Any) -> Any:
        """Filter position by filter position, along the channels that each joins: a transposed convolution of ones."""
        ends, (channels, height, width), (top, left) = len(after), self.in_shape, self.padding
        before = np.zeros((ends, channels, height + 2 * top, width + 2 * left))
        stored = self.pattern.to_scipy().toarray().reshape(-1, channels, *self.kernel_size)
        for ky, kx in np.ndindex(*self.kernel_size):
            joined = np.einsum("oc,noyx->ncyx", stored[:, :, ky, kx], after.reshape(ends, *self.out_shape))
            offset = ky * self.dilation[0], kx * self.dilation[1]
            read_by(before, offset, self.out_shape, self.stride)[...] += joined
        return before[:, :, top : top + height, left : left + width].reshape(ends, -1)

    def config(self) -> dict[str, Any]:
        """What makes this layer again, beside its pattern and parameters."""
        names = ("in_shape", "kernel_size", "stride", "padding", "dilation")
        geometry = {name: list(getattr(self, name)) for name in names}
        return geometry | {"relu": self.relu, "format": self.format} | self._without_bias

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> SparseConv2d:
        if pattern is None or not isinstance(config["relu"], bool):
            raise ValueError("SparseConv2d: needs a pattern, and relu true or false")
        weight, bias = params["weight"], cls._bias_of(config, params)
        rest = {name: value for name, value in config.items() if name != "bias"}
        return cls(pattern, **rest, weight=weight, bias=bias, dtype=weight.dtype)

    def __repr__(self) -> str:
        return f"SparseConv2d({spell(self.in_shape)}→{spell(self.out_shape)}, {spell(self.kernel_size)})"

    def plan_of(self, pattern: SparsityPattern, *, moving: bool = False, together: Pair = (1, 1)) -> ConvPlan:
        geometry = (self.in_shape, self.out_shape, self.kernel_size, self.stride, self.padding, self.dilation)
        return ConvPlan(pattern, *geometry, self.format, moving=moving, together=together)
