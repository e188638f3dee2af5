"""What every error that people may meet has in common: it is one line, whatever names and bytes went into it."""

from __future__ import annotations


def one_line(text: object, longest: int = 400) -> str:
    """Text without line breaks or control characters, and not without end."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-longest // 2 :]}"


class OneLineError(ValueError):
    """An error whose message is one line of at most a thousand letters.

    Messages name files, arrays and layers as foreign files call them, which may hold anything.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message, 1000))
