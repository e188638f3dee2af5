"""The challenge's text files, plain or compressed, read a block at a time: rows counted from 1, a column, a value."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_SAMPLES = 60_000
"""Inputs of the official files."""

BLOCK = 1 << 18
"""Lines that are in memory at a time, as text."""


def found_file(folder: Path, name: str) -> Path:
    """The file of that name, or the compressed one. Raises ValueError if neither is there."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{folder}: has neither {name} nor {name}.gz")


def entries(path: Path, shape: tuple[int, int]) -> Iterator[tuple[Array, Array, Array]]:
    """Rows and columns, counted from 0, and values of a matrix of that shape, a block of lines at a time.

    Raises
    ------
    ValueError
        If a line is not three numbers with tabs between, or lies outside the matrix; the message names file and line.
    """
    for first, numbers in _numbers(path, 3):
        places = numbers[:, :2]
        wrong = (places < 1) | (places > shape) | (places != np.floor(places))
        if wrong.any():
            at, which = (int(k) for k in np.argwhere(wrong)[0])
            raise ValueError(
                f"{path}, line {first + at}: expected a {('row', 'column')[which]} from 1 to {shape[which]}, "
                f"got {places[at, which]:.15g}"
            )
        if (large := np.flatnonzero(np.abs(numbers[:, 2]) > np.finfo(np.float32).max)).size:
            got = numbers[large[0], 2]
            raise ValueError(f"{path}, line {first + large[0]}: expected a value that float32 holds, got {got:.15g}")
        rows, columns = places.T.astype(np.int64) - 1
        yield rows, columns, numbers[:, 2]


def categories(path: Path, samples: int) -> Array:
    """The inputs, counted from 0, that are said to be left after the last layer: a number from 1 to 60,000 a line.

    Raises
    ------
    ValueError
        If a line is no such number; the message names file and line.
    """
    found = []
    for first, numbers in _numbers(path, 1):
        wrong = np.flatnonzero((numbers < 1) | (numbers > MOST_SAMPLES) | (numbers != np.floor(numbers)))
        if len(wrong):
            got = numbers[wrong[0], 0]
            raise ValueError(
                f"{path}, line {first + wrong[0]}: expected an input's number, from 1 to {MOST_SAMPLES}, got {got:.15g}"
            )
        found.append(numbers[:, 0].astype(np.int64) - 1)
    every = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    return every[every < samples]  # of all, where fewer are asked for


def _numbers(path: Path, columns: int) -> Iterator[tuple[int, Array]]:
    """The number of a block's first line, and the block's numbers, shape (lines, columns)."""
    first = 1
    try:
        with _opened(path) as file:
            while lines := list(islice(file, BLOCK)):
                yield first, _parsed(path, first, lines, columns)
                first += len(lines)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: the compressed file is damaged after line {first - 1}: {error}") from None


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="ascii", errors="replace")
    return path.open(encoding="ascii", errors="replace")


def _parsed(path: Path, first: int, lines: list[str], columns: int) -> Array:
    try:
        found = np.loadtxt(lines, delimiter="\t", comments=None, ndmin=2)
        if found.shape == (len(lines), columns) and np.isfinite(found).all():
            return found
    except ValueError:
        pass
    for number, line in enumerate(lines, start=first):  # whose fault it is
        _check(path, number, line, columns)
    raise AssertionError(f"{path}: lines that are good one by one could not be read together")


def _check(path: Path, number: int, line: str, columns: int) -> None:
    words = line.rstrip("\r\n").split("\t")
    try:
        # Python takes 1_0 for 10, and NumPy for nothing.
        good = len(words) == columns and "_" not in line and all(np.isfinite(float(word)) for word in words)
    except ValueError:
        good = False
    if not good:
        wanted = "row, column and value with tabs between" if columns == 3 else "one number"
        raise ValueError(f"{path}, line {number}: expected {wanted}, got {line.strip()[:60]!r}")
