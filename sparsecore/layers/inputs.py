"""What a network takes: samples of a shape, raw or normalised already, that become rows of its own dtype."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..data.normalisation import NUMBERS, PIXELS, Normalisation
from ..runtime.arrays import narrowed, real_numbers
from ..runtime.device import place_of
from ..storage.cached import cached
from ..storage.sizes import fits, spell

Array = np.ndarray[Any, Any]


class Inputs:
    """The samples of a network.

    Parameters
    ----------
    in_shape : tuple of int
        Of one sample, as the first layer takes it.
    normalisation : Normalisation, optional
    dtype : float32 or float64
        Of the network.

    Attributes
    ----------
    shapes : tuple of tuple of int
        What a sample must fit: the first layer's shape, and that of the data it was trained on.
    """

    def __init__(self, in_shape: tuple[int, ...], normalisation: Normalisation | None, dtype: Any) -> None:
        self.normalisation, self.dtype = normalisation, dtype
        self.shapes = (tuple(in_shape), *(() if normalisation is None else (normalisation.shape,)))
        self._features = prod(in_shape)
        self._plain = {s for s in (*self.shapes, (self._features,)) if all(fits(s, taken) for taken in self.shapes)}
        numbers = normalisation is not None and normalisation.dtype == NUMBERS.name
        self._raw = NUMBERS if numbers else PIXELS

    def rows(self, x: Any, owner: Any, *, normalised: bool = False) -> Array:
        """Few samples as rows (batch, features), normalised and of the network's dtype; shared with x where they are.

        What is usual takes a microsecond or two; all else goes the way of `checked` and `converted`, which decide.
        """
        if type(x) is np.ndarray and x.shape[1:] in self._plain:
            norm = None if normalised else self.normalisation
            if norm is None:
                if x.dtype == self.dtype:
                    return x.reshape(len(x), self._features)
            elif x.dtype == self._raw:
                scale, shift = self._affine
                return x.reshape(len(x), self._features) * scale + shift
            elif x.dtype == self.dtype and self._raw == PIXELS and (norm.dtype is None or self._within(x)):
                return x.reshape(len(x), self._features)
        x = self.checked(x, owner, normalised=normalised)
        return self.converted(x, owner, normalised=normalised)

    def checked(self, x: Any, owner: Any, *, normalised: bool = False) -> Array:
        """Whatever is given, as an array of samples of the right shape.

        Raises TypeError or ValueError, whose message names `owner`.
        """
        if hasattr(x, "__cuda_array_interface__"):
            raise TypeError(f"{owner!r}: x must be a NumPy array, got an array on {place_of(x)}")
        array: Array = real_numbers(x, owner, "x")
        if self.normalisation is not None and self.normalisation.columns:
            array = self.normalisation.in_order(x, array, repr(owner))
        if array.ndim < 2 or prod(array.shape[1:]) != self._features:
            wanted = ", ".join(str(size) for size in self.shapes[0])
            raise ValueError(f"{owner!r}: x must have shape (batch, {wanted}), got {array.shape}")
        for shape in self.shapes:
            if not fits(array.shape[1:], shape):
                raise ValueError(f"{owner!r}: x must be samples of {spell(shape)}, got {spell(array.shape[1:])}")
        if array.dtype == PIXELS and self.normalisation is None and not normalised:
            raise ValueError(f"{owner!r}: uint8 x needs the network's normalisation, which is not set; normalise x")
        return array

    def converted(self, x: Array, owner: Any, *, normalised: bool = False) -> Array:
        """Checked samples as rows, contiguous, normalised and of the network's dtype."""
        norm = None if normalised else self.normalisation
        x = x if norm is None else norm.inputs(x, self.dtype)
        return np.ascontiguousarray(narrowed(x, self.dtype, owner, "x")).reshape(len(x), self._features)

    @cached
    def _affine(self) -> tuple[Array, Array]:
        """Scale and shift of raw samples."""
        assert self.normalisation is not None
        scale, shift = self.normalisation.affine(self._raw, self.dtype)
        return scale, shift

    @cached
    def _range(self) -> tuple[float, float]:
        """Between which numbers any pixel's lies when it is normalised."""
        assert self.normalisation is not None
        scale, low = self.normalisation.affine(PIXELS, np.float64)
        return float(low.max()), float((low + 255 * scale).min())

    def _within(self, x: Array) -> bool:
        """Whether all x are for certain what pixels are when they are normalised."""
        low, high = self._range
        return bool(x.size and low <= x.min() and x.max() <= high)
