"""The parser of every command line and the types of its arguments; what is wrong is said on one line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from os.path import expanduser
from typing import Any, NoReturn

from ..errors import OneLineError, one_line


class UsageError(OneLineError):
    """A command line that cannot be followed; one line: what was wrong, what is allowed, an example."""


class Parser(argparse.ArgumentParser):
    """argparse, but errors raise UsageError, options cannot be abbreviated, and ~ is the home folder in any word.

    A shell leaves it in `--out=~/x`, from which a folder called ~ was made.
    """

    def __init__(self, prog: str, description: str, example: str, **others: Any) -> None:
        super().__init__(
            prog, description=description, epilog=f"for example: {example}", argument_default=argparse.SUPPRESS,
            allow_abbrev=False, **others,
        )  # fmt: skip
        self.example = example

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [_at_home(word) for word in (sys.argv[1:] if args is None else args)]
        found, rest = super().parse_known_args(words, namespace)
        for name, value in vars(found).items():
            if value == []:  # what argparse makes of --out=--
                self.error(f"argument --{name.replace('_', '-')}: expected a value, got '--'")
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(message)}; for example: {self.example}")


def _at_home(word: str) -> str:
    return re.sub(r"^(--[\w-]+=|)(~.*)$", lambda found: found[1] + expanduser(found[2]), word, flags=re.DOTALL)


def integer(wanted: str, example: int, least: int, most: int) -> Callable[[str], int]:
    """An argument's type: a whole number in a range."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {wanted}, such as {example}, got {text!r}")
        return value

    return convert
