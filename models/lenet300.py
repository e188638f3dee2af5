"""LeNet-300-100: three fully connected layers.

| layer | inputs | outputs | then |
|---|---|---|---|
| first | 784 | 300 | ReLU |
| second | 300 | 100 | ReLU |
| head | 100 | 10 | logits |

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense
from sparsecore.topology.wiring import Link

SIZES = (784, 300, 100, 10)
HIDDEN = SIZES[1:-1]


def lenet300(
    wiring: Sequence[SparsityPattern] | None = None, *, classes: int = 10, every: bool = False, format: Format = "csr",
    seed: int = 0, dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """LeNet-300-100 with its first two layers wired as given; the head is dense unless it is wired too.

    Parameters
    ----------
    wiring : sequence of SparsityPattern, optional
        Shapes (hidden, inputs), (hidden, hidden), … from the inputs on, as many as there are hidden layers, and with
        `every` (classes, hidden); 300×784 and 100×300, dense, if not given.
    classes : int
    every : bool
        Whether the last pattern is the head's.
    format : {"csr", "coo"}
        Of the layers that are wired.
    seed : int
        Of the initial values.
    dtype : float32 or float64
    """
    patterns = [dense(out, into) for into, out in pairwise(SIZES[:-1])] if wiring is None else list(wiring)
    head = patterns.pop() if every else dense(classes, patterns[-1].shape[0])
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    return Network(
        [
            *(SparseLinear(pattern, relu=True, format=format, rng=rng, dtype=dtype) for pattern in patterns),
            SparseLinear(head, format=format if every else "csr", rng=rng, dtype=dtype),
        ],
        sparse=range(len(patterns) + every),
    )


def links(
    in_shape: Sequence[int], *, classes: int = 10, every: bool = False, hidden: Sequence[int] = HIDDEN
) -> tuple[Link, ...]:
    """The layers to be wired: those that end in one of the hidden sizes, or `every` one."""
    sizes = (prod(in_shape), *hidden, *([classes] if every else []))
    return tuple(Link(inputs, outputs) for inputs, outputs in pairwise(sizes))
