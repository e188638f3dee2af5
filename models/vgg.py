"""VGG-11 as it is trained on CIFAR: eight convolutions, batch normalisation, and one fully connected layer.

| layers | what | of 3×32×32 | then |
|---|---|---|---|
| conv1 | convolution 3×3, padding 1 | 64×32×32 | batch normalisation, ReLU, max pool 2 |
| conv2 | the same | 128×16×16 | the same |
| conv3, conv4 | the same | 256×8×8 | the same; the pool after the second |
| conv5, conv6 | the same | 512×4×4 | the same; the pool after the second |
| conv7, conv8 | the same | 512×2×2 | the same; the pool after the second |
| head | fully connected | 512 → 10 | logits |

K. Simonyan, A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, table 1,
column A. On CIFAR it is trained with one layer in place of its three fully connected ones, and with batch normalisation
in place of dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from sparsecore.layers import BatchNorm, Flatten, Layer, MaxPool2d, SparseConv2d, SparseLinear
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology.wiring import Link

from .wired import all_patterns, check_image, check_own_sizes, widened

CHANNELS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (1, 2, 4, 6, 8)
"""The convolutions that a pool follows."""


def vgg11(
    wiring: Sequence[SparsityPattern] | None = None, *, in_shape: tuple[int, int, int] = (3, 32, 32),
    width: float = 1.0, classes: int = 10, every: bool = False, format: Format = "csr", seed: int = 0,
    dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """VGG-11 with its convolutions wired as given; the first one and the head are dense unless they are wired too.

    Parameters
    ----------
    wiring : seven SparsityPattern, or nine with `every`, optional
        Shapes (outputs, inputs · 9), as `links` has them; dense if not given.
    in_shape : (channels, height, width)
        Of one image, at least 32 pixels high and wide.
    width : float
        Multiplies all channels.
    classes : int
    every : bool
        Whether the first convolution and the head are wired too.
    format : {"csr", "coo"}
        Of the layers that are wired.
    seed : int
        Of the initial values.
    dtype : float32 or float64
    """
    *convolutions, head = all_patterns(
        "vgg11", links(in_shape, width=width, classes=classes, every=True), wiring, every
    )
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    options: Any = {"rng": rng, "dtype": dtype}
    layers: dict[str, Layer] = {}
    shape = in_shape
    for number, pattern in enumerate(convolutions, start=1):
        kind: Format = format if number > 1 or every else "csr"
        made = SparseConv2d(pattern, shape, 3, padding=1, bias=False, format=kind, **options)
        shape = made.out_shape
        layers[f"conv{number}"], layers[f"norm{number}"] = made, BatchNorm(shape, relu=True, dtype=dtype)
        if number in POOLED:
            pool = layers[f"pool{number}"] = MaxPool2d(shape, 2)
            shape = pool.out_shape
    layers["flatten"] = Flatten(shape)
    layers["head"] = SparseLinear(head, format=format if every else "csr", **options)
    wired = [f"conv{number}" for number in range(1 if every else 2, len(convolutions) + 1)]
    return Network(layers, sparse=[*wired, "head"] if every else wired)


def links(
    in_shape: Sequence[int], *, width: float = 1.0, classes: int = 10, every: bool = False, hidden: Sequence[int] = (),
) -> tuple[Link, ...]:
    """The layers to be wired: all convolutions but the first, or `every` layer.

    Raises
    ------
    ValueError
        If images are too small, a width makes no whole channels, or hidden sizes are given.
    """
    check_own_sizes("vgg11", hidden)
    check_image("vgg11", in_shape, 1 << len(POOLED))
    channels = [in_shape[0], *widened("vgg11", CHANNELS, width)]
    left = prod(size >> len(POOLED) for size in in_shape[1:])
    found = [*(Link(before, after, (3, 3)) for before, after in pairwise(channels)), Link(channels[-1] * left, classes)]
    return tuple(found if every else found[1:-1])
