"""Which connections stay: boolean arrays from saliencies. Exact counts, and the same answer every time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Saliency = NDArray[np.floating[Any]]


class Kept(NamedTuple):
    """What a ranking leaves.

    Attributes
    ----------
    mask : boolean array, shape (n,)
        True where a connection stays.
    threshold : float
        The least saliency that stays: what is below it goes, and of what equals it the first in order stay. 0 where
        nothing goes, and just above the largest where nothing stays.
    """

    mask: Mask
    threshold: float


def keep_largest(saliency: Saliency, count: int) -> Kept:
    """Keep exactly `count` connections, or all if there are fewer: the most salient, and of equals the first.

    Parameters
    ----------
    saliency : floating array, shape (n,)
        At least 0 and finite.
    count : int
        At least 0.
    """
    size = len(saliency)
    if count >= size:
        return Kept(np.ones(size, np.bool_), 0.0)
    if count == 0:
        return Kept(np.zeros(size, np.bool_), above(saliency))
    from ..kernels.cpu.choose import largest  # compiling waits until something is pruned

    plain = saliency if saliency.dtype in (np.float32, np.float64) else saliency.astype(np.float64)
    mask, threshold = largest(plain, np.array([0, size]), np.array([count]))
    return Kept(mask, float(threshold))


def keep_from(saliency: Saliency, threshold: float) -> Kept:
    """Keep the connections whose saliency is at least `threshold`."""
    return Kept(saliency >= threshold, float(threshold))


def above(saliency: Saliency) -> float:
    """The next number above all saliencies."""
    return float(np.nextafter(saliency.max(initial=0), saliency.dtype.type(np.inf)))


def sizes_of(values: Saliency, size: int) -> Saliency:
    """What units of `size` neighbouring values are ranked by: the magnitude, or the sum of squares of several."""
    return values if size == 1 else np.square(values).reshape(-1, size).sum(axis=1)
