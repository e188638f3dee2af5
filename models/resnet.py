"""Residual networks as they are trained on CIFAR: 6n + 2 layers, where n is 3, 5 or 9.

| layers | what | of 3×32×32 | then |
|---|---|---|---|
| stem | convolution 3×3 | 16×32×32 | batch normalisation, ReLU |
| stage1 | n blocks of two convolutions 3×3 | 16×32×32 | |
| stage2 | the same; the first convolution has stride 2 | 32×16×16 | |
| stage3 | the same; the first convolution has stride 2 | 64×8×8 | mean of each channel |
| head | fully connected | 64 → 10 | logits |

A block is convolution, batch normalisation, ReLU, convolution, batch normalisation; its input is added, and a ReLU
follows. Where a block halves the image, what is added is every second pixel, and channels that it does not have are
zero (shortcut A).

K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparsecore.layers import BatchNorm, GlobalAvgPool, PadChannels, Residual, Sequential, SparseConv2d, SparseLinear
from sparsecore.layers.layer import Layer
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology.wiring import Link

from .wired import all_patterns, check_image, check_own_sizes, widened

Shape = tuple[int, int, int]

CHANNELS = (16, 32, 64)
"""Of the three stages."""
DEPTHS = (20, 32, 56)


def resnet(
    depth: int, wiring: Sequence[SparsityPattern] | None = None, *, in_shape: Shape = (3, 32, 32), width: float = 1.0,
    classes: int = 10, every: bool = False, format: Format = "csr", seed: int = 0, dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """A residual network with its blocks wired as given; stem and head are dense unless they are wired too.

    Parameters
    ----------
    depth : int
        Layers with weights: 6n + 2, such as 20, 32 or 56.
    wiring : sequence of SparsityPattern, optional
        Of the 6n convolutions in blocks, or with `every` of all layers; shapes (outputs, inputs · 9), as `links` has
        them. Dense if not given.
    in_shape : (channels, height, width)
        Of one image.
    width : float
        Multiplies all channels.
    classes : int
    every : bool
        Whether stem and head are wired too.
    format : {"csr", "coo"}
        Of the layers that are wired.
    seed : int
        Of the initial values.
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If there is no network of this depth, width and image, or the wiring does not fit it.
    """
    name, blocks = f"resnet{depth}", _blocks(depth)
    every_link = links(depth, in_shape, width=width, classes=classes, every=True)
    first, *patterns, last = all_patterns(name, every_link, wiring, every)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    options: Any = {"rng": rng, "dtype": dtype}
    ends: Format = format if every else "csr"
    conv = SparseConv2d(first, in_shape, 3, padding=1, bias=False, format=ends, **options)
    layers: dict[str, Layer] = {
        "stem": Sequential({"conv": conv, "norm": BatchNorm(conv.out_shape, relu=True, dtype=dtype)})
    }
    shape, following, inside = conv.out_shape, iter(patterns), []
    for stage in range(1, len(CHANNELS) + 1):
        made: list[Layer] = []
        for number in range(blocks):
            stride = 2 if stage > 1 and number == 0 else 1
            block, shape = _block(following, shape, stride, {"format": format, **options})
            made.append(block)
            inside += [f"stage{stage}.{number}.main.conv1", f"stage{stage}.{number}.main.conv2"]
        layers[f"stage{stage}"] = Sequential(made)
    layers["pool"] = GlobalAvgPool(shape)
    layers["head"] = SparseLinear(last, format=ends, **options)
    return Network(layers, sparse=["stem.conv", *inside, "head"] if every else inside)


def _block(
    following: Iterator[SparsityPattern], in_shape: Shape, stride: int, options: Any
) -> tuple[Residual, Shape]:
    """Two convolutions of the next two patterns and the way around them, and the shape that comes out."""
    conv1 = SparseConv2d(next(following), in_shape, 3, stride, 1, bias=False, **options)
    conv2 = SparseConv2d(next(following), conv1.out_shape, 3, padding=1, bias=False, **options)
    shape, dtype = conv2.out_shape, options["dtype"]
    main = {
        "conv1": conv1, "norm1": BatchNorm(shape, relu=True, dtype=dtype),
        "conv2": conv2, "norm2": BatchNorm(shape, dtype=dtype),
    }  # fmt: skip
    shortcut = None if shape == in_shape else PadChannels(in_shape, shape[0], stride)
    return Residual(Sequential(main), shortcut, relu=True), shape


def links(
    depth: int, in_shape: Sequence[int], *, width: float = 1.0, classes: int = 10, every: bool = False,
    hidden: Sequence[int] = (),
) -> tuple[Link, ...]:  # fmt: skip
    """The layers to be wired: the convolutions of all blocks, or `every` layer.

    Raises
    ------
    ValueError
        If samples are no images, a width makes no whole channels, or hidden sizes are given.
    """
    name, blocks = f"resnet{depth}", _blocks(depth)
    check_own_sizes(name, hidden)
    check_image(name, in_shape, 1)
    channels = widened(name, CHANNELS, width)
    found, before = [Link(in_shape[0], channels[0], (3, 3))], channels[0]
    for after in channels:
        found += [Link(before, after, (3, 3)), *[Link(after, after, (3, 3))] * (2 * blocks - 1)]
        before = after
    found.append(Link(before, classes))
    return tuple(found if every else found[1:-1])


def _blocks(depth: int) -> int:
    """Blocks of a stage."""
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"resnet: depth must be 6n + 2, such as {', '.join(map(str, DEPTHS))}, got {depth}")
    return depth // 6
