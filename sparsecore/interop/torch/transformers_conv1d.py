"""The `Conv1D` of transformers: a linear layer whose weight has inputs before outputs."""

from __future__ import annotations

from typing import Any

from torch import nn

from .dense import connections, pruned
from .modules import SparseLinear, filled


def is_conv1d(module: nn.Module) -> bool:
    """Told by its name, so that nothing is imported that may not be there."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")


def from_conv1d(layer: Any, sparsity: float | None) -> SparseLinear:
    """The module of a Conv1D, which remembers what it was; `sparsity` as in `SparseLinear.from_linear`."""
    weight, mask = pruned(layer, "weight"), getattr(layer, "weight_mask", None)
    assert weight is not None
    pattern, values = connections(weight.T.contiguous(), None if mask is None else mask.T, sparsity)
    made = SparseLinear.of(pattern, values, pruned(layer, "bias"), device=weight.device, dtype=weight.dtype)
    made.inputs_first = True
    return made


def to_conv1d(linear: SparseLinear) -> nn.Module:
    """The Conv1D that computes the same; an `nn.Linear` where there is no transformers, or no bias, which it must have.
    """
    try:
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        return linear.to_linear()
    if linear.bias is None:
        return linear.to_linear()
    made: nn.Module = Conv1D(linear.out_features, linear.in_features).to(linear.weight)
    return filled(made, linear._full(linear.weight).T, linear.bias)
