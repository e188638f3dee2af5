"""Numba's cache on disk, believed only where it is whole: a power cut or a bad disk costs a compilation, no more.

Numba unpickles what it finds, and runs the machine code in it. Here a checksum stands before every file, so that one
that is cut short or full of noise is never looked into: what it held is compiled again, and the file written anew. It
is no defence against whoever can write to the cache, who can also write a checksum.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.runtime import rtsys

DIGEST = hashlib.sha256().digest_size


def cache_of(function: Callable[..., Any]) -> Any:
    """Where a function's machine code is kept: nowhere, and it is said once, if no folder can be written to."""
    try:
        return _Cache(function)
    except RuntimeError:  # "no locator available": neither beside the source, nor in a home
        _say_that_nothing_is_kept()
        return NullCache()


class _Cache(FunctionCache):
    """Numba's, of files with checksums; what cannot be read or written is compiled, and not kept."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept, or None.

        Numba would first load all that it compiles with: half a second, and 25 MB that stay. Machine code needs but the
        functions of Numba's that it calls, and whatever is compiled later loads the rest itself.
        """
        try:
            rtsys.initialize(target_context)
            return self._load_overload(sig, target_context)
        except Exception:  # whatever is wrong with it, compiling is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk, or a folder that can no longer be written to
            super().save_overload(sig, data)


class _Files(IndexDataCacheFile):
    """An index and the files that it names, each of them after its checksum."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = self._read(self._index_path)
        except OSError:
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        """What a file holds. Raises OSError if it is not whole."""
        found = Path(path).read_bytes()
        digest, content = found[:DIGEST], found[DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise OSError(f"{path}: cut short or altered")
        try:
            return pickle.loads(content)
        except Exception as error:  # whole, and yet of another time
            raise OSError(f"{path}: cannot be unpickled") from error

    def _write(self, path: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(content).digest() + content)


@cache
def _say_that_nothing_is_kept() -> None:
    warnings.warn(
        f"every process compiles its kernels anew, since neither {Path(__file__).parent} nor a home can be written to: "
        "set NUMBA_CACHE_DIR to a folder that can",
        RuntimeWarning,
        stacklevel=2,
    )
