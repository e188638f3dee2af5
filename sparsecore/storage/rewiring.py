"""Changing a layer's connections: those that stay keep their numbers in every column of the parameter table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .parameters import ParameterTable, Row, rows_of
from .pattern import SparsityPattern


class Arrays(Protocol):
    """What moving numbers needs of the device that they are on; see `sparsecore.runtime.device`."""

    name: str

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any: ...
    def put(self, array: Any) -> Any: ...
    def get(self, array: Any) -> Any: ...
    def fill(self, array: Any, values: Any) -> None: ...
    def pick(self, array: Any, positions: Any) -> Any: ...


@dataclass(frozen=True)
class Move:
    """The change of one layer's connections.

    Attributes
    ----------
    row : Row
        Of its values.
    pattern : SparsityPattern
        The new one.
    sources : int64 array, shape (pattern.nnz,)
        Where each of its connections stood, or −1 for new ones.
    fill : float, or array of shape (pattern.nnz,)
        Values of the new ones.
    """

    row: Row
    pattern: SparsityPattern
    sources: NDArray[np.int64]
    fill: Any = 0.0

    @property
    def path(self) -> str:
        """The layer's path."""
        return self.row.path.rpartition(".")[0]

    @cached_property
    def grows(self) -> bool:
        """Whether there are new connections."""
        return bool(self.sources.min(initial=0) < 0)

    def filled(self, moved: Any, value: bool) -> Any:
        """The moved numbers, on the host, with those of new connections written in: `fill` for values, else 0."""
        if not self.grows:
            return moved
        new = self.sources < 0
        moved[new] = (self.fill[new] if np.ndim(self.fill) else self.fill) if value else 0
        return moved


def move_of(row: Row, pattern: Any, fill: Any) -> Move | None:
    """The move of a row's layer to a pattern, checked; None if it has that already.

    Raises
    ------
    TypeError, ValueError
        If it is not a pattern, or it or the fill does not have the right shape.
    """
    before, layer = row.pattern, row.path.rpartition(".")[0]
    assert before is not None
    if not isinstance(pattern, SparsityPattern):
        raise TypeError(f"rewire: layer {layer}: expected a SparsityPattern, got {type(pattern).__name__}")
    if pattern.shape != before.shape:
        raise ValueError(f"rewire: layer {layer}: the pattern must have shape {before.shape}, got {pattern.shape}")
    fill = np.asarray(fill)
    if fill.dtype.kind not in "iuf" or fill.shape not in ((), (pattern.nnz,)):
        raise ValueError(
            f"rewire: layer {layer}: fill must be a number, or one for each of {pattern.nnz} connections, got "
            f"{fill.dtype} of shape {fill.shape}"
        )
    return None if pattern == before else Move(row, pattern, sources_of(before, pattern), fill)


def moves_to_parts(table: ParameterTable, keep: Mapping[str, NDArray[np.bool_]]) -> list[Move]:
    """The moves that leave each layer, by path, the connections where its mask of shape (nnz,) is true."""
    moves = []
    for path, mask in keep.items():
        row = table.by_path[f"{path}.weight"]
        if row.pattern is not None and not mask.all():
            moves.append(Move(row, row.pattern.select(mask), np.flatnonzero(mask)))
    return moves


def sources_of(before: SparsityPattern, after: SparsityPattern) -> NDArray[np.int64]:
    """Where each connection of one pattern stands in the values of another, −1 where it does not."""
    from ..kernels.cpu.merge import merge_rows  # compiling waits until a structure changes

    sources = np.empty(after.nnz, np.int64)
    merge_rows(before.indptr, before.indices, after.indptr, after.indices, sources)
    return sources


def move_in_place(table: ParameterTable, moves: Sequence[Move], device: Arrays) -> None:
    """Carry out moves that keep all sizes in the arrays at hand. All memory is taken before a number changes."""
    ready = [
        (column, move, _moved(column, move, device, value=column is table.values))
        for column in (table.values, *table.columns.values())
        for move in moves
    ]
    for column, move, numbers in ready:
        if device.name == "cpu":
            column[move.row.slice] = numbers
        else:
            device.fill(column[move.row.slice], numbers)
    rows = {move.row.path: move.row._replace(pattern=move.pattern) for move in moves}
    table.replace_rows(tuple(rows.get(row.path, row) for row in table.rows))


def _moved(column: Any, move: Move, device: Arrays, *, value: bool) -> Any:
    before = device.get(column[move.row.slice])
    from ..kernels.cpu.change import take_or_zero  # compiling waits until a structure changes

    moved = np.empty(len(move.sources), before.dtype)
    take_or_zero(before, move.sources, moved)
    return move.filled(moved, value) if value and np.count_nonzero(move.fill) else moved


def moved_table(table: ParameterTable, moves: Sequence[Move], device: Arrays) -> ParameterTable:
    """A table with new arrays, in which the moves have been carried out; it shares the old one's dict of columns."""
    by_path: Mapping[str, Move] = {move.row.path: move for move in moves}

    def entry(row: Row) -> tuple[str, int, SparsityPattern | None, bool, bool]:
        pattern = by_path[row.path].pattern if row.path in by_path else row.pattern
        size = by_path[row.path].pattern.nnz if row.path in by_path else row.size
        return row.path, size, pattern, row.trained, row.decays

    rows = rows_of(map(entry, table.rows))
    pieces = [_sources(row, by_path.get(row.path)) for row in table.rows]
    sources = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
    new = ParameterTable(rows, None, table.columns)
    grown = [(row, by_path[row.path]) for row in rows if row.path in by_path and by_path[row.path].grows]
    trained = new.trained
    columns = {
        name: _picked(column, sources[:trained], grown, device, value=False) for name, column in table.columns.items()
    }
    new.values = _picked(table.values, sources, grown, device, value=True)
    table.columns.update(columns)  # the dict is the optimizer's own
    return new


def _sources(row: Row, move: Move | None) -> NDArray[np.int64]:
    """Where a row's elements stood in the old columns; for new ones any valid position."""
    if move is None:
        return np.arange(row.start, row.start + row.size)
    sources = np.maximum(move.sources, 0) if move.grows else move.sources
    return sources + row.start if row.start else sources


def _picked(
    column: Any, sources: NDArray[np.int64], grown: Sequence[tuple[Row, Move]], device: Arrays, *, value: bool
) -> Any:
    picked = device.pick(column, sources)
    for row, move in grown:
        numbers = move.filled(np.array(device.get(picked[row.slice])), value)
        if device.name == "cpu":
            picked[row.slice] = numbers
        else:
            device.fill(picked[row.slice], numbers)
    return picked
