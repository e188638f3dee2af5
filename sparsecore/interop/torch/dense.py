"""What a dense layer of PyTorch keeps: its connections under a pruning mask, or its largest weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from ...storage.pattern import SparsityPattern
from .given import real_tensor


def kept(layer: nn.Linear | nn.Conv2d, sparsity: float | None) -> tuple[SparsityPattern, np.ndarray]:
    """The pattern of the connections that a dense layer keeps, and their values; see `sparsify`."""
    check_sparsity(sparsity)
    mask, weight = getattr(layer, "weight_mask", None), pruned(layer, "weight")
    assert weight is not None
    weight = real_tensor(type(layer).__name__, "weight", weight).cpu().resolve_neg()
    values = weight.numpy() if weight.dtype in (torch.float32, torch.float64) else weight.float().numpy()
    keep = values != 0 if mask is None else mask.detach().cpu().numpy() != 0
    if sparsity is not None:
        keep = _largest(values, keep, round((1 - sparsity) * values.size))
    groups = getattr(layer, "groups", 1)
    rows, columns = len(values), values[0].size
    row, column = np.nonzero(keep.reshape(rows, columns))
    # A grouped convolution is a pattern too: a filter reads the channels of its own group.
    shifted = column + row // (rows // groups) * columns
    indptr = np.searchsorted(row, np.arange(rows + 1))
    pattern = SparsityPattern((rows, columns * groups), indptr, shifted)
    return pattern, values.reshape(rows, columns)[row, column]


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


def pruned(layer: nn.Linear | nn.Conv2d, name: str) -> torch.Tensor | None:
    """A parameter as its `torch.nn.utils.prune` mask leaves it.

    PyTorch computes `layer.weight` of a pruned layer in each forward pass, so that after a step of an optimizer it is
    out of date; this is not.
    """
    mask = getattr(layer, f"{name}_mask", None)
    found = getattr(layer, name) if mask is None else getattr(layer, f"{name}_orig") * mask
    return None if found is None else found.detach()


def check_sparsity(sparsity: float | None) -> None:
    """Raise ValueError if it is not at least 0 and below 1."""
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1, got {sparsity}")


def _largest(values: np.ndarray, keep: np.ndarray, count: int) -> np.ndarray:
    """Of the entries to keep, the `count` largest by magnitude; the first of equal ones."""
    size = np.where(keep, np.abs(values), -1.0).ravel()
    chosen = np.zeros(size.size, bool)
    chosen[np.argsort(-size, kind="stable")[:count]] = True
    return chosen.reshape(values.shape) & keep
