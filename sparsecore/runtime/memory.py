"""How much memory a process may still take, by the machine, its control groups and its own limits; what it gives back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import OneLineError
from .processors import around

MACHINE, OWN = Path("/proc/meminfo"), Path("/proc/self/status")
_UNLIMITED = 1 << 60
"""Version 1 of control groups writes its largest number of whole pages where there is no limit."""


def available(processes: int = 1) -> int | None:
    """Bytes that this process can still take, now; None where the system does not tell.

    What the machine has left without swapping, and what each group around this process leaves it, shared by so many
    processes alike; or the address space that RLIMIT_AS leaves, if that is less. Files that are merely cached do not
    count, since they make way.
    """
    machine = _field(MACHINE, "MemAvailable")
    shared = [*([] if machine is None else [machine]), *_groups()]
    found = [*(each // processes for each in shared), *_limit()]
    return max(0, min(found)) if found else None


def check(nbytes: int, what: str) -> None:
    """Refuse what does not fit, before any of it is taken.

    Raises
    ------
    OneLineError
        One line that begins with `what`.
    """
    left = available()
    if left is not None and nbytes > left:
        raise OneLineError(f"{what} takes about {nbytes:,} bytes of memory, and {left:,} are available")


def resident() -> int:
    """Bytes of memory that this process has, now; 0 where the system does not tell."""
    return _field(OWN, "VmRSS") or 0


def give_back() -> None:
    """Let the system have what is free inside the C library's heap, which keeps it where something lies above it."""
    with suppress(OSError, AttributeError, TypeError):  # other systems' libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def _groups() -> Iterator[int]:
    """Bytes that each group leaves, by version 2 of control groups or by version 1."""
    for folder in around("memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, now = _number(folder / most), _number(folder / used)
            if limit is not None and now is not None and limit < _UNLIMITED:
                yield limit - now + (_field(folder / "memory.stat", cached) or 0)


def _limit() -> Iterator[int]:
    """Bytes of addresses that the process's own limit leaves."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft - (_field(OWN, "VmSize") or 0)


def _number(path: Path) -> int | None:
    """The number that is all of a file; None for "max", and where there is no such file."""
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def _field(path: Path, name: str) -> int | None:
    """The number behind a name at the start of a line, in bytes: kB are so many times 1,024."""
    with suppress(OSError, UnicodeError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.replace(":", " ").split()
            if words[:1] == [name]:
                return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    return None
