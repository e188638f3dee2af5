"""A network made ready to answer: a copy with all that training needs taken out, recorded for so many samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.normalisation import Normalisation
from ..runtime.device import Device
from ..scalars import whole
from ..storage.sizes import spell
from .folding import folded_layers
from .inputs import Inputs
from .program import Programs
from .sequential import Sequential


class Compiled:
    """What a network computed when this was made: `Network.compile` makes it.

    It is a snapshot: layers and parameters are copies, and nothing that happens to the network afterwards changes an
    answer. Batch norms are taken into the weights before them where they can be, dropout does nothing, and the
    normalisation of raw samples is part of it. Any number of threads may call it at the same time; each call works on
    buffers of its own.

    Up to 8 samples of a network of fully connected layers are computed row by row, as many lanes as there are samples;
    all else in tiles, with activations in what the network stored them in. Answers differ from those of
    `Network.logits` by rounding only.

    Attributes
    ----------
    batch : int
        Samples that a call may give, at most.
    """

    _halves = False  # what earlier versions pickled has none

    def __init__(
        self, root: Sequential, normalisation: Normalisation | None, dtype: Any, device: Device, batch: int, *,
        halves: bool = False,
    ) -> None:  # fmt: skip
        self.batch = whole("compile: batch", batch)
        if self.batch < 1:
            raise ValueError(f"compile: batch must be at least 1, got {batch}")
        self._root, self._dtype, self._device = Sequential(folded_layers(root)).to(device), dtype, device
        self._inputs = Inputs(root.in_shape, normalisation, dtype)
        self._out_shape, self._halves = tuple(root.out_shape), halves
        self._begin()

    def _begin(self) -> None:
        self._programs = Programs(self._root, self._dtype, self._device, halves=self._halves)
        self._programs.prepare(self.batch)

    def __call__(self, x: Any, *, normalised: bool = False) -> np.ndarray[Any, Any]:
        """Logits of some samples.

        Parameters
        ----------
        x : array of shape (samples, features) or (samples, *in_shape)
            At most `batch` samples, of what `Network.logits` takes: raw, or normalised already.
        normalised : bool
            Take x as it is.

        Returns
        -------
        array of shape (samples, *out_shape)

        Raises
        ------
        TypeError, ValueError
            If x does not have such a shape or cannot be what the network takes.
        """
        rows = self._inputs.rows(x, self, normalised=normalised)
        samples = len(rows)
        if samples > self.batch:
            raise ValueError(f"{self!r}: x must be at most {self.batch} samples, as it was compiled for, got {samples}")
        found = self._programs.run(rows) if samples else np.empty((0, *self._out_shape), self._dtype)
        return found if len(self._out_shape) == 1 else found.reshape(samples, *self._out_shape)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_programs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()  # recordings know addresses of this process

    def __repr__(self) -> str:
        shapes = [self._root.in_shape, *(layer.out_shape for layer in self._root.layers)]
        return f"Compiled({'→'.join(map(spell, shapes))}, batch={self.batch})"
