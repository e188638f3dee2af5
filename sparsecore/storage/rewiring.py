"""Other connections for the same layer: what stays keeps its numbers, in every column of the parameter table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .parameters import ParameterTable, Row, rows_of
from .pattern import SparsityPattern


class Place(Protocol):
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
    fill: Any

    def filled(self, moved: Any, value: bool) -> Any:
        """A host array of the moved numbers with those of new connections written in."""
        new = self.sources < 0
        moved[new] = (self.fill[new] if np.ndim(self.fill) else self.fill) if value else 0
        return moved


def move_of(row: Row, pattern: Any, fill: Any) -> Move:
    """The move of a row's layer to a pattern, checked.

    Raises
    ------
    TypeError, ValueError
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
    return Move(row, pattern, sources_of(before, pattern), fill)


def sources_of(before: SparsityPattern, after: SparsityPattern) -> NDArray[np.int64]:
    """Where each connection of one pattern stands in the values of another, −1 where it does not."""
    from ..kernels.cpu.merge import merge_rows  # compiling waits until a structure changes

    sources = np.empty(after.nnz, np.int64)
    merge_rows(before.indptr, before.indices, after.indptr, after.indices, sources)
    return sources


def move_in_place(table: ParameterTable, moves: Sequence[Move], device: Place) -> None:
    """Carry out moves of equal size where the numbers lie; all memory is taken before the first is changed."""
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


def _moved(column: Any, move: Move, device: Place, *, value: bool) -> Any:
    return move.filled(device.get(column[move.row.slice])[np.maximum(move.sources, 0)], value)


def moved_table(table: ParameterTable, moves: Sequence[Move], device: Place) -> ParameterTable:
    """A table with arrays of their own in which the moves have been carried out. The old one is as it was."""
    by_path: Mapping[str, Move] = {move.row.path: move for move in moves}

    def entry(row: Row) -> tuple[str, int, SparsityPattern | None, bool, bool]:
        pattern = by_path[row.path].pattern if row.path in by_path else row.pattern
        size = by_path[row.path].pattern.nnz if row.path in by_path else row.size
        return row.path, size, pattern, row.trained, row.decays

    rows = rows_of(map(entry, table.rows))
    sources = np.concatenate(
        [
            np.where(by_path[row.path].sources < 0, -1, by_path[row.path].sources + row.start)
            if row.path in by_path
            else np.arange(row.start, row.start + row.size)
            for row in table.rows
        ]
        or [np.empty(0, np.int64)]
    )
    new = ParameterTable(rows, None)
    trained = new.trained
    columns = {
        name: _picked(column, sources[:trained], rows, by_path, device, value=False)
        for name, column in table.columns.items()
    }
    new.values = _picked(table.values, sources, rows, by_path, device, value=True)
    table.columns.update(columns)  # the dict is the optimizer's own
    new.columns = table.columns
    return new


def _picked(
    column: Any, sources: NDArray[np.int64], rows: Sequence[Row], moves: Mapping[str, Move], device: Place, *,
    value: bool,
) -> Any:  # fmt: skip
    grown = [(row, moves[row.path]) for row in rows if row.path in moves and (moves[row.path].sources < 0).any()]
    picked = device.pick(column, np.maximum(sources, 0) if grown else sources)
    for row, move in grown:
        numbers = move.filled(np.array(device.get(picked[row.slice])), value)
        if device.name == "cpu":
            picked[row.slice] = numbers
        else:
            device.fill(picked[row.slice], numbers)
    return picked
