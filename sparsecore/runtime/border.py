"""Zeros around images, which a convolution reads where its filters stand out over an edge."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


class Border(NamedTuple):
    """Zeros around an image, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    def interior(self, padded: Any) -> Any:
        """The images within their border: a view of shape (tiles, channels, height, width, LANES)."""
        height, width = padded.shape[2:4]
        return padded[:, :, self.top : height - self.bottom, self.left : width - self.right]

    def edges(self, padded: Any) -> list[Any]:
        """The rest of them, in up to four views."""
        height, width = padded.shape[2:4]
        rows = slice(self.top, height - self.bottom)
        views = [
            padded[:, :, : self.top], padded[:, :, height - self.bottom :],
            padded[:, :, rows, : self.left], padded[:, :, rows, width - self.right :],
        ]  # fmt: skip
        return [view for view in views if view.size]


NO_BORDER = Border(0, 0, 0, 0)


def bordered(shape: Shape, border: Border) -> Shape:
    """The shape (channels, height, width) of images with their border."""
    channels, height, width = shape
    return channels, height + border.top + border.bottom, width + border.left + border.right


@lru_cache(maxsize=64)
def places(shape: Shape, border: Border, *, channels_last: bool) -> NDArray[np.int32] | None:
    """Which line of images within their border holds each number of an ordinary image (channels, height, width).

    With `channels_last` its numbers lie as (height, width, channels). None where they lie as the lines do.
    """
    if len(shape) != 3 or (border == NO_BORDER and not channels_last):
        return None
    within = bordered(shape, border)
    numbers = border.interior(np.arange(prod(within), dtype=np.int32).reshape(1, *within))[0]
    return np.ascontiguousarray(numbers.transpose(1, 2, 0) if channels_last else numbers).ravel()
