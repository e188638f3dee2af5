"""Files that are whole at every moment: as they were, or as they are to be."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Write a file's new content; whatever interrupts it, the name leads to all of the old or all of the new.

    The bytes go to a hidden file beside it, are brought to the disk, and only then take the name.

    Parameters
    ----------
    path : Path
    data : bytes
    previous : Path, optional
        What the old content is called afterwards; it is gone if not given.

    Raises
    ------
    OSError, ValueError
        If that cannot be done; what was there is as it was.
    """
    writing = path.with_name(f".{path.name}.writing")  # always this name: what a crash leaves, the next write replaces
    try:
        with writing.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.is_file():  # a folder that has the name makes the next line fail
            _keep(path, previous)
        os.replace(writing, path)
    except BaseException:
        writing.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to a file; where it cannot be written whole, none of it stays.

    Raises
    ------
    OSError
    """
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(end)
            raise


def sync(path: Path) -> None:
    """Bring what was added to a file to the disk. Raises OSError."""
    with path.open("ab") as file:
        os.fsync(file.fileno())


def _keep(path: Path, previous: Path) -> None:
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)  # the name never goes missing
    except OSError:
        os.replace(path, previous)  # no hard links here


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where a folder can be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
