"""From what a user asks of a model's sparse layers to their patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import numpy as np

from .pattern import SparsityPattern
from .radix import Radices, fit_radix_net
from .topology import ExpanderKind, dense, expander, uniform_random


@dataclass(frozen=True)
class Wiring:
    """How a model's sparse layers are wired.

    Parameters
    ----------
    kind : {"dense", "radix", "expander", "random"}
    radices : lists of int
        For "radix"; one radix a sparse layer.
    widths : tuple of int, optional
        For "radix": one a layer of neurons. They change the model's sizes.
    expander : {"fixed", "bernoulli", "explicit"}
        For "expander".
    sparsity : float
        For "expander" and "random": fraction of each sparse layer that is removed.
    """

    kind: Literal["dense", "radix", "expander", "random"] = "dense"
    radices: Radices = ()
    widths: tuple[int, ...] | None = None
    expander: ExpanderKind = "fixed"
    sparsity: float = 0.0

    def patterns(self, sizes: Sequence[int], seed: int) -> tuple[list[SparsityPattern], str]:
        """A pattern for each layer of a chain, and a sentence that says how they were made.

        Parameters
        ----------
        sizes : positive integers
            Neurons from the inputs to the outputs of the last sparse layer.
        seed : int
            Random wirings draw from Philox with the key (seed, 0), layer by layer.

        Raises
        ------
        ValueError
            If the wiring does not fit the sizes, or leaves a layer without connections.
        """
        if self.kind == "radix":
            fitted = fit_radix_net(self.radices, sizes, self.widths)
            return list(fitted.patterns), f"RadiX-Net: {fitted.note}"
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
        made = [self._layer(out_features, in_features, rng) for in_features, out_features in pairwise(sizes)]
        for pattern in made:
            if not pattern.nnz:
                out_features, in_features = pattern.shape
                raise ValueError(f"sparsity {self.sparsity} leaves the layer {in_features}→{out_features} no "
                                 "connections: ask for less")  # fmt: skip
        names = {"expander": f"{self.expander} expander", "random": "uniform random", "dense": "dense"}
        return made, names[self.kind]

    def connections(self, sizes: Sequence[int]) -> int:
        """About how many connections the patterns will have, before any is made."""
        kept = [1 - self.sparsity] * (len(sizes) - 1)
        if self.kind == "radix":
            nodes = prod(self.radices[0])
            kept = [radix / nodes for each in self.radices for radix in each]
            if self.widths is not None:
                sizes = (sizes[0], *(nodes * width for width in self.widths[1:]))
        return round(sum(a * b * share for (a, b), share in zip(pairwise(sizes), kept, strict=False)))

    def _layer(self, out_features: int, in_features: int, rng: np.random.Generator) -> SparsityPattern:
        if self.kind == "expander":
            return expander(out_features, in_features, self.sparsity, self.expander, rng)
        if self.kind == "random":
            return uniform_random(out_features, in_features, self.sparsity, rng)
        return dense(out_features, in_features)
