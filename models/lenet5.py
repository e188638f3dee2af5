"""LeNet-5, in the sizes that came with Caffe: two convolutions and two fully connected layers.

| layer | what | of 1×28×28 | of 3×32×32 | of 3×32×32, padding 2 | then |
|---|---|---|---|---|---|
| first | convolution 5×5 | 20×24×24 | 20×28×28 | 20×32×32 | ReLU, max pool 2 |
| second | convolution 5×5 | 50×8×8 | 50×10×10 | 50×16×16 | ReLU, max pool 2 |
| third | fully connected | 800 → 500 | 1250 → 500 | 3200 → 500 | ReLU |
| head | fully connected | 500 → 10 | 500 → 10 | 500 → 10 | logits |

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998. Y. Jia
et al., Caffe: Convolutional architecture for fast feature embedding, 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from sparsecore.layers import Flatten, MaxPool2d, SparseConv2d, SparseLinear
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology.wiring import Link, full

Shape = tuple[int, int, int]

HIDDEN, KERNEL = (20, 50, 500), (5, 5)


def lenet5(
    wiring: Sequence[SparsityPattern] | None = None, *, in_shape: Shape = (1, 28, 28), padding: int = 0,
    classes: int = 10, every: bool = False, format: Format = "csr", seed: int = 0, dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """LeNet-5 with its second convolution and its first fully connected layer wired as given; the others are dense.

    Parameters
    ----------
    wiring : two SparsityPattern, or four with `every`, optional
        Of the two layers in the middle, or of all; shapes (outputs, inputs · pixels of a filter), as `links` has them.
        Dense if not given.
    in_shape : (channels, height, width)
        Of one image, at least 16 pixels high and wide, or fewer with padding.
    padding : int
        Zeros around the images that the convolutions read.
    classes : int
    every : bool
        Whether all four layers are wired.
    format : {"csr", "coo"}
        Of the layers that are wired.
    seed : int
        Of the initial values.
    dtype : float32 or float64
    """
    if wiring is None:
        wiring = [full(link) for link in links(in_shape, padding=padding, classes=classes, every=every)]
    given = list(wiring)
    if not every:
        (out_channels, weights), (neurons, _) = (pattern.shape for pattern in given)
        hidden = (weights // prod(KERNEL), out_channels, neurons)
        first_link, *_, last_link = links(in_shape, padding=padding, classes=classes, every=True, hidden=hidden)
        given = [full(first_link), *given, full(last_link)]
    conv1, conv2, third, head = given
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    options: Any = {"rng": rng, "dtype": dtype}
    ends: Format = format if every else "csr"
    first = SparseConv2d(conv1, in_shape, 5, 1, padding, relu=True, format=ends, **options)
    first_pool = MaxPool2d(first.out_shape, 2)
    second = SparseConv2d(conv2, first_pool.out_shape, 5, 1, padding, relu=True, format=format, **options)
    second_pool = MaxPool2d(second.out_shape, 2)
    return Network(
        [
            first,
            first_pool,
            second,
            second_pool,
            Flatten(second_pool.out_shape),
            SparseLinear(third, relu=True, format=format, **options),
            SparseLinear(head, format=ends, **options),
        ],
        sparse=(0, 2, 5, 6) if every else (2, 5),
    )


def links(
    in_shape: Sequence[int], *, padding: int = 0, classes: int = 10, every: bool = False,
    hidden: Sequence[int] = HIDDEN,
) -> tuple[Link, ...]:
    """The layers to be wired: the second convolution and the first fully connected layer, or `every` one.

    Raises
    ------
    ValueError
        If images of this shape leave nothing to look at, or `hidden` is not the channels of both convolutions and the
        neurons of the third layer.
    """
    lost = 4 - 2 * padding
    last = [((size - lost) // 2 - lost) // 2 for size in in_shape[1:]]
    if len(in_shape) != 3 or padding < 0 or min(last) < 1:
        raise ValueError(f"lenet5 takes images, (channels, height, width), of at least 16×16 pixels, got {in_shape}")
    if len(hidden) != 3:
        raise ValueError(f"lenet5 has 3 hidden layers, two of channels and one of neurons, got {len(hidden)} sizes")
    first, second, third = hidden
    convolutions = Link(in_shape[0], first, KERNEL), Link(first, second, KERNEL)
    found = *convolutions, Link(second * prod(last), third), Link(third, classes)
    return found if every else found[1:3]
