"""What every command line of this package does with its streams."""

from __future__ import annotations

import sys


def one_line(text: object, longest: int = 400) -> str:
    """Text without line breaks or control characters, and not without end."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-longest // 2 :]}"


def complain(program: str, problem: object, status: int) -> int:
    """Say on one line of stderr what is wrong; gives back the exit status."""
    print(f"{program}: {one_line(problem)}", file=sys.stderr)
    return status


def write_anything() -> None:
    """Let letters that a stream's encoding lacks be spelled out, rather than end the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
