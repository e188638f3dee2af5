"""Modules of PyTorch as layers, one by one, for inputs whose channels may lie in an order of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...layers.conv import SparseConv2d
from ...layers.layer import Layer
from ...layers.linear import SparseLinear
from ...layers.norm import BatchNorm
from ...layers.sparse import SparseLayer
from ...storage.pattern import SparsityPattern
from .attention import SparseMultiheadAttention
from .conv1d import SparseConv1d
from .conv_transpose import SparseConvTranspose2d
from .dense import kept, pruned
from .given import real_tensor
from .modules import SparseConv2d as SparseConvModule
from .modules import SparseLinear as SparseLinearModule
from .modules import SparseModule, padding_of
from .transformers_conv1d import from_conv1d, is_conv1d

Shape = tuple[int, ...]
Order = NDArray[np.int64] | None
"""The number that PyTorch gives to each of our channels, or features; None where they are the same."""


def linear(module: nn.Linear | SparseLinearModule, shape: Shape, order: Order) -> Layer:
    """A fully connected layer, with the connections that are not zero, or that a mask keeps."""
    pattern, weight = _connections(module)
    if shape != pattern.shape[1:]:
        raise ValueError(f"takes {pattern.shape[1]} features, got {shape}")
    pattern, weight = permuted(pattern, weight, columns=order)
    return SparseLinear(pattern, weight, _bias(module), dtype=weight.dtype)


def convolution(module: nn.Conv2d | SparseConvModule, shape: Shape, order: Order) -> Layer:
    """A convolution, groups and all."""
    pattern, weight = _connections(module)
    padding: Any = padding_of(module) if isinstance(module, nn.Conv2d) else module.padding
    each = int(np.prod(module.kernel_size))
    columns = None if order is None else features_of(order, each)
    if len(shape) != 3 or shape[0] * each != pattern.shape[1]:
        raise ValueError(f"takes images of {pattern.shape[1] // each} channels, got {shape}")
    pattern, weight = permuted(pattern, weight, columns=columns)
    kernel_size, stride, dilation = (_two(each) for each in (module.kernel_size, module.stride, module.dilation))
    return SparseConv2d(
        pattern, (shape[0], shape[1], shape[2]), kernel_size, stride, padding, dilation,
        weight=weight, bias=_bias(module), dtype=weight.dtype,
    )  # fmt: skip


def batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, shape: Shape, order: Order) -> Layer:
    """A batch norm with its running statistics."""
    if shape[0] != module.num_features or len(shape) != (3 if isinstance(module, nn.BatchNorm2d) else 1):
        wanted = "images of {} channels" if isinstance(module, nn.BatchNorm2d) else "{} features"
        raise ValueError(f"takes {wanted.format(module.num_features)}, got {shape}")
    if module.running_mean is None or module.running_var is None or module.momentum is None:
        raise ValueError("must keep running statistics (track_running_stats=True), with a momentum that is a number")
    given = {"scale": pruned(module, "weight"), "shift": pruned(module, "bias"),
             "mean": module.running_mean, "var": module.running_var}  # fmt: skip
    rows: dict[str, Any] = {name: _values(name, row) for name, row in given.items() if row is not None}
    if order is not None:
        rows = {name: row[order] for name, row in rows.items()}
    return BatchNorm(shape, eps=module.eps, momentum=module.momentum, **rows, dtype=rows["mean"].dtype)


def conv1d_of_transformers(module: nn.Module, shape: Shape, order: Order) -> Layer:
    """A fully connected layer whose weight has inputs before outputs."""
    return linear(from_conv1d(module, None), shape, order)


_WEIGHTED: dict[type[nn.Module], Callable[[Any, Shape, Order], Layer]] = {
    nn.Linear: linear, SparseLinearModule: linear, nn.Conv2d: convolution, SparseConvModule: convolution,
    nn.BatchNorm1d: batch_norm, nn.BatchNorm2d: batch_norm,
}  # fmt: skip

_INSTEAD: dict[tuple[type[nn.Module], ...], str] = {
    (nn.Conv1d, SparseConv1d): "write it as a Conv2d over images one row high",
    (nn.ConvTranspose2d, SparseConvTranspose2d, nn.MultiheadAttention, SparseMultiheadAttention):
        "leave the model in PyTorch, where sparsify makes it sparse and it trains",
}  # fmt: skip


def is_known(module: nn.Module) -> bool:
    """Whether a module counts as a whole, whatever its forward does."""
    return isinstance(module, SparseModule | SparseMultiheadAttention) or is_conv1d(module)


def weighted(module: nn.Module) -> Callable[[Any, Shape, Order], Layer] | None:
    """What makes the layer of a module that has parameters; None of all other modules.

    Raises
    ------
    ValueError
        If it is sparse, or can be, and there is no layer of its kind.
    """
    for kinds, instead in _INSTEAD.items():
        if isinstance(module, kinds):
            raise ValueError(f"is a {type(module).__name__}, of which networks have no layer: {instead}")
    return conv1d_of_transformers if is_conv1d(module) else _WEIGHTED.get(type(module))


def features_of(order: NDArray[np.int64], each: int) -> NDArray[np.int64]:
    """The order of features of which every channel has so many."""
    return (order[:, None] * each + np.arange(each)).ravel()


def with_outputs(layer: Layer, take: NDArray[np.int64]) -> Layer:
    """The layer, one with connections or a batch norm, with its outputs in another order."""
    if isinstance(layer, SparseLayer):
        pattern, weight = permuted(layer.pattern, layer.weight, rows=take)
        params = {"weight": weight} | ({} if layer.bias is None else {"bias": layer.bias[take]})
        return type(layer).from_config(layer.config(), pattern, params)
    params = {name: values[take] for name, values in (*layer.params.items(), *layer.kept.items())}
    return type(layer).from_config(layer.config(), None, params)


def permuted(
    pattern: SparsityPattern, values: NDArray[Any], *, rows: Order = None, columns: Order = None
) -> tuple[SparsityPattern, NDArray[Any]]:
    """A matrix with the rows and columns of these numbers, in this order."""
    if rows is None and columns is None:
        return pattern, values
    row, column = pattern.rows.astype(np.int64), pattern.indices.astype(np.int64)
    row = row if rows is None else np.argsort(rows)[row]
    column = column if columns is None else np.argsort(columns)[column]
    at = np.lexsort((column, row))
    indptr = np.append(0, np.cumsum(np.bincount(row, minlength=pattern.shape[0])))
    return SparsityPattern(pattern.shape, indptr, column[at]), values[at]


def _connections(module: nn.Linear | nn.Conv2d | SparseModule) -> tuple[SparsityPattern, NDArray[Any]]:
    if not isinstance(module, SparseModule):
        return kept(module, None)
    weight = pruned(module, "weight")
    assert weight is not None
    return module.pattern, _values("weight", weight)


def _bias(module: nn.Linear | nn.Conv2d | SparseModule) -> Any:
    bias = pruned(module, "bias")
    return False if bias is None else _values("bias", bias)


def _values(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    values = real_tensor("from_torch", name, tensor.detach()).cpu().resolve_neg()
    return values.numpy().copy() if values.dtype in (torch.float32, torch.float64) else values.float().numpy()


def _two(sizes: Any) -> tuple[int, int]:
    return int(sizes[0]), int(sizes[1])
