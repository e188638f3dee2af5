"""How many ways lead from each input to each output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..network import Network

Counts = NDArray[np.float64]


def count_paths(network: Network) -> Counts:
    """The number of paths along stored connections between every output and every input.

    A pooling joins all pixels of a window, and a way around a layer is one more path. Counts are exact up to 2⁵³.

    Parameters
    ----------
    network : Network

    Returns
    -------
    float64 array, shape (outputs, inputs)
    """
    outputs = int(np.prod(network.layers[-1].out_shape))
    return network.root.count_paths(np.eye(outputs)).reshape(outputs, -1)
