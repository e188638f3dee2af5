"""The challenge's inputs: images of zeros and ones, a bit a pixel, sixteen samples of a pixel in a word."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.layout import LANES
from .tables import MOST_SAMPLES, entries

Array = NDArray[Any]

THRESHOLD = 200
"""A pixel of a resized image is one where its value is above this, which leaves about 3% alive, as officially."""

TOGETHER = 1024
"""Images that are resized before they are packed into bits."""


class Inputs:
    """Samples of zeros and ones.

    Parameters
    ----------
    samples, neurons : int

    Attributes
    ----------
    words : uint16 array, shape (tiles, neurons)
        Bit k of `words[t, n]` is pixel n of sample 16·t + k; zero past the last sample.
    """

    def __init__(self, samples: int, neurons: int) -> None:
        self.samples, self.neurons = samples, neurons
        self.words = np.zeros((-(-samples // LANES), neurons), np.uint16)

    def put(self, first: int, images: Array) -> None:
        """Samples from `first`, a multiple of LANES, on: booleans, shape (samples, neurons)."""
        for begin in range(0, len(images), LANES):
            bits = np.arange(min(LANES, len(images) - begin), dtype=np.uint16)[:, np.newaxis]
            tile = images[begin : begin + LANES].astype(np.uint16) << bits
            np.bitwise_or.reduce(tile, axis=0, out=self.words[(first + begin) // LANES])


def from_digits(digits: Array, samples: int, neurons: int, tell: Callable[[int], None] = lambda done: None) -> Inputs:
    """Digits of 28×28 pixels, resized to √neurons each way by bilinear interpolation, and one where above THRESHOLD.

    Parameters
    ----------
    digits : uint8 array, shape (at least samples, 784)
    samples, neurons : int
    tell : callable
        Is told how many are done.
    """
    from PIL import Image

    side, found = isqrt(neurons), Inputs(samples, neurons)
    for first in range(0, samples, TOGETHER):
        some = digits[first : min(first + TOGETHER, samples)].reshape(-1, 28, 28)
        resized = np.empty((len(some), neurons), np.uint8)
        for image, out in zip(some, resized, strict=True):
            small = Image.fromarray(np.ascontiguousarray(image))
            out[...] = np.asarray(small.resize((side, side), Image.Resampling.BILINEAR)).ravel()
        found.put(first, resized > THRESHOLD)
        tell(first + len(some))
    return found


def read(path: Path, samples: int, neurons: int, tell: Callable[[int], None] = lambda done: None) -> Inputs:
    """The first samples of an official file of images: sample, pixel, 1 a line, in any order.

    Raises
    ------
    ValueError
        If a line is no such triple, or its value is not 1; the message names file and line.
    """
    found, line = Inputs(samples, neurons), 0
    for rows, columns, values in entries(path, (MOST_SAMPLES, neurons)):
        if len(wrong := np.flatnonzero(values != 1)):
            raise ValueError(f"{path}, line {line + wrong[0] + 1}: expected the value 1, got {values[wrong[0]]:.15g}")
        line += len(rows)
        rows, columns = rows[rows < samples], columns[rows < samples]
        bits = np.left_shift(np.uint16(1), (rows % LANES).astype(np.uint16))
        np.bitwise_or.at(found.words, (rows // LANES, columns), bits)
        tell(int(rows.max(initial=0)))
    return found
