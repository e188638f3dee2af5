"""A table of a user's own: a .csv file whose columns are numbers, one of them what is to be told."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.arrays import Given
from sparsecore.data.dataset import Dataset
from sparsecore.data.splits import DataError, listed
from sparsecore.errors import one_line
from sparsecore.files import content, memory

SEPARATORS = ",;\t"
EXACT = 1 << 53
"""Up to where a float64 tells whole numbers apart."""


def read_csv(path: Path, target: str | None, loss: str = "cross-entropy") -> Dataset:
    """The data in a .csv file, its columns separated by commas, semicolons or tabs.

    The first line has the columns' names, unless it has numbers alone: they are then called 1, 2, 3, …. A fifth of the
    rows is held out for testing, the same in every run.

    Parameters
    ----------
    path : Path
    target : str or None
        The column to be told: classes, as numbers or words, or with loss "mse" numbers. All others are inputs, numbers.
    loss : {"cross-entropy", "mse"}

    Raises
    ------
    DataError
        Names the file, the line and the column, what was expected and what was got.
    """
    names, rows, headed = _rows(path)
    if target is None or target not in names:
        got = "no --target" if target is None else repr(target)
        raise DataError(f"{path}: expected a column to be told, one of {listed(names)}, got {got}")
    if len(names) < 2:
        raise DataError(f"{path}: expected columns beside {target!r}, which is the only one")
    if names.count(target) > 1:
        raise DataError(f"{path}: expected one column of the name {target!r}, got {names.count(target)}")
    at = names.index(target)
    wrong = _Where(path, [line for _, line in rows])
    others = tuple(name for name in names if name != target) if headed and len(set(names)) == len(names) else ()
    columns = [wrong.numbers(name, [row[k] for row, _ in rows]) for k, name in enumerate(names) if k != at]
    cells = [row[at].strip() for row, _ in rows]
    y = wrong.numbers(target, cells) if loss == "mse" else wrong.classes(target, cells)
    given = Given(str(path), np.stack(columns, axis=1), y, called={"y": target, "x": "columns"}, columns=others)
    return Dataset.of(given, loss)


def _rows(path: Path) -> tuple[list[str], list[tuple[list[str], int]], bool]:
    """The columns' names, each row's cells and the line that it ends with, and whether the first one has the names."""
    try:
        text = content(path, memory() // 4).decode("utf-8-sig")
        head = text[: text.find("\n")] if "\n" in text else text
        separator = max(SEPARATORS, key=head.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        lines = [(row, reader.line_num) for row in reader if row]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a .csv file in UTF-8, could not read it ({error})") from None
    first = lines[0][0] if lines else []
    headed = not all(map(_is_number, first))
    names = [name.strip() for name in first] if headed else [str(k + 1) for k in range(len(first))]
    if not lines[headed:]:
        raise DataError(f"{path}: expected rows of numbers, got none")
    for row, line in lines[headed:]:
        if len(row) != len(names):
            raise DataError(f"{path}: line {line}: expected {len(names)} cells, got {len(row)}")
    return names, lines[headed:], headed


_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?")


class _Where:
    """Columns of a file, and what is wrong with them where it is."""

    def __init__(self, path: Path, lines: list[int]) -> None:
        self.path, self.lines = path, lines

    def numbers(self, name: str, cells: list[str]) -> NDArray[np.float64]:
        """A column of finite numbers."""
        try:
            found = np.asarray(cells, np.float64)
        except ValueError:
            found = np.array([float(cell) if _is_number(cell) else np.nan for cell in cells])
        if not (finite := np.isfinite(found)).all():
            self._refuse(name, int(finite.argmin()), cells, "a finite number")
        return found

    def classes(self, name: str, cells: list[str]) -> NDArray[Any]:
        """A column of classes: whole numbers where all are, also if they are written as floats, or else words."""
        if "" in cells:
            self._refuse(name, cells.index(""), cells, "a class")
        try:
            return np.array([_whole(cell) for cell in cells], np.int64)
        except (ValueError, OverflowError):
            return np.array(cells)

    def _refuse(self, name: str, at: int, cells: list[str], wanted: str) -> None:
        got = repr(one_line(cells[at], 60)) if cells[at].strip() else "nothing"
        hint = "; words become numbers as one column of 0 and 1 for each" if not _is_number(cells[at]) else ""
        raise DataError(f"{self.path}: line {self.lines[at]}, column {name!r}: expected {wanted}, got {got}{hint}")


def _whole(cell: str) -> int:
    """The whole number that a cell holds, such as 3, 3.0 or 3.000e+00. Raises ValueError or OverflowError.

    Other ways of writing one, such as 007 and 1_1, are names: two of them may be one number.
    """
    if not _NUMBER.fullmatch(cell):
        raise ValueError
    try:
        return int(cell)
    except ValueError:
        found = float(cell)
        if not found.is_integer() or abs(found) > EXACT:
            raise ValueError from None
        return int(found)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
