"""A multilayer perceptron of any depth and width, with or without batch normalisation.

| layer | inputs | outputs | then |
|---|---|---|---|
| hidden1 | 3072 | 1024 | ReLU, or norm1: batch normalisation, ReLU |
| hidden2 | 1024 | 512 | ReLU, or norm2: batch normalisation, ReLU |
| head | 512 | 10 | logits |

These are the sizes of images of CIFAR-10 and of A. Panahi, S. Ivkin, et al.: Nerva, a Truly Sparse Implementation of
Neural Networks, 2024. S. Ioffe, C. Szegedy, Batch Normalization, ICML 2015, section 3.2: a layer that is normalised
needs no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from sparsecore.layers import BatchNorm, Layer, SparseLinear
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology.wiring import Link, full

HIDDEN = (1024, 512)


def mlp(
    wiring: Sequence[SparsityPattern] | None = None, *, in_shape: Sequence[int] = (3, 32, 32), classes: int = 10,
    batch_norm: bool = False, every: bool = False, format: Format = "csr", seed: int = 0, dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """A network of fully connected layers whose hidden layers are wired as given; the head is dense unless it is too.

    Parameters
    ----------
    wiring : sequence of SparsityPattern, optional
        Shapes (hidden, inputs), (hidden, hidden), …, and with `every` (classes, hidden): as many as there are hidden
        layers, whose sizes they say. 1024×3072 and 512×1024, dense, if not given.
    in_shape : tuple of int
        Of one sample.
    classes : int
    batch_norm : bool
        Normalise what hidden layers give, before the ReLU; they have no bias then.
    every : bool
        Whether the last pattern is the head's.
    format : {"csr", "coo"}
        Of the layers that are wired.
    seed : int
        Of the initial values.
    dtype : float32 or float64
    """
    if wiring is None:
        wiring = [full(link) for link in links(in_shape, classes=classes, every=every)]
    patterns = list(wiring)
    head = patterns.pop() if every else full(Link(patterns[-1].shape[0], classes))
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    options: Any = {"rng": rng, "dtype": dtype}
    layers: dict[str, Layer] = {}
    for number, pattern in enumerate(patterns, start=1):
        bias = False if batch_norm else None
        layers[f"hidden{number}"] = SparseLinear(pattern, bias=bias, relu=not batch_norm, format=format, **options)
        if batch_norm:
            layers[f"norm{number}"] = BatchNorm(pattern.shape[:1], relu=True, dtype=dtype)
    layers["head"] = SparseLinear(head, format=format if every else "csr", **options)
    hidden = [f"hidden{number}" for number in range(1, len(patterns) + 1)]
    return Network(layers, sparse=[*hidden, "head"] if every else hidden)


def links(
    in_shape: Sequence[int], *, classes: int = 10, every: bool = False, hidden: Sequence[int] = HIDDEN,
    batch_norm: bool = False,
) -> tuple[Link, ...]:  # fmt: skip
    """The layers to be wired: those that end in one of the hidden sizes, or `every` one."""
    sizes = (prod(in_shape), *hidden, *([classes] if every else []))
    return tuple(Link(inputs, outputs) for inputs, outputs in pairwise(sizes))
