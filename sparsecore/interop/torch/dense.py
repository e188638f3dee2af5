"""What a dense layer of PyTorch keeps: its connections under a pruning mask, or its largest weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from ...storage.pattern import SparsityPattern
from .given import real_tensor


def kept(layer: nn.Module, sparsity: float | None) -> tuple[SparsityPattern, NDArray[Any]]:
    """The pattern of the connections that a dense layer keeps, and their values; see `sparsify`."""
    weight = pruned(layer, "weight")
    assert weight is not None
    weight = real_tensor(type(layer).__name__, "weight", weight)
    return connections(weight, getattr(layer, "weight_mask", None), sparsity, getattr(layer, "groups", 1))


def connections(
    weight: torch.Tensor, mask: torch.Tensor | None, sparsity: float | None, groups: int = 1
) -> tuple[SparsityPattern, NDArray[Any]]:
    """The pattern of what a dense weight keeps, and its values in CSR order.

    Parameters
    ----------
    weight : tensor of shape (rows, …)
    mask : tensor of that shape, optional
        Keeps what is not zero, zeros of the weight included; without it, what is not zero in the weight is kept.
    sparsity : float, optional
        Keep only the largest |w|, so that at least this fraction is left out.
    groups : int
        Groups of rows, each of which reads columns of its own: as many as the weight has.

    Returns
    -------
    pattern : SparsityPattern of shape (rows, columns · groups)
    values : array of shape (nnz,)
    """
    check_sparsity(sparsity)
    weight = weight.detach().cpu().resolve_neg()
    values = weight.numpy() if weight.dtype in (torch.float32, torch.float64) else weight.float().numpy()
    keep = values != 0 if mask is None else mask.detach().cpu().numpy() != 0
    if sparsity is not None:
        keep = _largest(values, keep, allowed(values.size, sparsity))
    rows, columns = len(values), values[0].size
    row, column = np.nonzero(keep.reshape(rows, columns))
    # A grouped convolution is a pattern too: a filter reads the channels of its own group.
    shifted = column + row // (rows // groups) * columns
    indptr = np.searchsorted(row, np.arange(rows + 1))
    pattern = SparsityPattern((rows, columns * groups), indptr, shifted)
    return pattern, values.reshape(rows, columns)[row, column]


def grouped(full: torch.Tensor, pattern: SparsityPattern, groups: int) -> torch.Tensor:
    """A weight as a convolution of groups has it; as it is where a connection is between groups.

    Parameters
    ----------
    full : tensor of shape (out_channels, in_channels, *kernel)
    pattern : SparsityPattern of shape (out_channels, in_channels · kernel)
    groups : int
        By which both numbers of channels can be divided.

    Returns
    -------
    tensor of shape (out_channels, in_channels / groups, *kernel)
    """
    rows, columns = pattern.shape
    if (pattern.rows.astype(np.int64) * groups // rows != pattern.indices.astype(np.int64) * groups // columns).any():
        return full
    parts = zip(full.chunk(groups), range(groups), strict=True)
    return torch.cat([part.chunk(groups, 1)[k] for part, k in parts])


def picked(dense: torch.Tensor, pattern: SparsityPattern, kernel: tuple[int, ...]) -> tuple[torch.Tensor, int]:
    """A dense weight's values at a pattern's connections, and how many others are not zero.

    Parameters
    ----------
    dense : tensor of shape (out_features, in_features / groups, *kernel)
        A grouped convolution's filters read the channels of their own group.
    pattern : SparsityPattern
    kernel : tuple of int
        Empty for a matrix.

    Raises
    ------
    ValueError
        If it has another shape, or no value for a connection.
    """
    rows, columns = pattern.shape
    shape = (rows, columns // max(1, math.prod(kernel)), *kernel)
    width = math.prod(dense.shape[1:])
    groups = columns // width if width and kernel and columns % width == 0 else 1
    if dense.shape[0] != rows or dense.shape[2:] != kernel or groups * width != columns or rows % groups:
        raise ValueError(f"a dense weight must have shape {shape}, got {tuple(dense.shape)}")
    row, column = pattern.rows.astype(np.int64), pattern.indices.astype(np.int64)
    column -= row // max(1, rows // groups) * width
    if ((column < 0) | (column >= width)).any():
        raise ValueError(f"a dense weight of {groups} groups has no value for connections between groups")
    at = torch.from_numpy(row * width + column).to(dense.device)
    values = dense.detach().reshape(-1)[at]
    return values, int(torch.count_nonzero(dense)) - int(torch.count_nonzero(values))


def pruned(layer: nn.Module, name: str) -> torch.Tensor | None:
    """A parameter as its `torch.nn.utils.prune` mask leaves it, or as `torch.nn.utils.weight_norm` makes it.

    PyTorch computes `layer.weight` of such a layer in each forward pass, so that after a step of an optimizer it is
    out of date; this is not.

    Raises
    ------
    ValueError
        If it is computed in each forward pass by anything else, such as `torch.nn.utils.spectral_norm`.
    """
    if not is_told(layer, name):
        raise ValueError(
            f"{type(layer).__name__}: its {name} is computed anew in each call, and what it will be cannot be told: "
            "make a parameter of it first, as remove_spectral_norm does"
        )
    mask, norm = getattr(layer, f"{name}_mask", None), weight_norm(layer, name)
    if mask is not None:
        found = getattr(layer, f"{name}_orig") * mask
    else:
        found = getattr(layer, name) if norm is None else norm.compute_weight(layer)
    return None if found is None else found.detach()


def is_told(layer: nn.Module, name: str) -> bool:
    """Whether `pruned` can tell what a parameter will be in the next forward pass."""
    computed = hasattr(layer, f"{name}_mask") or weight_norm(layer, name) is not None
    absent = getattr(layer, name, None) is None
    return name in layer._parameters or computed or absent or is_parametrized(layer, name)


def weight_norm(layer: nn.Module, name: str) -> WeightNorm | None:
    """What makes a parameter of its length and its direction in each forward pass: PyTorch's older weight norm."""
    hooks = layer._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, WeightNorm) and hook.name == name), None)


def trained(layer: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters that stand for one of a layer: itself, what a mask is laid on, or a length and a direction."""
    found = [layer._parameters.get(f"{name}{suffix}") for suffix in ("", "_orig", "_g", "_v")]
    return [each for each in found if each is not None]


def allowed(weights: int, sparsity: float) -> int:
    """How many of a layer's weights may stay."""
    return round((1 - sparsity) * weights)


def check_sparsity(sparsity: float | None) -> None:
    """Raise ValueError if it is not at least 0 and below 1."""
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1, got {sparsity}")


def _largest(values: NDArray[Any], keep: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Of the entries to keep, the `count` largest by magnitude; the first of equal ones."""
    size = np.where(keep, np.abs(values), -1.0).ravel()
    chosen = np.zeros(size.size, bool)
    chosen[np.argsort(-size, kind="stable")[:count]] = True
    return chosen.reshape(values.shape) & keep
