"""A run's lines of metrics, one JSON object each: in a file, or in memory where a run has no folder.

They are not part of a checkpoint, which would grow with every epoch, and memory with it: a checkpoint knows how many
bytes of them belong to it and what their checksum is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import append, content, memory, replace, sync
from ..training.state import Mark as Mark
from ..training.state import Record as Record
from .folder import RunFolderError, path_errors
from .strict import as_line


class Metrics:
    """Lines of metrics; iterating over them reads them again, oldest first.

    Parameters
    ----------
    path : Path, optional
        The file. Only `cut`, which is called first, and `append` write to it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._memory = bytearray()
        self._count(b"")

    def append(self, record: Record) -> None:
        """One more line, where numbers that are not finite are null.

        Raises RunFolderError if it cannot be written, and then none of it stays.
        """
        line = as_line(record).encode() + b"\n"
        if self.path is None:
            self._memory += line
        else:
            with path_errors(self.path):
                append(self.path, line)
        self._length += len(line)
        self._sum.update(line)
        self._synced = False

    def mark(self) -> Mark:
        """How far they go, once all of them are on the disk."""
        if self.path is not None and not self._synced:
            with path_errors(self.path):
                sync(self.path)
            self._synced = True
        return Mark(self._length, self._sum.hexdigest())

    def cut(self, mark: Mark) -> None:
        """Drop the lines past a mark, which the run will write again. There may be none at all.

        Raises
        ------
        RunFolderError
            If the lines up to the mark are not those that it was made after, or the file cannot be used.
        """
        with path_errors(self.path):
            kept = self._text()[: mark.length]
            if kept and (found := Mark.after(kept)) != mark:
                raise RunFolderError(
                    f"{self.path}: altered since the checkpoint was written: expected {mark.length:,} bytes of sha256 "
                    f"{mark.sha256:.64}, got {found.length:,} of {found.sha256}; put it back, or delete it to go on "
                    "without the lines so far"
                )
            if self.path is not None:
                replace(self.path, kept)
            else:
                self._memory = bytearray(kept)
        self._count(kept)

    def check_own(self) -> None:
        """Raise RunFolderError if the file does not end where this process left it: another run has gone on since."""
        if self.path is not None:
            with path_errors(self.path):
                found = self.path.stat().st_size if self.path.exists() else 0
            if found != self._length:
                raise RunFolderError(
                    f"{self.path}: expected the {self._length:,} bytes that this run left there, got {found:,}: "
                    "another has gone on with it since: restore its checkpoint"
                )

    def __iter__(self) -> Iterator[Record]:
        for number, line in enumerate(self._text().splitlines(), 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or "event" not in record:
                raise RunFolderError(f"{self.path}: line {number}: expected a record of metrics, got {line[:60]!r}")
            yield record

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_memory": self._memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._count(self._text())
        self._synced = self.path is None

    def _text(self) -> bytes:
        if self.path is None:
            return bytes(self._memory)
        with path_errors(self.path):
            return content(self.path, memory() // 8) if self.path.exists() else b""

    def _count(self, text: bytes) -> None:
        self._length, self._sum, self._synced = len(text), hashlib.sha256(text), True
