"""Few samples are answered by a recording, which is made anew when it would no longer be right."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..data.normalisation import Normalisation
from ..runtime.device import Device
from ..runtime.tiles import LANES
from .inputs import Inputs
from .program import LookedAt, Programs
from .sequential import Sequential

SMALL, KEPT = 64, 1 << 24
"""Samples that are answered by a recording, at most, and the bytes of activations that this may keep in memory: beyond,
Python's share of the time no longer counts."""


class Live(NamedTuple):
    """How a network answers few samples, and all that this depends on beside the values of its parameters.

    Parameters are read where they are. All else that a recording depends on is compared at every call, object by
    object.
    """

    root: Sequential
    looked_at: LookedAt
    inputs: Inputs
    programs: Programs
    most: int

    @classmethod
    def of(
        cls, root: Sequential, normalisation: Normalisation | None, dtype: np.dtype[Any], device: Device, halves: bool
    ) -> Live:
        looked_at = LookedAt(root)  # before anything is recorded
        inputs = Inputs(root.layers[0].in_shape, normalisation, dtype)
        programs = Programs(root, dtype, device, halves=halves)
        numbers = sum(int(np.prod(layer.out_shape)) for _, layer in root.walk() if not layer.children)
        most = min(SMALL, KEPT // (numbers * dtype.itemsize) // LANES * LANES)
        # Plain Python, and layers of which it is not known what they look at, are asked anew every time.
        return cls(root, looked_at, inputs, programs, most if programs.known and device.name == "cpu" else 0)

    def is_of(self, root: Sequential, normalisation: Normalisation | None) -> bool:
        """Whether it still is what `of` would make of them; the parameters' arrays, dtype and device aside."""
        return self.root is root and self.inputs.normalisation is normalisation and self.looked_at.is_same()
