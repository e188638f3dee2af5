"""How a model's sparse layers are to be wired, and the patterns that this gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..storage.granularity import Granularity, Units
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair
from .distribution import Distribution, erk
from .radix import Radices, fit_radix_net
from .radix_fit import fit_radix_layers
from .rules import ExpanderKind, dense, expander, uniform_random

Kind = Literal["dense", "radix", "expander", "random"]

SMALL = 1 << 20
"""Connections of a network whose patterns are made in order to count them."""


class Link(NamedTuple):
    """A layer to be wired: from `inputs` to `outputs` features, or channels through filters of a size."""

    inputs: int
    outputs: int
    kernel_size: Pair = (1, 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Outputs, inputs and, where there are filters, their height and width."""
        return self.outputs, self.inputs, *(self.kernel_size if self.kernel_size != (1, 1) else ())

    def __str__(self) -> str:
        size = "×".join(map(str, self.kernel_size))
        return f"{self.inputs}→{self.outputs}" + (f", {size}" if self.kernel_size != (1, 1) else "")


def full(link: Link) -> SparsityPattern:
    """All connections of a layer."""
    return dense(link.outputs, link.inputs * prod(link.kernel_size))


@dataclass(frozen=True)
class Wiring:
    """How a model's sparse layers are wired.

    Parameters
    ----------
    kind : {"dense", "radix", "expander", "random"}
    radices : lists of int
        For "radix"; one radix a sparse layer.
    widths : tuple of int, optional
        For "radix"; one a layer of neurons. They change the sizes of a model whose sparse layers follow one another.
    expander : {"fixed", "bernoulli", "explicit"}
        For "expander".
    sparsity : float or tuple of float
        For "expander" and "random": the fraction of connections that is removed, one for all sparse layers or one for
        each.
    granularity : str, optional
        What is there or not as a whole: "weight", "channel" (a convolution's filter from one channel to another),
        "rows:G" or "block:G,H"; see `storage.granularity`. If not given, whole filters for "radix" and single weights
        otherwise.
    distribution : {"uniform", "erk"}
        Whether all sparse layers have the sparsity, or all together, shared out by `erk`.
    """

    kind: Kind = "dense"
    radices: Radices = ()
    widths: tuple[int, ...] | None = None
    expander: ExpanderKind = "fixed"
    sparsity: float | tuple[float, ...] = 0.0
    granularity: str | None = None
    distribution: Distribution = "uniform"

    def patterns(self, links: Sequence[Link], seed: int) -> tuple[list[SparsityPattern], str]:
        """A pattern for each layer, and a sentence that says how they were made.

        Parameters
        ----------
        links : sequence of Link
            The sparse layers, from the inputs on. Fully connected ones that follow one another make up one RadiX-Net,
            whose inputs may be more than the model's; all others are RadiX layers that must fit.
        seed : int
            Random wirings draw from Philox with the key (seed, 0), layer by layer.

        Raises
        ------
        ValueError
            If the wiring does not fit the sizes, or leaves a layer without connections.
        """
        self._check(links)
        convolutions = [link for link in links if link.kernel_size != (1, 1)]
        if self.kind == "radix" and _is_chain(links):
            fitted = fit_radix_net(self.radices, (links[0].inputs, *(link.outputs for link in links)), self.widths)
            return list(fitted.patterns), f"RadiX-Net: {fitted.note}"
        if self.kind == "radix":
            if self.widths is not None:
                raise ValueError("widths: not for this model, whose sparse layers do not follow one another directly")
            made, note = fit_radix_layers(self.radices, [self._units(link).shape[::-1] for link in links])
            return [self._units(link).connections(each) for each, link in zip(made, links, strict=True)], (
                f"RadiX layers: {note}"
            )
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
        sparsities = self.sparsities(links)
        made = [self._layer(link, each, rng) for link, each in zip(links, sparsities, strict=True)]
        for pattern, link, each in zip(made, links, sparsities, strict=True):
            if not pattern.nnz:
                raise ValueError(f"sparsity {each} leaves the layer {link} no connections: ask for less")
        names = {"expander": f"{self.expander} expander", "random": "uniform random", "dense": "dense"}
        return made, names[self.kind] + (self._detail(bool(convolutions)) if self.kind != "dense" else "")

    def _check(self, links: Sequence[Link]) -> None:
        """Refuse a word that is none of its kind, and a granularity that these layers do not have."""
        for name, words in (("kind", Kind), ("expander", ExpanderKind), ("distribution", Distribution)):
            if (got := getattr(self, name)) not in get_args(words):
                raise ValueError(f"{name} must be one of {', '.join(get_args(words))}, got {got!r}")
        convolutions = [link for link in links if link.kernel_size != (1, 1)]
        if self.granularity is not None and not convolutions and not self._granularity.grouped:
            raise ValueError(f"granularity {self.granularity}: is for convolutions, and this model has none wired")
        if self.kind == "radix" and self._granularity.grouped:
            raise ValueError(f"granularity {self.granularity}: not with radix, whose rows share their columns already")

    def connections(self, links: Sequence[Link]) -> int:
        """About how many connections the patterns will have; see `counts`."""
        return sum(self.counts(links))

    def counts(self, links: Sequence[Link]) -> list[int]:
        """About how many each layer will have: of a small network exactly, whose patterns are made; of a large one at
        once.

        Raises
        ------
        ValueError
            As `patterns` does, if the network is small; else if there are more or fewer radices than layers, or a
            granularity that these do not have.
        """
        self._check(links)
        about = self._about(links)
        return [pattern.nnz for pattern in self.patterns(links, 0)[0]] if sum(about) <= SMALL else about

    def _about(self, links: Sequence[Link]) -> list[int]:
        kept = [1 - each for each in self.sparsities(links)]
        sizes = [(link.inputs * prod(link.kernel_size), link.outputs) for link in links]
        if self.kind == "radix":
            nodes = prod(self.radices[0])
            kept = [radix / nodes for each in self.radices for radix in each]
            if len(kept) != len(links):
                self.patterns(links, 0)  # says what is wrong, before any pattern is made
            if self.widths is not None:
                sizes = list(pairwise((links[0].inputs, *(nodes * width for width in self.widths[1:]))))
        return [round(a * b * share) for (a, b), share in zip(sizes, kept, strict=False)]

    def sparsities(self, links: Sequence[Link]) -> Sequence[float]:
        """The sparsity of each layer. Raises ValueError if there are more or fewer than layers."""
        if isinstance(self.sparsity, tuple) and len(self.sparsity) != len(links):
            layers = ", ".join(map(str, links))
            raise ValueError(
                f"sparsity: give one for all sparse layers or one for each of {len(links)} ({layers}), "
                f"got {len(self.sparsity)}"
            )
        if isinstance(self.sparsity, tuple):
            return self.sparsity
        if self.distribution == "erk":
            return erk([link.sizes for link in links], self.sparsity)
        return (self.sparsity,) * len(links)

    @property
    def _granularity(self) -> Granularity:
        return Granularity.read(self.granularity or ("channel" if self.kind == "radix" else "weight"))

    def _units(self, link: Link) -> Units:
        """What is there or not as a whole."""
        return self._granularity.units((link.outputs, link.inputs * prod(link.kernel_size)), link.kernel_size)

    def _layer(self, link: Link, sparsity: float, rng: np.random.Generator) -> SparsityPattern:
        units = self._units(link)
        return units.connections(self._drawn(units.shape, sparsity, rng))

    def _drawn(self, shape: Pair, sparsity: float, rng: np.random.Generator) -> SparsityPattern:
        if self.kind == "expander":
            return expander(*shape, sparsity, self.expander, rng)
        if self.kind == "random":
            return uniform_random(*shape, sparsity, rng)
        return dense(*shape)

    def _detail(self, convolutions: bool) -> str:
        """The end of the sentence that says how patterns were made."""
        found = self._granularity
        between = f" between {'channels' if found.whole else 'weights'}" if convolutions else ""
        grouped = f" in groups of {self.granularity}" if found.grouped else ""
        return between + grouped + (", shared out by ERK" if self.distribution == "erk" else "")


def _is_chain(links: Sequence[Link]) -> bool:
    """Whether fully connected layers follow one another directly."""
    follow = all(before.outputs == after.inputs for before, after in pairwise(links))
    return follow and all(link.kernel_size == (1, 1) for link in links)
