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
from typing import Any

import numpy as np

from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.sparse import Format
from sparsecore.network import Network
from sparsecore.pattern import SparsityPattern
from sparsecore.topology import dense

SIZES = (784, 300, 100, 10)


def lenet300(
    wiring: Sequence[SparsityPattern] | None = None, *, classes: int = 10, format: Format = "csr", seed: int = 0,
    dtype: Any = np.float32,
) -> Network:  # fmt: skip
    """LeNet-300-100 with its first two layers wired as given; the head is dense.

    Parameters
    ----------
    wiring : two SparsityPattern, optional
        Shapes (hidden, inputs) and (hidden, hidden); 300×784 and 100×300, dense, if not given.
    classes : int
    format : {"csr", "coo"}
    seed : int
        Of the initial values.
    dtype : float32 or float64
    """
    first, second = wiring if wiring is not None else (dense(300, 784), dense(100, 300))
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    return Network(
        [
            SparseLinear(first, relu=True, format=format, rng=rng, dtype=dtype),
            SparseLinear(second, relu=True, format=format, rng=rng, dtype=dtype),
            SparseLinear(dense(classes, second.shape[0]), rng=rng, dtype=dtype),
        ],
        sparse=(0, 1),
    )
