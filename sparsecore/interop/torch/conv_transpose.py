"""The transposed sparse convolution as a module, in place of `nn.ConvTranspose2d`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...storage.pattern import SparsityPattern
from ...storage.sizes import Pair, pair
from .dense import connections, grouped, pruned
from .geometry import Geometry
from .given import shape_of
from .modules import SparseModule, filled


class SparseConvTranspose2d(SparseModule):
    """The transposed convolution of images, where only W's stored connections cost memory or arithmetic.

    Parameters
    ----------
    pattern : SparsityPattern
        Shape (out_channels, in_channels · kernel height · kernel width).
    kernel_size, stride, padding, output_padding, dilation : int or (int, int)
    weight : array of shape (nnz,), optional
        Values in CSR order; drawn if not given.
    bias : bool, or array of shape (out_channels,)
    device, dtype
        As of `nn.ConvTranspose2d`; dtype float32 or float64.

    Attributes
    ----------
    groups : int
        As of `SparseConv2d`.
    """

    groups: int = 1

    def __init__(
        self, pattern: SparsityPattern, kernel_size: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0,
        output_padding: int | Pair = 0, dilation: int | Pair = 1, *, weight: Any = None, bias: Any = True,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(pattern, weight, bias, device, dtype)
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding, self.dilation = pair("padding", padding, least=0), pair("dilation", dilation)
        self.output_padding = pair("output_padding", output_padding, least=0)
        self.out_channels = pattern.shape[0]
        self.in_channels, rest = divmod(pattern.shape[1], math.prod(self.kernel_size))
        if rest:
            raise ValueError(
                f"SparseConvTranspose2d: filters of {kernel_size} do not divide the columns of {pattern!r}"
            )

    @classmethod
    def from_conv(cls, conv: Any, sparsity: float | None = None) -> SparseConvTranspose2d:
        """The module of an `nn.ConvTranspose2d`, groups and all; values are copied.

        `sparsity` as in `SparseLinear.from_linear`.

        Raises
        ------
        ValueError
            If the sparsity is not at least 0 and below 1.
        """
        weight, bias = pruned(conv, "weight"), pruned(conv, "bias")
        assert weight is not None
        mask = getattr(conv, "weight_mask", None)
        turned = [None if each is None else _turned(each, conv.groups) for each in (weight, mask)]
        assert turned[0] is not None
        pattern, data = connections(turned[0], turned[1], sparsity, conv.groups)
        steps = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding, conv.dilation)
        values: dict[str, Any] = {"weight": data, "bias": False if bias is None else bias}
        made = cls(pattern, *steps, **values, device=weight.device, dtype=weight.dtype)
        made.groups = conv.groups
        return made

    def to_conv(self) -> nn.ConvTranspose2d:
        """The dense transposed convolution that computes the same; `groups` says of how many groups."""
        full = self._full(self.weight).reshape(self.out_channels, self.in_channels, *self.kernel_size)
        weight = grouped(full, self.pattern, self.groups)
        groups = self.in_channels // weight.shape[1]
        made = nn.ConvTranspose2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.output_padding,
            groups, self.bias is not None, self.dilation,
        )  # fmt: skip
        return filled(made.to(self.weight), _turned(weight, groups), self.bias)

    def _picked(self, dense: torch.Tensor) -> torch.Tensor:
        groups = self.out_channels // dense.shape[1] if dense.shape[1] else 0
        fits = dense.ndim == 4 and groups * dense.shape[1] == self.out_channels and dense.shape[0] == self.in_channels
        if not fits or self.in_channels % groups:
            wanted = (self.in_channels, self.out_channels, *self.kernel_size)
            raise ValueError(f"a dense weight must have shape {wanted}, got {tuple(dense.shape)}")
        return super()._picked(_turned(dense, groups))

    def forward(self, x: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        """x of shape (batch, in_channels, height, width), or without batch.

        Parameters
        ----------
        x : tensor
        output_size : sequence of int, optional
            Height and width of the result, which say what `output_padding` is.

        Raises
        ------
        TypeError, ValueError
            If x has another shape, or no such result comes of it.
        """
        shape = shape_of("SparseConvTranspose2d", x)
        if len(shape) not in (3, 4) or shape[-3] != self.in_channels:
            wanted = f"(batch, {self.in_channels}, height, width)"
            raise ValueError(
                f"SparseConvTranspose2d: x must have shape {wanted}, or without batch, got {tuple(shape)}"
            )
        high, wide = shape[-2:]
        more = self.output_padding if output_size is None else self._padding_for((high, wide), output_size)
        y = self._answer(x if len(shape) == 4 else x[None], (high, wide, *more))
        return y if len(shape) == 4 else y[0]

    def _padding_for(self, given: Pair, output_size: Sequence[int]) -> Pair:
        """The output_padding that makes images of a size."""
        least = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(
                given, self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        most = [low + max(s, d) - 1 for low, s, d in zip(least, self.stride, self.dilation, strict=True)]
        wanted = [int(each) for each in output_size][-2:]
        if len(wanted) != 2 or not all(map(lambda low, each, high: low <= each <= high, least, wanted, most)):
            raise ValueError(
                f"SparseConvTranspose2d: output_size must be from {tuple(least)} to {tuple(most)}, got "
                f"{tuple(output_size)}"
            )
        return wanted[0] - least[0], wanted[1] - least[1]

    def _geometry(self, size: tuple[Any, ...]) -> Geometry:
        more = (int(size[2]), int(size[3]))
        steps = *self.kernel_size, *self.stride, *self.padding, *more, *self.dilation
        return "conv_transpose", [self.in_channels, *steps]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, output_padding={self.output_padding}, dilation={self.dilation}, "
            f"bias={self.bias is not None}, connections={self.pattern.nnz:,}, sparsity={self.pattern.sparsity:.4g}"
        )


def _turned(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """A transposed convolution's weight, (in_channels, out_channels of a group, …), as an ordinary one has it; or an
    ordinary one's as a transposed one has it.
    """
    first, second = weight.shape[:2]
    parts = weight.reshape(groups, first // groups, *weight.shape[1:]).transpose(1, 2)
    return parts.reshape(groups * second, first // groups, *weight.shape[2:]).contiguous()
