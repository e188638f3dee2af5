"""The cache of fetched data sets: a folder for each, with its decoded files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.catalogue import Entry
from sparsecore.data.dataset import DataError
from sparsecore.data.formats import LARGEST
from sparsecore.files import check, flush


def folder(data_dir: str | Path | None = None) -> Path:
    """`data_dir`, or else $SPARSECORE_DATA_DIR, or else the platform's cache folder for sparsecore."""
    chosen = data_dir or os.environ.get("SPARSECORE_DATA_DIR")
    if not chosen:
        import platformdirs  # which the embedded digits do without

        chosen = platformdirs.user_cache_dir("sparsecore")
    try:
        return Path(chosen).expanduser()
    except RuntimeError:  # a ~name that nobody has
        return Path(chosen)


def holds(entry: Entry, root: Path) -> bool:
    """Whether all of a set's files are there; only reading them tells whether they are whole."""
    return all((root / entry.name / name).is_file() for name in entry.md5)


def read(entry: Entry, root: Path) -> dict[str, NDArray[np.uint8]]:
    """The bytes of a set's files, each held to its hash.

    Raises
    ------
    DataError
        Names the file that is not what it should be, and how to fetch it again.
    """
    def one(name: str) -> NDArray[np.uint8]:
        path = root / entry.name / name
        try:
            check(path, LARGEST)
            data = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        if (got := digest(data.data)) != entry.md5[name]:
            raise DataError(f"{path}: truncated or altered ({len(data):,} bytes, md5 {got}, expected "
                            f"{entry.md5[name]}); repair it: python -m sparsecore.data fetch {entry.name}")
        return data

    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing and reading both leave Python's lock
        return dict(zip(entry.md5, pool.map(one, entry.md5), strict=True))


def digest(data: bytes | memoryview) -> str:
    """md5, in hexadecimal: the hash that the sets' publishers and readers agree on, not a defence by itself."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@contextmanager
def staging(entry: Entry, root: Path) -> Iterator[Path]:
    """A folder beside the set's own to write its files in; gone afterwards, whatever happens.

    Raises
    ------
    DataError
        Where the cache cannot be written to, which shows before anything is fetched, or where it fills up.
    """
    made = []
    try:
        made = [each for each in (root, *root.parents) if not each.exists()]
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{entry.name}-", dir=root) as stage:
            yield Path(stage)
    except OSError as error:
        raise DataError(f"{root}: cannot be written to ({error.strerror}); choose another folder with --data-dir or "
                        "SPARSECORE_DATA_DIR") from None
    finally:
        for each in made:  # from the inside out, and only where nothing came to be in it
            with suppress(OSError):
                each.rmdir()


def publish(entry: Entry, root: Path, stage: Path, files: Mapping[str, bytes]) -> None:
    """Write a set's files to the stage, then move them into the set's folder, where none is ever seen half-written."""
    for name, data in files.items():
        with (stage / name).open("wb") as file:
            file.write(data)
            flush(file)
    final = root / entry.name
    final.mkdir(exist_ok=True)
    for name in files:
        os.replace(stage / name, final / name)
