"""What tells a user's own data from others of the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sparsecore.data.catalogue import NAMES

WHOLE = 1 << 30
"""Bytes of a file up to which it is read; of a larger one the size and the time of the last change tell."""


def fingerprint(name: str) -> str:
    """A hash of the files that a path leads to; nothing for the named sets, and where there are no files.

    A folder is all that lies in it, by relative paths.
    """
    path = Path(name)
    if name in NAMES or not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    found = hashlib.sha256()
    for file in files:
        about, whole = file.stat(), file.stat().st_size <= WHOLE
        changed = "" if whole else about.st_mtime_ns
        found.update(f"{file.relative_to(path).as_posix()}\0{about.st_size}\0{changed}\0".encode())
        if whole:
            found.update(file.read_bytes())
    return found.hexdigest()
