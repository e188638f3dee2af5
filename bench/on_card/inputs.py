"""What a test that failed was working on: arrays of its frames, in failures.npz; all else that is short, by name."""

from __future__ import annotations

import contextlib
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import results

NAME = "failures.npz"
MOST, MOST_OF_ONE = 12 << 20, 2 << 20
"""Bytes of the file, and of one array."""
ROOT = Path(__file__).resolve().parents[2]
_PLAIN = (bool, int, float, str, np.generic, np.dtype, type(None))


def save(excinfo: Any) -> dict[str, str]:
    """Add the arrays to the file, under names such as 3/test_spmm.x; give those, and other values, for the row."""
    found: dict[str, str] = {}
    path = results.out() / NAME
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        number = len({name.split("/")[0] for name in file.namelist()})
        for frame, _ in traceback.walk_tb(excinfo.tb):
            code = frame.f_code
            if ROOT not in Path(code.co_filename).parents or "bench/on_card" in code.co_filename:
                continue
            for name, value in _values(frame.f_locals):
                where = f"{number}/{code.co_name}.{name}"
                if isinstance(value, _PLAIN):
                    found[where] = repr(value)[:200]
                    continue
                array = _on_host(value)
                if array is None or f"{where}.npy" in file.namelist():
                    continue
                found[where] = f"{array.dtype} {array.shape}"
                if array.nbytes > MOST_OF_ONE or path.stat().st_size + array.nbytes > MOST:
                    found[where] += ", too large to save"
                    continue
                with file.open(f"{where}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
    return found


def _values(names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Variables, and what is one level within tuples, lists and dictionaries."""
    for name, value in names.items():
        yield name, value
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in list(value.items())[:32])
        elif isinstance(value, tuple | list):
            yield from ((f"{name}.{key}", each) for key, each in enumerate(value[:32]))


def _on_host(value: Any) -> Any:
    """An array, of the card too where that still answers; None for all else."""
    if hasattr(value, "__cuda_array_interface__"):
        with contextlib.suppress(Exception):
            value = value.get()
    plain = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return np.ascontiguousarray(value) if plain else None
