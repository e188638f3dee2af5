"""Files that are whole at every moment, as they were or as they are to be; and nothing but files read or written.

A name may lead to anything: a FIFO that nobody writes to, a device, a file of a terabyte that takes no space. So
whatever is read is looked at first, and nothing is written through a link.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for whoever is at the other end of a FIFO
_ALWAYS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_writing: set[str] = set()  # by this process, at this moment
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def replace(path: Path, data: bytes | Iterable[bytes | memoryview], previous: Path | None = None) -> None:
    """Write a file's new content; whatever interrupts it, the name leads to all of the old or all of the new.

    The bytes go to a hidden file beside it, which nobody else writes to, are brought to the disk, and only then take
    the name. The new file has the old one's permissions.

    Parameters
    ----------
    path : Path
    data : bytes, or pieces of bytes
        Pieces are written one after another as they come: a file may be larger than what memory is left.
    previous : Path, optional
        What the old content is called afterwards; it is gone if not given.

    Raises
    ------
    OSError, ValueError
        If that cannot be done; what was there is as it was.
    """
    _sweep(path)
    writing = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.writing")
    _writing.add(writing.name)
    try:
        with _made(writing, _permissions(path)) as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            flush(file)
        if previous is not None and path.is_file():  # a folder that has the name makes the next line fail
            _keep(path, previous)
        os.replace(writing, path)
    except BaseException as error:
        writing.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(writing)):  # not one that `data` comes from
            _name(error, path)
        raise
    finally:
        _writing.discard(writing.name)
    _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to a file; where it cannot be written whole, none of it stays.

    Raises
    ------
    OSError
    """
    with to_append(path) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            file.truncate(end)
            _name(error, path)
            raise


def sync(path: Path) -> None:
    """Bring what was added to a file to the disk. Raises OSError."""
    with to_append(path) as file:
        flush(file)


def flush(file: IO[bytes]) -> None:
    """Bring an open file to the disk, where its file system can do that. Raises OSError."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _UNABLE:
            raise


def content(path: Path, most: int) -> bytes:
    """What is in a file, if it is one and has at most so many bytes.

    Raises
    ------
    OSError
        As `check`, and whatever keeps it from being read.
    """
    check(path, most)
    with open(os.open(path, os.O_RDONLY | _NO_WAIT | _ALWAYS), "rb") as file:
        _check(os.fstat(file.fileno()), path, most)
        return file.read(most)


def check(path: Path, most: int) -> int:
    """The size of a file that is about to be read by its name, by a library that would not look at it.

    Raises
    ------
    OSError
        If it is not there, is something else than a file, such as a FIFO or a device, or has more than `most` bytes.
    """
    return _check(os.stat(path), path, most)


def memory() -> int:
    """Bytes of this machine's memory, of which a file's content takes its part; very many where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def _check(found: os.stat_result, path: Path, most: int | None = None) -> int:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"expected a file, got {kind}", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes, got {found.st_size:,}", str(path))
    return found.st_size


def _name(error: OSError, path: Path) -> None:
    """Let an error of the system say whose file it is about: it names a hidden one, or none."""
    if error.errno is not None:
        error.filename = str(path)
        if error.filename2 is not None:
            del error.filename2  # of a renaming; None would be told too


def _made(path: Path, permissions: int | None) -> IO[bytes]:
    """A new file, open for writing: whatever has the name already, be it a link, is an error."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _ALWAYS, 0o666)
    try:
        if permissions is not None and hasattr(os, "fchmod"):
            os.fchmod(handle, permissions)
    except BaseException:
        os.close(handle)
        raise
    return open(handle, "wb")


def _permissions(path: Path) -> int | None:
    """Those of the file that has a name; None where there is none, and a new file's are the process's own."""
    try:
        found = os.lstat(path).st_mode
    except OSError:
        return None
    return stat.S_IMODE(found) & 0o777 if stat.S_ISREG(found) else None


def to_append(path: Path) -> IO[bytes]:
    """A file, made if it is not there, open for adding to it. Raises OSError if the name leads to anything else."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT | _ALWAYS, 0o666)
    try:
        _check(os.fstat(handle), path)
    except OSError:
        os.close(handle)
        raise
    return open(handle, "ab", buffering=0)


def _sweep(path: Path) -> None:
    """Remove what was left beside a file by processes that were killed while they wrote it."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(?:(\d+)-[0-9a-f]+\.)?writing")  # earlier versions had no number
    with suppress(OSError):
        for name in os.listdir(path.parent):
            found = ours.fullmatch(name)
            if found and name not in _writing and not (found[1] and _is_another(int(found[1]))):
                os.unlink(path.with_name(name))


def _is_another(process: int) -> bool:
    """Whether there may be another process of this number."""
    if process == os.getpid() or os.name != "posix":
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _keep(path: Path, previous: Path) -> None:
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)  # the name never goes missing
    except OSError:
        os.replace(path, previous)  # no hard links here


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where that can be done: the file is in place in any case."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
