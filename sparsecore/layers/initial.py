"""Initial values of a sparse layer's connections."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..storage.pattern import SparsityPattern


def initial_values(
    pattern: SparsityPattern,
    rng: np.random.Generator,
    dtype: npt.DTypeLike = np.float32,
    gain: float = math.sqrt(2.0),
) -> np.ndarray[Any, np.dtype[Any]]:
    """Normal values of mean zero and standard deviation gain / √(fan-in of the neuron that each connection feeds).

    The fan-in is the number of connections that the neuron has, not the number of features it could read, so that a
    sparse layer keeps the scale of its signals as a dense one does.

    Parameters
    ----------
    pattern : SparsityPattern
    rng : numpy.random.Generator
    dtype : float32 or float64
    gain : float
        √2 suits ReLU; 1 a layer without one.

    Returns
    -------
    data : array of shape (nnz,), in CSR order

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, Delving Deep into Rectifiers, ICCV 2015, equation 10.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator such as np.random.default_rng(seed), got {rng!r}")
    if not 0 < gain < math.inf:
        raise ValueError(f"gain must be positive and finite, got {gain}")
    values: np.ndarray[Any, np.dtype[Any]] = rng.standard_normal(
        pattern.nnz, dtype=np.float32 if dtype == np.float32 else np.float64
    )
    deviations = gain / np.sqrt(np.maximum(pattern.fan_in, 1))
    values *= np.repeat(deviations.astype(dtype), pattern.fan_in)
    return values
