"""The sparse fully connected layer: y = W x + b with W in compressed storage."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime.arrays import real_numbers
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Workspace
from ..storage.pattern import SparsityPattern
from ..storage.plan import Plan, layout_of
from ..storage.sizes import Pair
from .layer import Graph, Params
from .sparse import Format, SparseLayer, checked_pattern


class SparseLinear(SparseLayer):
    """y = W x + b, then a ReLU if `relu`. Only W's stored connections cost memory, arithmetic or gradients.

    A dense layer is the same thing with a full pattern.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_features, in_features).
    weight : array of shape (nnz,), optional
        Values in CSR order, copied; drawn by `initial_values` if not given.
    bias : array of shape (out_features,), or False, optional
        Copied; zeros if not given. False makes a layer without biases.
    relu : bool
        Apply max(y, 0) on the way out.
    format : {"csr", "coo"}
        How the connections are walked. CSR suits nearly every layer; COO balances hypersparse ones.
    rng : numpy.random.Generator, optional
        Draws the initial values.
    dtype : float32 or float64

    Raises
    ------
    TypeError
        If pattern is not a SparsityPattern.
    ValueError
        If weight or bias has another shape, or the dtype or format is not one of these.
    """

    def __init__(
        self, pattern: SparsityPattern, weight: Any = None, bias: Any = None, *, relu: bool = False,
        format: Format = "csr", rng: np.random.Generator | None = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        self.out_features, self.in_features = checked_pattern(pattern, "SparseLinear").shape
        self.in_shape, self.out_shape = (self.in_features,), (self.out_features,)
        super().__init__(pattern, weight, bias, relu=relu, format=format, rng=rng, dtype=dtype)

    @classmethod
    def from_scipy(
        cls, matrix: Any, bias: Any = None, *, relu: bool = False, format: Format = "csr", share: bool = False
    ) -> SparseLinear:
        """The layer of any `scipy.sparse` matrix of shape (out_features, in_features).

        Parameters
        ----------
        matrix : scipy.sparse array or matrix
            float64 makes a float64 layer, all else a float32 one.
        bias : array of shape (out_features,), optional
        relu, format
            As of the layer.
        share : bool
            Let the layer's weights be `matrix.data` itself, so that training the one changes the other: for CSR
            matrices of float32 or float64 in canonical form. The index arrays are copied in any case.

        Raises
        ------
        TypeError
            If they are no real numbers.
        ValueError
            If the values cannot be shared.
        """
        pattern, data = SparsityPattern.sharing_scipy(matrix)
        data = real_numbers(data, "SparseLinear", "the matrix")
        dtype = np.float64 if data.dtype == np.float64 else np.float32
        layer = cls(pattern, data.astype(dtype, copy=False), bias, relu=relu, format=format, dtype=dtype)
        if share:
            own = isinstance(matrix.data, np.ndarray) and matrix.data.ctypes.data == data.ctypes.data
            if not own or data.dtype != dtype or not data.flags.c_contiguous:
                raise ValueError(
                    "SparseLinear: only CSR matrices of float32 or float64 with sorted, unique columns can share their "
                    f"values, got {matrix.format} of {getattr(matrix.data, 'dtype', type(matrix.data).__name__)}"
                )
            layer.params["weight"] = data
        return layer

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        """y = W x + b."""
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        y = workspace.array("y", (len(x.data), self.out_features, LANES), x.data.dtype)
        if y is x.data:
            raise ValueError(f"{self!r}: x is this layer's last output in the same workspace; give each use its own")
        grid = self.plan.grid(len(x.data))
        workspace.kernels.spmm(self.plan.forward, grid, self.weight, x.data, self.bias, y, relu=self.relu)
        return Tiles(y, x.batch, rectified=self.relu), self.cache_of(x, y, workspace)

    def cache_of(self, x: Tiles, y: Any, workspace: Workspace) -> Any:
        return x, y, self.pattern

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        """dW[p] = ⟨dy[row p], x[column p]⟩ for stored connections p only; db = Σ dy; dx = Wᵀ dy."""
        x, y, pattern = cache
        self._check_values()
        self._check(x, self.in_shape, self.dtype, "x")
        self._check_dy(dy, y, x.batch)
        self._check_same(pattern)
        kernels, tiles = workspace.kernels, len(x.data)
        if self.relu and not dy.masked:
            masked = workspace.array("masked dy", y.shape, y.dtype)
            kernels.mask(dy.data, y, masked)
            dy = Tiles(masked, dy.batch, masked=True)
        dw = workspace.array("weight", self.weight.shape, self.dtype)
        grads = {"weight": dw}
        if self.bias is not None:
            grads["bias"] = workspace.array("bias", self.bias.shape, self.dtype)
        grid = self.plan.grid(tiles)
        workspace.sample(grid, dy.data, x.data)
        kernels.sddmm(self.plan.forward, grid, dy.data, x.data, dw, grads.get("bias"), more=workspace.more)
        if not need_dx:
            return None, grads
        # The transpose has the same values in another order: reorder them once, not once a tile or a chunk.
        weight_t = workspace.array("weight_t", dw.shape, self.dtype)
        if not workspace.more:
            kernels.reorder(self.weight, self.plan.perm, weight_t)
        dx = workspace.array("dx", x.data.shape, x.data.dtype)
        mask = x.data if x.rectified else None
        kernels.spmm(self.plan.transposed, self.plan.grid_t(tiles), weight_t, dy.data, None, dx, mask=mask)
        return Tiles(dx, dy.batch, masked=x.rectified), grads

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        """y = W x + b, row by row in either format."""
        self._check_values()
        y = workspace.array("y", (self.out_features, x.shape[1]), self.dtype)
        layout = self.plan.forward
        if self.format != "csr":
            layout = layout_of(self.pattern, self.pattern.indices, 0, moving=True)
        workspace.kernels.spmm_few(layout, self.weight, x, self.bias, y, relu=self.relu)
        return y

    def export(self, graph: Graph, path: str) -> None:
        """A Gemm, and a Relu if there is one."""
        graph.reshape(f"{path}.in", self.in_shape)
        graph.node(path, "Gemm", graph.parameters(path, self, self.pattern.shape), transB=1)
        graph.shape = self.out_shape
        if self.relu:
            graph.node(f"{path}.relu", "Relu")

    def count_paths(self, after: Any) -> Any:
        """Along each connection."""
        return (self.pattern.to_scipy().T.astype(np.float64) @ after.T).T

    def config(self) -> dict[str, Any]:
        """What makes this layer again, beside its pattern and parameters."""
        return {"relu": self.relu, "format": self.format} | self._without_bias

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> SparseLinear:
        if pattern is None or not isinstance(config["relu"], bool):
            raise ValueError("SparseLinear: needs a pattern, and relu true or false")
        weight, bias = params["weight"], cls._bias_of(config, params)
        return cls(pattern, weight, bias, relu=config["relu"], format=config["format"], dtype=weight.dtype)

    def __repr__(self) -> str:
        return f"SparseLinear({self.in_features}→{self.out_features})"

    def plan_of(self, pattern: SparsityPattern, *, moving: bool = False, together: Pair = (1, 1)) -> Plan:
        return Plan(pattern, self.format, moving=moving, together=together)
