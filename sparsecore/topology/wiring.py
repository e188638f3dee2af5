"""How a model's sparse layers are to be wired, and the patterns that this gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal, NamedTuple

import numpy as np

from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair
from .radix import Radices, fit_radix_net
from .radix_fit import fit_radix_layers
from .rules import ExpanderKind, dense, expander, filters, uniform_random

Granularity = Literal["channel", "weight"]


class Link(NamedTuple):
    """A layer to be wired: from `inputs` to `outputs` features, or channels through filters of a size."""

    inputs: int
    outputs: int
    kernel_size: Pair = (1, 1)

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
    granularity : {"channel", "weight"}, optional
        What a connection of a convolution is: a whole filter from one channel to another, or a single weight. If not
        given, whole filters for "radix" and single weights otherwise.
    """

    kind: Literal["dense", "radix", "expander", "random"] = "dense"
    radices: Radices = ()
    widths: tuple[int, ...] | None = None
    expander: ExpanderKind = "fixed"
    sparsity: float | tuple[float, ...] = 0.0
    granularity: Granularity | None = None

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
        convolutions = [link for link in links if link.kernel_size != (1, 1)]
        if self.granularity is not None and not convolutions:
            raise ValueError(f"granularity {self.granularity}: is for convolutions, and this model has none wired")
        if self.kind == "radix" and _is_chain(links):
            fitted = fit_radix_net(self.radices, (links[0].inputs, *(link.outputs for link in links)), self.widths)
            return list(fitted.patterns), f"RadiX-Net: {fitted.note}"
        if self.kind == "radix":
            if self.widths is not None:
                raise ValueError("widths: not for this model, whose sparse layers do not follow one another directly")
            layers, note = fit_radix_layers(self.radices, [self._sizes(link) for link in links])
            return [self._spread(*each) for each in zip(layers, links, strict=True)], f"RadiX layers: {note}"
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
        sparsities = self._sparsities(links)
        made = [self._spread(self._layer(link, each, rng), link) for link, each in zip(links, sparsities, strict=True)]
        for pattern, link, each in zip(made, links, sparsities, strict=True):
            if not pattern.nnz:
                raise ValueError(f"sparsity {each} leaves the layer {link} no connections: ask for less")
        names = {"expander": f"{self.expander} expander", "random": "uniform random", "dense": "dense"}
        between = f" between {'channels' if self._whole_filters else 'weights'}" if self.kind != "dense" else ""
        return made, names[self.kind] + (between if convolutions else "")

    def connections(self, links: Sequence[Link]) -> int:
        """About how many connections the patterns will have, before any is made."""
        kept = [1 - each for each in self._sparsities(links)]
        sizes = [(link.inputs * prod(link.kernel_size), link.outputs) for link in links]
        if self.kind == "radix":
            nodes = prod(self.radices[0])
            kept = [radix / nodes for each in self.radices for radix in each]
            if self.widths is not None:
                sizes = list(pairwise((links[0].inputs, *(nodes * width for width in self.widths[1:]))))
        return round(sum(a * b * share for (a, b), share in zip(sizes, kept, strict=False)))

    @property
    def _whole_filters(self) -> bool:
        return self.granularity == "channel" or (self.granularity is None and self.kind == "radix")

    def _sizes(self, link: Link) -> tuple[int, int]:
        """How many inputs and outputs connections lead between: channels or single weights."""
        return link.inputs * (1 if self._whole_filters else prod(link.kernel_size)), link.outputs

    def _spread(self, pattern: SparsityPattern, link: Link) -> SparsityPattern:
        """The pattern of single weights, from one whose connections may be whole filters."""
        return filters(pattern, link.kernel_size) if self._whole_filters else pattern

    def _sparsities(self, links: Sequence[Link]) -> Sequence[float]:
        """The sparsity of each layer. Raises ValueError if there are more or fewer than layers."""
        if isinstance(self.sparsity, tuple) and len(self.sparsity) != len(links):
            layers = ", ".join(map(str, links))
            raise ValueError(
                f"sparsity: give one for all sparse layers or one for each of {len(links)} ({layers}), "
                f"got {len(self.sparsity)}"
            )
        return self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,) * len(links)

    def _layer(self, link: Link, sparsity: float, rng: np.random.Generator) -> SparsityPattern:
        in_features, out_features = self._sizes(link)
        if self.kind == "expander":
            return expander(out_features, in_features, sparsity, self.expander, rng)
        if self.kind == "random":
            return uniform_random(out_features, in_features, sparsity, rng)
        return dense(out_features, in_features)


def _is_chain(links: Sequence[Link]) -> bool:
    """Whether fully connected layers follow one another directly."""
    follow = all(before.outputs == after.inputs for before, after in pairwise(links))
    return follow and all(link.kernel_size == (1, 1) for link in links)
