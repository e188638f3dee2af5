"""Sparse layers as modules in place of `nn.Linear` and `nn.Conv2d`, with a weight for each stored connection only."""

from __future__ import annotations

import math
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
import torch
from torch import nn

from ...layers.sparse import SparseLayer
from ...runtime.arrays import real_numbers
from ...storage.few import Few
from ...storage.pattern import SparsityPattern
from ...storage.sizes import Pair, pair
from ...topology import uniform_random
from .dense import grouped, kept, pruned
from .followed import followed, followed_call
from .function import call
from .geometry import Geometry, layer_of
from .given import real_tensor, shape_of
from .state import PatternModule
from .written import Seen

Dense = TypeVar("Dense", bound=nn.Module)
_MOST = 16
"""Image sizes of which a module keeps the plans."""


class SparseModule(PatternModule):
    """Parameters of a pattern's connections; `state_dict` holds the pattern too, as two buffers.

    The buffers are the truth: whoever writes them writes the pattern, which the next use takes, or refuses by one line.
    A module also takes the pattern of a state that it loads. So it can load the state of any module of the same shape,
    whatever its sparsity; optimizers that were made before must then be made anew. A dense layer's state loads by the
    pattern that is there.

    Attributes
    ----------
    indptr : buffer of shape (out_features + 1,)
    indices : buffer of shape (nnz,)
        The pattern as whole numbers in float64, in which averages of equal ones stay what they are.
    weight : Parameter of shape (nnz,)
        Values of the stored connections, in CSR order.
    bias : Parameter of shape (out_features,), or None
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    moves: bool = False  # whether layers get plans that can be patched when connections move
    together: tuple[int, int] = (1, 1)  # how many neighbouring outputs, and inputs, then move together
    caught: weakref.ref[Any] | None = None  # who looks at this step's passes: none unless connections move after it

    def __init__(self, pattern: SparsityPattern, weight: Any, bias: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        if not isinstance(pattern, SparsityPattern):
            raise TypeError(f"{type(self).__name__}: pattern must be a SparsityPattern, got {type(pattern).__name__}")
        kind = dtype if dtype is not None else torch.get_default_dtype()
        self.weight = nn.Parameter(torch.empty(pattern.nnz, device=device, dtype=kind))
        self.bias = None if bias is False else nn.Parameter(torch.empty(pattern.shape[0], device=device, dtype=kind))
        self._wire(pattern)
        self.reset_parameters()
        with torch.no_grad():
            for parameter, values in ((self.weight, weight), (self.bias, None if bias is True else bias)):
                if parameter is not None and values is not None:
                    parameter.copy_(self._values(values, parameter))

    def reset_parameters(self) -> None:
        """Draw values as `nn.Linear` does, from U(−1/√n, 1/√n), where n is the neuron's number of connections."""
        pattern = self.pattern
        fan_in = torch.from_numpy(pattern.fan_in.astype(np.int64))
        bound = 1 / fan_in.clamp(min=1).double().sqrt()
        by_row = bound.repeat_interleave(fan_in)  # not by the pattern's rows, which it would keep from then on
        with torch.no_grad():
            for parameter, limit in ((self.weight, by_row), (self.bias, bound)):
                if parameter is not None:
                    parameter.uniform_(-1, 1).mul_(limit.to(parameter))

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The weights as a CSR array of the pattern's shape; on a CPU it shares this module's values."""
        return self.pattern.to_scipy(self.weight.detach().cpu().numpy())

    def _full(self, weight: torch.Tensor) -> torch.Tensor:
        """Values of the connections as a dense matrix of the pattern's shape."""
        pattern = self.pattern
        at = [torch.from_numpy(each.astype(np.int64)).to(weight.device) for each in (pattern.rows, pattern.indices)]
        return weight.new_zeros(pattern.shape).index_put(at, weight)

    def _wire(self, pattern: SparsityPattern) -> None:
        """Take a pattern; the weight stays the same Parameter and gets the pattern's size, buffers where they have it.
        """
        if self.weight.shape != (pattern.nnz,):
            # By way of another dtype: only then does PyTorch forget the size that it awaits a gradient of.
            kind = self.weight.dtype
            for each in (torch.float32 if kind == torch.float64 else torch.float64, kind):
                self.weight.data = self.weight.new_empty(pattern.nnz, dtype=each)
        self.weight.grad = None  # it is of the connections before
        self._pattern = pattern
        self._layers: Few[Any, SparseLayer] = Few(_MOST)
        self._write(pattern)

    def let_move(self, together: tuple[int, int] = (1, 1)) -> None:
        """Have plans from now on that can be patched when connections move, in such groups of outputs and inputs."""
        self.moves, self.together, self._layers = True, together, Few(_MOST)

    def moved_to(self, pattern: SparsityPattern) -> Callable[[], None]:
        """What takes a pattern: where its plans fit into those at hand, these are patched and recordings stay valid."""
        patched = []
        if self.weight.is_cpu and self.weight.shape == (pattern.nnz,):  # a GPU works on a copy of the plan
            fresh = [(size, layer, self._moving_plan(layer, pattern)) for size, layer in self._layers.items()]
            patched = [(size, layer, plan) for size, layer, plan in fresh if layer.plan.fits(plan)]

        def take() -> None:
            self._wire(pattern)
            for size, layer, plan in patched:
                layer.plan.patch(plan)
                layer.take_pattern(pattern, layer.plan)
                self._layers[size] = layer

        return take

    def _layer(self, size: Any) -> SparseLayer:
        """What computes for inputs of a size that is new."""
        made = self._layers[size] = layer_of(self.pattern, *self._geometry(size), size[:2])
        if self.moves:
            made.take_pattern(self.pattern, self._moving_plan(made, self.pattern))
        return made

    def _moving_plan(self, layer: SparseLayer, pattern: SparsityPattern) -> Any:
        return layer.plan_of(pattern, moving=True, together=self.together)

    def _answer(self, x: torch.Tensor, size: tuple[Any, ...]) -> torch.Tensor:
        """The output for x of shape (batch, *in_shape), whose images, if it has any, are of a size."""
        if followed():
            return followed_call(self, x, size)
        self._look()
        return call(self, self._layers.get(size) or self._layer(size), x)

    @abstractmethod
    def _geometry(self, size: tuple[Any, ...]) -> Geometry:
        """What this module multiplies by for inputs of a size."""

    def _values(self, values: Any, parameter: nn.Parameter) -> torch.Tensor:
        whose, name = type(self).__name__, "weight" if parameter is self.weight else "bias"
        if not isinstance(values, torch.Tensor):
            values = torch.as_tensor(real_numbers(values, whose, name, truths=False))
        found = real_tensor(whose, name, values)
        if found.shape != parameter.shape:
            wanted = tuple(parameter.shape)
            raise ValueError(f"{whose}: {name} must have shape {wanted}, got {tuple(found.shape)}")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_layers", "_seen", "caught")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state | {"_layers": Few(_MOST), "_seen": Seen()}  # a copy makes its plans when it is first used
        if "pattern" in state:  # pickled before the buffers were the truth
            state["_pattern"] = state.pop("pattern")
        super().__setstate__(state)


