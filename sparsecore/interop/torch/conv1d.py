"""The sparse convolution over sequences, in place of `nn.Conv1d`: one over images that are one row high."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .dense import kept, pruned
from .given import shape_of
from .modules import SparseConv2d, filled, padding_of


class SparseConv1d(SparseConv2d):
    """y = W ∗ x + b over sequences, where only W's stored connections cost memory or arithmetic.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_channels, in_channels · kernel_size).
    kernel_size, stride, padding, dilation : int
    weight, bias, device, dtype
        As of `SparseConv2d`.

    Attributes
    ----------
    kernel_size, stride, padding, dilation : (int, int)
        Of the convolution over images one row high that it is.
    """

    def __init__(
        self, pattern: Any, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1, *,
        weight: Any = None, bias: Any = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        steps = (1, kernel_size), (1, stride), (0, padding), (1, dilation)
        super().__init__(pattern, *steps, weight=weight, bias=bias, device=device, dtype=dtype)

    @classmethod
    def from_conv(cls, conv: Any, sparsity: float | None = None) -> SparseConv1d:
        """The module of an `nn.Conv1d`, groups and all; values are copied. `sparsity` as in `SparseLinear.from_linear`.

        Raises
        ------
        ValueError
            If it pads with anything but zeros, as many on either side, or the sparsity is not at least 0 and below 1.
        """
        weight, bias = pruned(conv, "weight"), pruned(conv, "bias")
        assert weight is not None
        pattern, data = kept(conv, sparsity)
        steps = (int(each[0]) for each in (conv.kernel_size, conv.stride, padding_of(conv), conv.dilation))
        values: dict[str, Any] = {"weight": data, "bias": False if bias is None else bias}
        made = cls(pattern, *steps, **values, device=weight.device, dtype=weight.dtype)
        made.groups = conv.groups
        return made

    def to_conv(self) -> Any:
        """The `nn.Conv1d` that computes the same; `groups` says of how many groups."""
        weight = self._grouped()
        steps = (int(each[1]) for each in (self.kernel_size, self.stride, self.padding, self.dilation))
        groups, bias = self.in_channels // weight.shape[1], self.bias is not None
        made = nn.Conv1d(self.in_channels, self.out_channels, *steps, groups, bias).to(self.weight)
        return filled(made, weight[:, :, 0], self.bias)

    def _picked(self, dense: torch.Tensor) -> torch.Tensor:
        return super()._picked(dense.unsqueeze(-2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of shape (batch, in_channels, length), or without batch."""
        shape = shape_of("SparseConv1d", x)
        if len(shape) not in (2, 3) or shape[-2] != self.in_channels:
            wanted = f"(batch, {self.in_channels}, length)"
            raise ValueError(f"SparseConv1d: x must have shape {wanted}, or without batch, got {tuple(shape)}")
        return super().forward(x.unsqueeze(-2)).squeeze(-2)
