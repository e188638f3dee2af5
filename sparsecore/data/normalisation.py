"""Normalisation: how raw inputs become a network's inputs, channel by channel or column by column."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from ..runtime.arrays import narrowed, real_numbers
from ..storage.sizes import fits, spell
from .columns import names_of, places

PIXELS, NUMBERS = np.dtype(np.uint8), np.dtype(np.float32)
_ROUNDING = 8
"""What a column's numbers may differ by and count as the same, in units of its largest number's last place."""
_SLACK = 0.01
"""Of the range of normalised pixels: what rounding may add to it."""


@dataclass(frozen=True)
class Normalisation:
    """A network's input is (x/255 − mean)/std for pixels x, and (x − mean)/std for numbers x.

    Parameters
    ----------
    shape : tuple of int
        Of one sample: (channels, height, width) or (features,).
    mean, std : tuple of float
        One for each channel or column, or one in all.
    dtype : {"uint8", "float32"}, optional
        What the network was trained on: pixels, or numbers. Where it is not known, as in checkpoints of earlier
        versions, integers are taken for pixels and floats for numbers.
    columns : tuple of str, optional
        What a table's columns are called. A data frame's then find their places by name.

    Raises
    ------
    ValueError
        If mean and std are not one or `shape[0]` finite numbers, std is not positive, dtype is none of these, or
        columns are not `shape[0]` names that differ.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape or not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"normalisation: shape must be of one or more positive integers, got {self.shape}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]) or not all(map(isfinite, values)):
                raise ValueError(f"normalisation: {name} must be 1 or {self.shape[0]} finite numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"normalisation: std must be positive, got {self.std}")
        if self.dtype not in (None, PIXELS.name, NUMBERS.name):
            raise ValueError(f"normalisation: dtype must be uint8, float32 or None, got {self.dtype!r}")
        names = self.columns if isinstance(self.columns, tuple) else (None,)
        differ = len({name for name in names if isinstance(name, str)})
        if names and not differ == len(names) == prod(self.shape):
            raise ValueError(f"normalisation: columns must be {prod(self.shape)} names that differ, got {self.columns}")

    def affine(self, kind: Any, dtype: Any) -> tuple[Any, Any]:
        """Scale and shift, each of shape (features,), with which x·scale + shift normalises x of dtype `kind`."""
        unit = 255.0 if kind == PIXELS else 1.0
        mean, std = (np.repeat(np.asarray(a, np.float64), prod(self.shape) // len(a)) for a in (self.mean, self.std))
        scale, shift = 1 / (unit * std), -mean / std
        return narrowed(scale, dtype, "normalisation", "1/std"), narrowed(shift, dtype, "normalisation", "mean/std")

    def __call__(self, x: Any, dtype: Any = np.float32) -> Any:
        """Normalise raw samples of shape (n, *shape) or (n, features); returns (n, features).

        Pixels may be integers of any kind. Numbers are rounded to float32 first, as they are for training.

        Raises
        ------
        TypeError, ValueError
            If x cannot be what the network was trained on.
        """
        x = self._rows(x)
        if self.dtype == PIXELS.name and x.dtype.kind == "f":
            raise TypeError(f"normalisation: x must be pixels, which are integers, got {x.dtype}")
        kind = self._kind(x)
        if self.dtype == NUMBERS.name:
            x = narrowed(x, NUMBERS, "normalisation", "x")
        scale, shift = self.affine(kind, dtype)
        return narrowed(x, dtype, "normalisation", "x") * scale + shift

    def inputs(self, x: Any, dtype: Any) -> Any:
        """A network's inputs, (n, features): raw x normalised, and x that is normalised already as it is.

        Floats given to a network of pixels are normalised already, and so are floats where it is not known what it
        was trained on; all else is raw.

        Raises
        ------
        TypeError, ValueError
            If x can be neither.
        """
        x = self._rows(x)
        if x.dtype.kind in "iu" or self.dtype == NUMBERS.name:
            return self(x, dtype)
        if self.dtype == PIXELS.name:
            self._check_normalised(x)
        return narrowed(x, dtype, "normalisation", "x")

    def in_order(self, x: Any, array: Any, owner: str) -> Any:
        """`array`, made of x: its columns in the order of those of training, if x is a data frame that names them.

        Raises
        ------
        ValueError
            If a column is missing, or there are others beside them. `owner` begins the message.
        """
        at = places(names_of(x), self.columns, owner)
        return array if at is None else array[:, at]

    def _rows(self, x: Any) -> Any:
        x = self.in_order(x, np.asarray(real_numbers(x, "normalisation", "x")), "normalisation")
        if x.ndim < 2 or prod(x.shape[1:]) != prod(self.shape):
            raise ValueError(f"normalisation: x must have shape (batch, {prod(self.shape)}), got {x.shape}")
        if not fits(x.shape[1:], self.shape):
            raise ValueError(f"normalisation: x must be samples of {spell(self.shape)}, got {spell(x.shape[1:])}")
        return x.reshape(len(x), prod(self.shape))

    def _kind(self, x: Any) -> Any:
        """As what raw x is normalised."""
        if self.dtype == NUMBERS.name:
            if x.dtype == PIXELS:
                raise TypeError("normalisation: x must be numbers in float32, as the network was trained on, got "
                                "pixels in uint8: convert them as for training")  # fmt: skip
            return NUMBERS
        if x.dtype.kind not in "iu":
            return NUMBERS
        if x.dtype != PIXELS and x.size and not 0 <= x.min() <= x.max() <= 255:
            raise ValueError(f"normalisation: x must be pixels from 0 to 255, got {x.min()} to {x.max()}")
        return PIXELS

    def _check_normalised(self, x: Any) -> None:
        """Refuse floats, or truths, that are not what pixels are when they are normalised."""
        scale, low = self.affine(PIXELS, np.float64)
        high = low + 255 * scale
        outside = (x < low - _SLACK * (high - low)) | (x > high + _SLACK * (high - low))
        if x.dtype.kind == "b" or outside.any():
            got = x.dtype if x.dtype.kind == "b" else f"{x[outside][0]:.4g}"
            raise ValueError(f"normalisation: x must be pixels in integers, or floats normalised to {low.min():.4g} to "
                             f"{high.max():.4g}, got {got}")  # fmt: skip


def scales(deviation: Any, low: Any, high: Any, dtype: Any = np.float64) -> Any:
    """What standardising divides columns by: their standard deviation, and 1 where a column is constant.

    Constant is what differs by rounding alone, whatever the rounding of sums makes of its deviation: `low` and `high`
    are the columns' smallest and largest numbers, that were rounded to `dtype`.
    """
    with np.errstate(over="ignore"):
        constant = high - low <= _ROUNDING * np.finfo(dtype).eps * np.maximum(np.abs(low), np.abs(high))
    return np.where(constant | (deviation == 0), 1.0, deviation)
