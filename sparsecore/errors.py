"""What every error that people may meet has in common: it is one line, whatever names and bytes went into it."""

from __future__ import annotations

from typing import Any


def one_line(text: object, longest: int = 400) -> str:
    """Text without line breaks or control characters, and not without end."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-longest // 2 :]}"


def figure(value: Any, spec: str) -> str:
    """A number as `format` has it, or by its powers of ten where that would be a line of digits."""
    text = format(value, spec)
    return text if len(text) <= 24 else f"{value:.4g}"


class OneLineError(ValueError):
    """An error whose message is one line of at most a thousand letters.

    Messages name files, arrays and layers as foreign files call them, which may hold anything.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message, 1000))
