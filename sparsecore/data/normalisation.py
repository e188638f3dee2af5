"""Normalisation: how raw inputs become a network's inputs, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from ..runtime.arrays import real_numbers
from ..storage.sizes import fits, spell


@dataclass(frozen=True)
class Normalisation:
    """A network's input is (x/255 − mean)/std for uint8 x, and (x − mean)/std for any other.

    Parameters
    ----------
    shape : tuple of int
        Of one sample: (channels, height, width) or (features,).
    mean, std : tuple of float
        One for each channel, or one in all.

    Raises
    ------
    ValueError
        If mean and std are not one or `shape[0]` finite numbers, or std is not positive.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.shape or not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"normalisation: shape must be of one or more positive integers, got {self.shape}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]) or not all(map(isfinite, values)):
                raise ValueError(f"normalisation: {name} must be 1 or {self.shape[0]} finite numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"normalisation: std must be positive, got {self.std}")

    def affine(self, kind: Any, dtype: Any) -> tuple[Any, Any]:
        """Scale and shift, each of shape (features,), with which x·scale + shift normalises x of dtype `kind`."""
        unit = 255.0 if kind == np.uint8 else 1.0
        mean, std = (np.repeat(np.asarray(a, np.float64), prod(self.shape) // len(a)) for a in (self.mean, self.std))
        return (1 / (unit * std)).astype(dtype), (-mean / std).astype(dtype)

    def __call__(self, x: Any, dtype: Any = np.float32) -> Any:
        """Normalise samples of shape (n, *shape) or (n, features); returns (n, features)."""
        x = np.asarray(real_numbers(x, "normalisation", "x"))
        if x.ndim < 2 or prod(x.shape[1:]) != prod(self.shape):
            raise ValueError(f"normalisation: x must have shape (batch, {prod(self.shape)}), got {x.shape}")
        if not fits(x.shape[1:], self.shape):
            raise ValueError(f"normalisation: x must be samples of {spell(self.shape)}, got {spell(x.shape[1:])}")
        scale, shift = self.affine(x.dtype, dtype)
        return x.reshape(len(x), -1).astype(dtype) * scale + shift
