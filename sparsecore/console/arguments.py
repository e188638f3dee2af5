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


PLACES = "cpu (the default), cuda, cuda:1 for the second GPU, or auto for a GPU if one works"


def place(text: str) -> str:
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


def radices(text: str) -> list[list[int]]:
    """An argument's type: lists of radices, such as 2,5/10."""
    try:
        lists = [[int(radix) for radix in each.split(",")] for each in text.split("/")]
    except ValueError:
        lists = [[0]]
    if not all(1 < radix < 2**31 for each in lists for radix in each):
        raise argparse.ArgumentTypeError(f"expected radices above 1, such as 10,10 or in lists as 2,5/10, got {text!r}")
    return lists


def widths(text: str) -> list[int]:
    """An argument's type: sizes, such as 8,30,1."""
    try:
        found = [int(width) for width in text.split(",")]
    except ValueError:
        found = [0]
    if not all(0 < width < 2**31 for width in found):
        raise argparse.ArgumentTypeError(f"expected positive whole numbers, such as 8,30,1, got {text!r}")
    return found


def sparsities(text: str) -> float | list[float]:
    """An argument's type: a fraction removed, or several as 0.5,0.9."""
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        found = [1.0]
    if not all(0 <= each < 1 for each in found):
        raise argparse.ArgumentTypeError(
            f"expected a fraction removed, at least 0 and below 1, such as 0.9, or one a layer as 0.5,0.9, got {text!r}"
        )
    return found if len(found) > 1 else found[0]


def augment_text(text: str) -> str:
    """An argument's type: how far images move, and whether they are mirrored."""
    pixels = text.partition(",")[0]
    good = pixels.isascii() and pixels.isdecimal() and len(pixels) < 5 and text in (pixels, f"{pixels},flip")
    if not good and text != "none":
        raise argparse.ArgumentTypeError(f"expected none, or pixels such as 4 or 4,flip, got {text!r}")
    return text


def schedule_text(text: str) -> str:
    """An argument's type: a schedule of the learning rate."""
    name, _, rest = text.partition(":")
    try:
        good = (name == "step" and bool(decay(rest))) or text in ("constant", "cosine")
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(
            f"expected constant, cosine, or step:EPOCHS[:FACTOR] such as step:10:0.5, got {text!r}"
        )
    return text


def decay(text: str) -> tuple[int, float]:
    """The epochs and the factor in step:EPOCHS[:FACTOR]. Raises ValueError."""
    every, _, factor = text.partition(":")
    found = int(every), float(factor or 0.1)
    if found[0] < 1 or not 0 < found[1] <= 1:
        raise ValueError(text)
    return found
