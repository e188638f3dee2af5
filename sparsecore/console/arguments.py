"""The parser of every command line and the types of its arguments; what is wrong is said on one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NoReturn

from ..errors import OneLineError, one_line


class UsageError(OneLineError):
    """A command line that cannot be followed; one line: what was wrong, what is allowed, an example."""


class Parser(argparse.ArgumentParser):
    """argparse, but errors raise UsageError, and options cannot be abbreviated."""

    def __init__(self, prog: str, description: str, example: str, **others: Any) -> None:
        super().__init__(
            prog, description=description, epilog=f"for example: {example}", argument_default=argparse.SUPPRESS,
            allow_abbrev=False, **others,
        )  # fmt: skip
        self.example = example

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        found, rest = super().parse_known_args(*arguments, **options)
        for name, value in vars(found).items():
            if value == []:  # what argparse makes of --out=--
                self.error(f"argument --{name.replace('_', '-')}: expected a value, got '--'")
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(message)}; for example: {self.example}")


DEVICES = "cpu (the default), cuda, cuda:1 for the second GPU, or auto for a GPU if one works"


def device_name(text: str) -> str:
    """An argument's type: the name of a device. Whether it is there shows when it is used."""
    kind, colon, number = text.partition(":")
    if text not in ("cpu", "auto") and (kind != "cuda" or (colon and not (number.isascii() and number.isdecimal()))):
        raise argparse.ArgumentTypeError(f"expected a device, one of cpu, cuda, cuda:1 and auto, got {text!r}")
    return text


def text(given: str) -> str:
    """An argument's type: a name or a path."""
    if not given or "\0" in given:
        raise argparse.ArgumentTypeError(f"expected a name, got {given!r}")
    return given


def one_of(what: str, names: Sequence[str]) -> Callable[[str], str]:
    """An argument's type: one of some names."""

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"expected {what}, one of {', '.join(names)}, got {text!r}")
        return text

    return convert


def number(wanted: str, example: float, good: Callable[[float], bool]) -> Callable[[str], float]:
    """An argument's type: a finite number that is good."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (isfinite(value) and good(value)):
            raise argparse.ArgumentTypeError(f"expected {wanted}, such as {example:g}, got {text!r}")
        return value

    return convert


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
