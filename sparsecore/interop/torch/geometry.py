"""What a module multiplies by, in numbers that a graph of operators can hold: a kind and its steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...layers.conv import SparseConv2d as ConvLayer
from ...layers.conv_transpose import SparseConvTranspose2d as ConvTransposeLayer
from ...layers.linear import SparseLinear as LinearLayer
from ...layers.sparse import SparseLayer
from ...storage.pattern import SparsityPattern

Geometry = tuple[str, list[int]]
"""One of

- "linear", [in_features]
- "conv", [in_channels, *kernel_size, *stride, *padding, *dilation]
- "conv_transpose", [in_channels, *kernel_size, *stride, *padding, *output_padding, *dilation]
"""


def layer_of(pattern: SparsityPattern, kind: str, steps: list[int], size: tuple[int, ...]) -> SparseLayer:
    """The layer of a pattern for images of a size, (height, width); for features, which have none."""
    values = np.empty(pattern.nnz, np.float32)
    if kind == "linear":
        return LinearLayer(pattern, values)
    channels, *rest = steps
    pairs = [(rest[k], rest[k + 1]) for k in range(0, len(rest), 2)]
    make: Any = ConvLayer if kind == "conv" else ConvTransposeLayer
    made: SparseLayer = make(pattern, (channels, *size), *pairs, weight=values)
    return made


def columns_of(kind: str, steps: list[int]) -> int:
    """Of the matrix: how many numbers each output may be connected to."""
    return steps[0] if kind == "linear" else math.prod(steps[:3])


def in_shape_of(kind: str, steps: list[int], x: Any) -> tuple[Any, ...]:
    """The shape that a sample must have; images are as large as x's."""
    return (steps[0],) if kind == "linear" else (steps[0], *x.shape[-2:])


def out_shape_of(kind: str, steps: list[int], rows: Any, size: Any) -> tuple[Any, ...]:
    """The shape of a sample's output: sizes may be symbols."""
    if kind == "linear":
        return (rows,)
    k, s, p = steps[1:3], steps[3:5], steps[5:7]
    if kind == "conv":
        d = steps[7:9]
        return (rows, *((size[i] + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in (0, 1)))
    o, d = steps[7:9], steps[9:11]
    return (rows, *((size[i] - 1) * s[i] - 2 * p[i] + d[i] * (k[i] - 1) + o[i] + 1 for i in (0, 1)))
