"""What every command line of this package does with its streams."""

from __future__ import annotations

import sys

from .errors import one_line


def complain(program: str, problem: object, status: int) -> int:
    """Say on one line of stderr what is wrong; gives back the exit status."""
    print(f"{program}: {one_line(problem)}", file=sys.stderr)
    return status


def write_anything() -> None:
    """Let letters that a stream's encoding lacks be spelled out, rather than end the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
