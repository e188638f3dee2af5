"""The parameter table: every number that a network keeps, row by row, in one flat array."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .pattern import SparsityPattern

Value = TypeVar("Value")


class LayerPath(str):
    """A layer's path, such as "stage2.0.conv1"; in a flat network it is the layer's number and indexes `layers`."""

    __slots__ = ()

    def __index__(self) -> int:
        return int(str(self))


class ByPath(dict[str, Value]):
    """A dict by path that also answers to the number of a layer, which in a flat network is its path."""

    def __missing__(self, key: object) -> Value:
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self[str(key)]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(str(key) if isinstance(key, int | np.integer) else key)

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(str(key) if isinstance(key, int | np.integer) else key, default)


class Row(NamedTuple):
    """One parameter of one layer.

    Attributes
    ----------
    path : str
        Such as "stage2.0.conv1.weight".
    start, size : int
        Its elements are `values[start:start + size]`.
    pattern : SparsityPattern, optional
        The connections that its values belong to, in CSR order.
    trained : bool
        False for what is kept but not trained, such as a running mean.
    decays : bool
        Whether weight decay applies to it.
    """

    path: str
    start: int
    size: int
    pattern: SparsityPattern | None
    trained: bool
    decays: bool

    @property
    def slice(self) -> slice:
        """Where its elements lie."""
        return slice(self.start, self.start + self.size)


@dataclass
class ParameterTable:
    """Rows by path and columns by name, each column one flat array.

    Trained rows come first, in the order of the layers, so that what a step touches is a prefix of `values`; rows that
    are kept but not trained follow. An optimizer's columns, such as "velocity", cover the prefix alone: nothing that is
    not trained can be decayed, clipped or reduced.

    Attributes
    ----------
    rows : tuple of Row
    values : flat array
        Of all rows.
    columns : dict of str to flat array
        Of the trained prefix: those of the optimizer that trains this network, and the same dict object as its own.
        They move with the connections when structure changes.
    """

    rows: tuple[Row, ...]
    values: Any
    columns: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def trained(self) -> int:
        """Elements of the trained prefix."""
        return sum(row.size for row in self.rows if row.trained)

    @cached_property
    def by_path(self) -> dict[str, Row]:
        """The rows by their paths."""
        return {row.path: row for row in self.rows}

    def replace_rows(self, rows: tuple[Row, ...]) -> None:
        """Take rows of the same paths and sizes, for layers that have other connections now."""
        self.rows = rows
        vars(self).pop("by_path", None)

    def drop_misfits(self) -> None:
        """Forget columns of another size: those of a structure that was replaced behind this table's back.

        An optimizer makes what is missing anew, as zeros.
        """
        for name in [name for name, column in self.columns.items() if column.shape != (self.trained,)]:
            del self.columns[name]

    def decay_runs(self) -> tuple[tuple[int, int, bool], ...]:
        """The trained prefix as stretches (start, stop, decays), each as long as it can be."""
        runs = []
        for decays, group in groupby((row for row in self.rows if row.trained), key=lambda row: row.decays):
            rows = list(group)
            runs.append((rows[0].start, rows[-1].start + rows[-1].size, decays))
        return tuple(runs)


def rows_of(
    entries: Iterable[tuple[str, int, SparsityPattern | None, bool, bool]],
) -> tuple[Row, ...]:
    """Rows laid out one after another, the trained ones first, otherwise in the order given.

    Parameters
    ----------
    entries : iterable of (path, size, pattern, trained, decays)
    """
    rows, start = [], 0
    for path, size, pattern, trained, decays in sorted(entries, key=lambda entry: not entry[3]):  # a stable sort
        rows.append(Row(path, start, size, pattern, trained, decays))
        start += size
    return tuple(rows)