class SparseLinear(SparseModule):
    """y = x Wᵀ + b over the last dimension of x, where only W's stored connections cost memory or arithmetic.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    sparsity : float
        Fraction of the connections that a random pattern leaves out.
    pattern : SparsityPattern, optional
        Shape (out_features, in_features): instead of a random one.
    device, dtype
        As of `nn.Linear`; dtype float32 or float64.

    Attributes
    ----------
    inputs_first : bool
        Whether the dense weight that it was made of is (in_features, out_features), as that of transformers' `Conv1D`.

    Raises
    ------
    TypeError, ValueError
        If pattern is not one, or of another shape, or the sparsity is out of range.
    """

    inputs_first: bool = False

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, sparsity: float = 0.9,
        pattern: SparsityPattern | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if pattern is None:
            seed = int(torch.randint(2**62, (), device="cpu"))  # torch.manual_seed makes the pattern too
            pattern = uniform_random(out_features, in_features, sparsity, np.random.default_rng(seed))
        if isinstance(pattern, SparsityPattern) and pattern.shape != (out_features, in_features):
            raise ValueError(f"SparseLinear: pattern must have shape {(out_features, in_features)}, got {pattern!r}")
        super().__init__(pattern, None, bool(bias), device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def of(
        cls, pattern: SparsityPattern, weight: Any, bias: Any = None, *, device: Any = None, dtype: Any = None
    ) -> SparseLinear:
        """The module of a pattern, its values in CSR order, and a bias or None."""
        out_features, in_features = pattern.shape
        made = cls(in_features, out_features, bias is not None, pattern=pattern, device=device, dtype=dtype)
        with torch.no_grad():
            made.weight.copy_(made._values(weight, made.weight))
            if made.bias is not None:
                made.bias.copy_(made._values(bias, made.bias))
        return made

    @classmethod
    def from_scipy(cls, matrix: Any, bias: Any = None) -> SparseLinear:
        """The module of a `scipy.sparse` matrix of shape (out_features, in_features); values are copied.

        float64 matrices make a float64 module, all others a float32 one.
        """
        pattern, data = SparsityPattern.from_scipy(matrix)
        data = real_numbers(data, "SparseLinear", "the matrix")
        kind = torch.float64 if data.dtype == np.float64 else torch.float32
        return cls.of(pattern, data.astype(str(kind)[6:]), bias, dtype=kind)

    @classmethod
    def from_linear(cls, linear: nn.Linear, sparsity: float | None = None) -> SparseLinear:
        """The module of a dense layer; values are copied.

        Parameters
        ----------
        linear : nn.Linear
            Its `torch.nn.utils.prune` mask, if it has one, says which connections are kept, even those whose weight is
            zero. Without a mask, nonzero weights are kept.
        sparsity : float, optional
            Of these connections keep only the largest |w|, so that the layer has at least this sparsity.

        Raises
        ------
        ValueError
            If the sparsity is not at least 0 and below 1.
        """
        weight = pruned(linear, "weight")
        assert weight is not None
        pattern, data = kept(linear, sparsity)
        return cls.of(pattern, data, pruned(linear, "bias"), device=weight.device, dtype=weight.dtype)

    def to_linear(self) -> nn.Linear:
        """The dense layer that computes the same."""
        made = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight)
        return filled(made, self._full(self.weight), self.bias)

    def _picked(self, dense: torch.Tensor) -> torch.Tensor:
        if not self.inputs_first:
            return super()._picked(dense)
        if dense.shape != (wanted := (self.in_features, self.out_features)):
            raise ValueError(f"a dense weight must have shape {wanted}, got {tuple(dense.shape)}")
        return super()._picked(dense.T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of shape (…, in_features) gives (…, out_features)."""
        shape = shape_of("SparseLinear", x)
        if not shape or shape[-1] != self.in_features:
            raise ValueError(f"SparseLinear: x must have shape (…, {self.in_features}), got {tuple(shape)}")
        if len(shape) == 2:  # a reshape would be one more node of the graph
            return self._answer(x, ())
        y = self._answer(x.reshape(-1, self.in_features), ())
        return y.reshape(*shape[:-1], self.out_features)

    def _geometry(self, size: tuple[Any, ...]) -> Geometry:
        return "linear", [self.in_features]

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"connections={self.pattern.nnz:,}, sparsity={self.pattern.sparsity:.4g}"
        )


class SparseConv2d(SparseModule):
    """y = W ∗ x + b over images, where only W's stored connections cost memory or arithmetic.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_channels, in_channels · kernel height · kernel width).
    kernel_size, stride, padding, dilation : int or (int, int)
    weight : array of shape (nnz,), optional
        Values in CSR order; drawn if not given.
    bias : bool, or array of shape (out_channels,)
    device, dtype
        As of `nn.Conv2d`; dtype float32 or float64.

    Attributes
    ----------
    groups : int
        Of the dense convolution that it was made of, and of the one that it goes back to, as long as no connection is
        between them. It computes by the pattern alone.
    """

    groups: int = 1

    def __init__(
        self, pattern: SparsityPattern, kernel_size: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0,
        dilation: int | Pair = 1, *, weight: Any = None, bias: Any = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(pattern, weight, bias, device, dtype)
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding, self.dilation = pair("padding", padding, least=0), pair("dilation", dilation)
        self.out_channels = pattern.shape[0]
        self.in_channels, rest = divmod(pattern.shape[1], math.prod(self.kernel_size))
        if rest:
            raise ValueError(f"SparseConv2d: filters of {kernel_size} do not divide the columns of {pattern!r}")

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, sparsity: float | None = None) -> SparseConv2d:
        """The module of a dense convolution, groups and all; values are copied. `sparsity` as in `from_linear`.

        Raises
        ------
        ValueError
            If it pads with anything but zeros, as many on either side, or the sparsity is not at least 0 and below 1.
        """
        weight, bias = pruned(conv, "weight"), pruned(conv, "bias")
        assert weight is not None
        pattern, data = kept(conv, sparsity)
        steps = [conv.kernel_size, conv.stride, padding_of(conv), conv.dilation]
        sizes: Sequence[Any] = [(int(high), int(wide)) for high, wide in steps]
        parameters: dict[str, Any] = {"weight": data, "bias": False if bias is None else bias}
        made = cls(pattern, *sizes, **parameters, device=weight.device, dtype=weight.dtype)
        made.groups = conv.groups
        return made

    def to_conv(self) -> nn.Conv2d:
        """The dense convolution that computes the same; `groups` says of how many groups."""
        weight = self._grouped()
        made = nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation,
            self.in_channels // weight.shape[1], self.bias is not None,
        )  # fmt: skip
        return filled(made.to(self.weight), weight, self.bias)

    def _grouped(self) -> torch.Tensor:
        """The dense weight, of shape (out_channels, in_channels / groups, *kernel_size)."""
        full = self._full(self.weight).reshape(self.out_channels, self.in_channels, *self.kernel_size)
        return grouped(full, self.pattern, self.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of shape (batch, in_channels, height, width), or without batch."""
        shape = shape_of("SparseConv2d", x)
        if len(shape) not in (3, 4) or shape[-3] != self.in_channels:
            wanted = f"(batch, {self.in_channels}, height, width)"
            raise ValueError(f"SparseConv2d: x must have shape {wanted}, or without batch, got {tuple(shape)}")
        y = self._answer(x if len(shape) == 4 else x[None], (shape[-2], shape[-1]))
        return y if len(shape) == 4 else y[0]

    def _geometry(self, size: tuple[Any, ...]) -> Geometry:
        return "conv", [self.in_channels, *self.kernel_size, *self.stride, *self.padding, *self.dilation]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}, "
            f"connections={self.pattern.nnz:,}, sparsity={self.pattern.sparsity:.4g}"
        )


def filled(made: Dense, weight: torch.Tensor, bias: torch.Tensor | None) -> Dense:
    """A dense layer with these values."""
    with torch.no_grad():
        for parameter, values in ((made.weight, weight), (made.bias, bias)):
            if values is not None:
                parameter.copy_(values)
    return made


def padding_of(conv: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    """How many zeros a dense convolution pads each side with, along each axis."""
    whose = f"Sparse{type(conv).__name__}"
    if conv.padding_mode != "zeros":
        raise ValueError(f"{whose}: pads with zeros only, got padding_mode {conv.padding_mode!r}")
    if not isinstance(conv.padding, str):
        return conv.padding
    extent = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if conv.padding == "same" and any(size % 2 for size in extent):
        raise ValueError(f"{whose}: cannot pad one side more than the other, as 'same' does for {conv!r}")
    return tuple(size // 2 if conv.padding == "same" else 0 for size in extent)
