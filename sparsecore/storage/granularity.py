"""What comes and goes together: single weights, whole filters, groups of rows, or blocks.

A granularity cuts a layer's matrix into *units*, which are the entries of a smaller matrix. A pattern of that one says
which units are stored; whatever draws, prunes or moves connections does so there, and need not know what a unit is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .growth import units_of, whole_units
from .pattern import SparsityPattern
from .sizes import Pair

Values = NDArray[Any]

WORDS = "one of channel, weight, rows:G and block:G,H"
_WORD = re.compile(r"rows:([0-9]{1,6})|block:([0-9]{1,6}),([0-9]{1,6})")


@dataclass(frozen=True)
class Granularity:
    """What comes and goes together.

    Parameters
    ----------
    rows : int
        So many neighbouring rows (outputs) share their columns; the last group may be smaller.
    channels : int
        So many neighbouring input channels, all at one position of the filter, come and go together for these rows.
    whole : bool
        All positions of a convolution's filter come and go together.
    """

    rows: int = 1
    channels: int = 1
    whole: bool = False

    @classmethod
    def read(cls, word: str) -> Granularity:
        """Of a word: weight, channel, rows:G or block:G,H. Raises ValueError."""
        if word in ("weight", "channel"):
            return cls(whole=word == "channel")
        found = _WORD.fullmatch(word) if isinstance(word, str) else None
        rows, channels, *_ = [int(each) for each in found.groups() if each is not None] + [1] if found else (0, 0)
        if rows < 1 or channels < 1:
            raise ValueError(f"expected a granularity, {WORDS}, got {word!r}")
        return cls(rows, channels)

    @property
    def grouped(self) -> bool:
        """Whether rows or channels come and go in groups, which makes sense for any layer, not for filters alone."""
        return self.rows > 1 or self.channels > 1

    def units(self, shape: Pair, kernel_size: Pair | None = None) -> Units:
        """The units of a layer whose pattern has this shape; a convolution's filters have a size."""
        pixels = prod(kernel_size or (1, 1))
        return Units(shape, self.rows, self.channels, pixels if self.whole else 1, pixels)


@dataclass(frozen=True)
class Units:
    """How a layer's connections make units.

    Parameters
    ----------
    layer : (int, int)
        The shape of the layer's pattern, (outputs, input channels · positions of a filter).
    rows, channels : int
        As of `Granularity`.
    positions : int
        Positions of the filter that a unit has: 1, or all.
    pixels : int
        Positions of a filter.
    """

    layer: Pair
    rows: int
    channels: int
    positions: int
    pixels: int

    @property
    def size(self) -> int:
        """Connections of a unit; those at the last rows and channels may have fewer."""
        return self.rows * self.channels * self.positions

    @property
    def shape(self) -> Pair:
        """The shape of a pattern of units."""
        outputs, columns = self.layer
        blocks = -(-columns // self.pixels // self.channels)
        return -(-outputs // self.rows), blocks * (self.pixels // self.positions)

    @property
    def possible(self) -> int:
        """How many units there could be."""
        return prod(self.shape)

    @property
    def even(self) -> bool:
        """Whether all units have as many connections, those at the last rows and channels too."""
        outputs, columns = self.layer
        return outputs % self.rows == 0 and columns // self.pixels % self.channels == 0

    @property
    def _neighbours(self) -> bool:
        """Whether a unit's connections are neighbours in a pattern's order."""
        return self.rows == self.channels == 1

    def connections(self, units: SparsityPattern) -> SparsityPattern:
        """The connections of these units."""
        if self._neighbours:
            return whole_units(units, self.positions)
        outputs, columns = self.layer
        per_channel = self.pixels // self.positions
        block, position = np.divmod(units.indices.astype(np.int64), per_channel)
        within = (np.arange(self.channels)[:, np.newaxis] * self.pixels + np.arange(self.positions)).ravel()
        first = block * (self.channels * self.pixels) + position * self.positions
        places = (units.rows.astype(np.int64) * columns)[:, np.newaxis] + first[:, np.newaxis] + within
        places = np.sort(places[first[:, np.newaxis] + within < columns])
        starts = np.searchsorted(places, np.arange(units.shape[0] + 1) * columns)
        row = np.arange(outputs) // self.rows  # of units
        fan_in = np.diff(starts)[row]
        indptr = np.concatenate([[0], np.cumsum(fan_in)])
        at = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - starts[:-1][row], fan_in)
        return SparsityPattern._from_valid(self.layer, indptr, places[at] % columns if columns else places)

    def of(self, pattern: SparsityPattern) -> SparsityPattern | None:
        """The units whose connections these are; None if some unit is stored in part."""
        if self._neighbours:
            return units_of(pattern, self.positions)
        leads = pattern.rows % self.rows == 0
        leads &= pattern.indices // self.pixels % self.channels == 0
        leads &= pattern.indices % self.pixels % self.positions == 0
        lead = pattern.select(leads)
        indptr = lead.indptr[np.append(np.arange(0, self.layer[0], self.rows), self.layer[0])]
        units = SparsityPattern._from_valid(self.shape, indptr, self._columns(lead))
        return units if self.connections(units) == pattern else None

    def owners(self, pattern: SparsityPattern, units: SparsityPattern) -> NDArray[np.int64]:
        """For each connection of a pattern the number of its unit, in the order of these units."""
        if self._neighbours:
            return np.arange(pattern.nnz) // self.positions
        across = self.shape[1]
        numbers = units.rows.astype(np.int64) * across + units.indices
        return np.searchsorted(numbers, pattern.rows.astype(np.int64) // self.rows * across + self._columns(pattern))

    def gathered(self, values: Values, pattern: SparsityPattern, units: SparsityPattern) -> Values:
        """A pattern's values unit by unit, `size` of each: zeros stand for what units at the ends do not have.

        Parameters
        ----------
        values : array of shape (pattern.nnz,)
        pattern : SparsityPattern
            The connections of `units`.
        units : SparsityPattern

        Returns
        -------
        array of shape (units.nnz · size,)
        """
        if self._neighbours:
            return values
        channel, position = np.divmod(pattern.indices.astype(np.int64), self.pixels)
        place = pattern.rows % self.rows * self.channels + channel % self.channels
        place = place * self.positions + position % self.positions
        found = np.zeros(units.nnz * self.size, values.dtype)
        found[self.owners(pattern, units) * self.size + place] = values
        return found

    def held(self, units: SparsityPattern) -> NDArray[np.int64]:
        """How many connections each of these units has."""
        outputs, columns = self.layer
        block = units.indices.astype(np.int64) // (self.pixels // self.positions)
        high = np.minimum(outputs - units.rows.astype(np.int64) * self.rows, self.rows)
        return high * np.minimum(columns // self.pixels - block * self.channels, self.channels) * self.positions

    def _columns(self, pattern: SparsityPattern) -> NDArray[np.int64]:
        """The column of each connection's unit."""
        channel, position = np.divmod(pattern.indices.astype(np.int64), self.pixels)
        return channel // self.channels * (self.pixels // self.positions) + position // self.positions
