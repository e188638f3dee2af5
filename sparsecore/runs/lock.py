"""A run's folder is one run's at a time: a lock on it, which ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO
from weakref import WeakSet

from ..files import to_append
from .folder import RunFolderError, path_errors

NAME = "lock"
"""What the file is called while a run is at work; a run that was killed leaves it, unlocked."""
_TAKEN = (errno.EACCES, errno.EAGAIN)
_UNABLE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def lock(file: int) -> bool:
    """Lock an open file, as long as any process has it open; False if it was opened and locked elsewhere.

    Raises
    ------
    OSError
        Where the file system has no locks, among others.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 0, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


class FolderLock:
    """The right to write to a folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        _locks.add(self)

    @property
    def held(self) -> bool:
        return self._file is not None

    def take(self) -> None:
        """Take it, if it is not held already. On a file system that has no locks everybody may have it.

        Raises
        ------
        RunFolderError
            If another run has it, of this process or another, or the folder cannot be written to.
        """
        path = self.folder / NAME
        with path_errors(self.folder):
            while not self.held:
                file = to_append(path)
                try:
                    if not lock(file.fileno()):
                        raise RunFolderError(
                            f"{self.folder}: another run is at work there: wait until it is done, or choose another "
                            "folder"
                        )
                    if os.fstat(file.fileno()).st_nlink:  # or whoever had it has removed it since it was opened
                        self._file = file
                except OSError as error:
                    if error.errno not in _UNABLE:
                        raise
                    return
                finally:
                    if not self.held:
                        file.close()

    def release(self) -> None:
        """Leave the folder to others."""
        if self.held:
            with suppress(OSError):
                (self.folder / NAME).unlink()  # while nobody else can have it: whoever opened it finds it gone
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    __del__ = _close


_locks: WeakSet[FolderLock] = WeakSet()


def _leave_to_the_parent() -> None:
    """A forked process is not the one that has a lock, and does not hold it longer than that one."""
    for each in _locks:
        each._close()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_to_the_parent)
