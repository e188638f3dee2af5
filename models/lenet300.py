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
from math import prod
from typing import Any

import numpy as np

from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.pattern import SparsityPattern
from sparsecore.topology import dense
from sparsecore.wiring import Link

SIZES = (784, 300, 100, 10)


def lenet300(
    wiring: Sequence[SparsityPattern] | None = None, *, classes: int = 10, format: Format = "csr", seed: int = 0,
    dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """LeNet-300-100 with its first two layers wired as given; the head is dense unless it is wired too.

    Parameters
    ----------
    wiring : two or three SparsityPattern, optional
        Shapes (hidden, inputs), (hidden, hidden) and (classes, hidden); 300×784 and 100×300, dense, if not given.
    classes : int
    format : {"csr", "coo"}
        Of the layers that are wired.
    seed : int
        Of the initial values.
    dtype : float32 or float64
    """
    first, second, *more = wiring if wiring is not None else (dense(300, 784), dense(100, 300))
    (head,) = more or [dense(classes, second.shape[0])]
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    return Network(
        [
            SparseLinear(first, relu=True, format=format, rng=rng, dtype=dtype),
            SparseLinear(second, relu=True, format=format, rng=rng, dtype=dtype),
            SparseLinear(head, format=format if more else "csr", rng=rng, dtype=dtype),
        ],
        sparse=(0, 1, 2) if more else (0, 1),
    )


def links(in_shape: Sequence[int], *, classes: int = 10, every: bool = False) -> tuple[Link, ...]:
    """The layers to be wired: the first two, or `every` one."""
    return (Link(prod(in_shape), 300), Link(300, 100), Link(100, classes))[: 3 if every else 2]
