"""The parser of every command line and the types of its arguments; what is wrong is said on one line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import pairwise
from os.path import expanduser
from typing import Any, NoReturn

from ..errors import OneLineError, one_line
from .called import as_called

CACHE = "folder of fetched data sets ($SPARSECORE_DATA_DIR, or else the platform's cache folder, if not given)"


_NOTHING = re.compile(r"--[\w-]+=")


class UsageError(OneLineError):
    """A command line that cannot be followed; one line: what was wrong, what is allowed, an example."""


class Parser(argparse.ArgumentParser):
    """argparse, but errors raise UsageError, options cannot be abbreviated, and ~ is the home folder in any word.

    A shell leaves it in `--out=~/x`, from which a folder called ~ was made. A word that is nearly an option or a choice
    is not taken for it, since the next version may have another that is nearer; the error names what is close.
    """

    def __init__(self, prog: str, description: str, example: str, **others: Any) -> None:
        self.example = as_called(example)
        super().__init__(
            as_called(prog), description=description, epilog=f"for example: {self.example}",
            argument_default=argparse.SUPPRESS, allow_abbrev=False, **{"formatter_class": _Help} | others,
        )  # fmt: skip

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}{_meant(rest, list(self._options()))}")
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [_at_home(word) for word in (sys.argv[1:] if args is None else args)]
        found, rest = super().parse_known_args(words, namespace)
        for name, value in vars(found).items():
            if value == []:  # what argparse makes of --out=--
                self.error(f"argument --{name.replace('_', '-')}: expected a value, got '--'")
        for before, word in pairwise(["", *words]):
            if not word or _NOTHING.fullmatch(word):  # what a variable that is not set leaves
                option = word[:-1] if word else before if before.startswith("--") else ""
                self.error(f"{f'argument {option}' if option else 'arguments'}: expected a value, got ''")
        return found, rest

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message, re.DOTALL)
        close = _meant([wrong[1]], wrong[2].replace("'", "").split(", ")) if wrong else ""
        raise UsageError(f"{one_line(message)}{close}; for example: {self.example}")

    def walk(self) -> Iterator[Parser]:
        """This parser, and those of its sub-commands."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser.walk()

    def actions(self) -> list[argparse.Action]:
        """The arguments and options of this parser itself."""
        return list(self._actions)

    def _options(self) -> Iterator[str]:
        for parser in self.walk():
            yield from parser._option_string_actions


class _Help(argparse.HelpFormatter):
    """Says of an option that takes no value what holds without it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        alone = isinstance(action, argparse._StoreTrueAction) and action.help
        return as_called(f"{action.help} (off if not given)" if alone else action.help or "")


def _meant(words: list[str], known: list[str]) -> str:
    """A question for each word that is nearly one of those known."""
    found = [match for word in words for match in _near(word.partition("=")[0], known)]
    return f"; did you mean {' or '.join(dict.fromkeys(found))}?" if found else ""


def _near(word: str, known: list[str]) -> list[str]:
    longer = [each for each in known if each.startswith(word)] if len(word) > len("--e") else []
    return longer if 1 <= len(longer) <= 3 else get_close_matches(word, known, 1)


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
