"""A run's folder is one run's at a time: a lock on it, which ends with the process that holds it."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import RunFolderError, path_errors

if TYPE_CHECKING:
    from filelock import FileLock

NAME = "lock"
"""What the file is called while a run is at work; a run that was killed leaves it, unlocked."""
_UNABLE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class FolderLock:
    """The right to write to a folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        return self._lock is not None and self._lock.is_locked  # not by a process forked from the one that took it

    def take(self) -> None:
        """Take it, if it is not held already. On a file system that has no locks everybody may have it.

        Raises
        ------
        RunFolderError
            If another run has it, of this process or another, or the folder cannot be written to.
        """
        if self.held:
            return
        from filelock import FileLock, Timeout

        self._lock = FileLock(self.folder / NAME, timeout=0, thread_local=False)
        with path_errors(self.folder):
            try:
                self._lock.acquire()
            except Timeout:
                raise RunFolderError(
                    f"{self.folder}: another run is at work there: wait until it is done, or choose another folder"
                ) from None
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise

    def release(self) -> None:
        """Leave the folder to others."""
        if self._lock is not None and self.held:
            with suppress(OSError):
                (self.folder / NAME).unlink()  # while nobody else can have it: whoever opened it finds it gone
            self._lock.release()
