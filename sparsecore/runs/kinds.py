"""What a field of a configuration may hold, said once for Python, for JSON and for a command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any, NamedTuple

from ..errors import OneLineError
from ..runtime.halves import NO_FLOAT16
from ..storage.granularity import WORDS, Granularity


class ConfigError(OneLineError):
    """A configuration that cannot be followed; one line that names the field, what was expected, and what was got.

    Parameters
    ----------
    template : str
        The line, with fields in braces as `str.format` has them: "{widths}: goes with {radix} only".
    example : mapping of str to value, optional
        Fields that would do, named at the end.
    **values
        For other braces of the template.
    """

    def __init__(self, template: str, example: Mapping[str, Any] | None = None, **values: Any) -> None:
        self._parts = template, dict(example or {}), values
        super().__init__(self._written(lambda name: name, lambda name, value: f"{name}={value!r}", ", "))

    def on_command_line(self) -> str:
        """The same line in the flags of a command line."""

        def word(name: str, value: Any) -> str:
            return flag(name) if value is True else f"{flag(name)} {spelled(value)}"

        return self._written(flag, word, " ")

    def _written(self, name: Callable[[str], str], one: Callable[[str, Any], str], between: str) -> str:
        template, example, values = self._parts
        line = template.format_map(_Names(name, values))
        return line + (f"; try {between.join(one(*each) for each in example.items())}" if example else "")


class Refused(ValueError):
    """A value that is refused for a reason, which the text gives."""


class _Names(dict[str, Any]):
    """The template's values, and for every other name what the field is called."""

    def __init__(self, name: Callable[[str], str], values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._name = name

    def __missing__(self, key: str) -> str:
        return self._name(key)


class Kind(NamedTuple):
    """What a field may hold.

    Attributes
    ----------
    wanted : str
        For messages, after "expected".
    take : callable
        From a value of Python's or JSON's to the value that is kept. Raises TypeError, ValueError or OverflowError.
    read : callable
        From a word of a command line to what `take` takes. Raises ValueError.
    examples : tuple of str
        Words of a command line that are good.
    older : bool
        Whether older config.json files hold it as it is written on a command line.
    """

    wanted: str
    take: Callable[[Any], Any]
    read: Callable[[str], Any]
    examples: tuple[str, ...] = ()
    older: bool = False

    def value(self, name: str, given: Any) -> Any:
        """What is kept of a value. Raises ConfigError, with the field's name."""
        try:
            return self.take(given)
        except Refused as error:
            raise ConfigError(f"{{{name}}}: {{problem}}", problem=error) from None
        except (TypeError, ValueError, OverflowError):
            such = f", such as {' or '.join(repr(self.word(each)) for each in self.examples)}" if self.examples else ""
            problem = f"expected {self.wanted}{such}, got {given!r}"
            raise ConfigError(f"{{{name}}}: {{problem}}", problem=problem) from None

    def word(self, text: str) -> Any:
        """A value from a command line. Raises ValueError, whose text says what was expected."""
        try:
            return self.take(self.read(text))
        except Refused:
            raise
        except (TypeError, ValueError, OverflowError):
            such = f", such as {' or '.join(self.examples)}" if self.examples else ""
            raise ValueError(f"expected {self.wanted}{such}, got {text!r}") from None


def typed(kind: Kind) -> Callable[[str], Any]:
    """What argparse takes for an argument's type: a word of this kind."""

    def convert(word: str) -> Any:
        try:
            return kind.word(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


FLAGS = {"model": "MODEL", "start_from": "--from"}
"""Fields whose flag is not their name."""


def flag(name: str) -> str:
    """What a field is on a command line."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def spelled(value: Any) -> str:
    """A value as on a command line."""
    if isinstance(value, tuple):
        return ("/" if value and isinstance(value[0], tuple) else ",").join(_short(spelled(each)) for each in value)
    return str(value)


def _short(word: str) -> str:
    return word.removesuffix(".0")


# -- one value -------------------------------------------------------------------------------------------------------


def whole(wanted: str, example: str, least: int, most: int = 10**15 - 1) -> Kind:
    """A whole number in a range."""

    def take(value: Any) -> int:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError
        return _good(int(value), least <= int(value) <= most)

    return Kind(wanted, take, int, (example,))


def real(wanted: str, example: str, good: Callable[[float], bool]) -> Kind:
    """A finite number that is good."""
    return Kind(wanted, lambda value: _good(_number(value), good(value)), float, (example,))


def choice(what: str, names: Sequence[str]) -> Kind:
    """One of some names."""
    return Kind(f"{what}, one of {', '.join(names)}", lambda value: _good(_text(value), value in names), str)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _named(value: Any) -> str:
    return _text(os.fspath(value))


def _device(value: Any) -> str:
    kind, colon, number = _text(value).partition(":")
    numbered = kind == "cuda" and (not colon or (number.isascii() and number.isdecimal()))
    return _good(value, numbered or value in ("cpu", "auto"))


def _activations(value: Any) -> str:
    if value == "float16":
        raise Refused(f"cannot be {NO_FLOAT16}")
    return _good(_text(value), value in ("float32", "bfloat16"))


def _augmentation(value: Any) -> str:
    pixels = _text(value).partition(",")[0]
    moved = pixels.isascii() and pixels.isdecimal() and len(pixels) < 5 and value in (pixels, f"{pixels},flip")
    return _good(value, moved or value == "none")


def _schedule(value: Any) -> str:
    name, _, rest = _text(value).partition(":")
    return _good(value, bool(step_schedule(rest)) if name == "step" else value in ("constant", "cosine"))


def step_schedule(text: str) -> tuple[int, float]:
    """The epochs and the factor in step:EPOCHS[:FACTOR]. Raises ValueError."""
    every, _, factor = text.partition(":")
    found = int(every), float(factor or 0.1)
    return _good(found, found[0] >= 1 and 0 < found[1] <= 1)


def _moment(value: Any) -> str | int:
    return value if value in ("initial", "fresh") else STEP.take(value)


def _growth(value: Any) -> float | str:
    return "exact" if isinstance(value, str) and value == "exact" else _good(_number(value), value >= 1)


def _norm(value: Any) -> float | str:
    return "none" if isinstance(value, str) and value == "none" else _good(_number(value), value > 0)


def _rate(value: Any) -> float | str:
    return "auto" if isinstance(value, str) and value == "auto" else _good(_number(value), value > 0)


def _threads(value: Any) -> int | str:
    return "auto" if isinstance(value, str) and value == "auto" else THREADS.take(value)


TRUTH = Kind("true or false", _truth, bool)
NAME = Kind("a name", _named, str)
PATH = Kind("a file or a run's folder", lambda value: os.path.abspath(_named(value)), str)
COUNT = whole("a whole number from 1", "10", 1, 10**9)
SEED = whole("a whole number from 0", "0", 0, 2**63 - 1)
THREADS = whole("a whole number from 1 to 256", "2", 1, 256)
THREADS_OR_AUTO = Kind(
    "auto, or a whole number from 1 to 256", _threads, lambda text: text if text == "auto" else int(text), ("2",)
)
PADDING = whole("a whole number from 0 to 100", "2", 0, 100)
STEP = whole("a number of steps", "1000", 0)
STEPS = whole("a number of steps from 1", "200", 1)
POSITIVE = real("a number above 0", "0.1", lambda value: value > 0)
NOT_NEGATIVE = real("a number of at least 0", "0.0005", lambda value: value >= 0)
FRACTION = real("a fraction of at least 0 and below 1", "0.1", lambda value: 0 <= value < 1)
PART = real("a fraction above 0 and below 1", "0.3", lambda value: 0 < value < 1)
GRANULARITY = Kind(
    f"a granularity, {WORDS}", lambda value: _good(_text(value), bool(Granularity.read(value))), str,
    ("rows:4", "block:4,4"),
)  # fmt: skip
ACTIVATIONS = Kind("float32 or bfloat16", _activations, str)
DEVICE = Kind("a device, one of cpu, cuda, cuda:1 and auto", _device, str)
AUGMENTATION = Kind("none, or pixels such as 4 or 4,flip", _augmentation, str)
SCHEDULE = Kind("constant, cosine, or step:EPOCHS[:FACTOR] such as step:10:0.5", _schedule, str)
MOMENT = Kind(
    "initial, fresh, or a number of steps such as 469", _moment,
    lambda text: text if text in ("initial", "fresh") else int(text), older=True,
)  # fmt: skip
NORM = Kind(
    "a number above 0, or none", _norm, lambda text: text if text == "none" else float(text), ("1", "none")
)  # fmt: skip
RATE = Kind(
    "a number above 0, or auto", _rate, lambda text: text if text == "auto" else float(text), ("0.1", "auto")
)  # fmt: skip
GROWTH = Kind(
    "exact, or a number from 1", _growth, lambda text: text if text == "exact" else float(text), ("4", "exact")
)  # fmt: skip


# -- several values --------------------------------------------------------------------------------------------------


def _list(value: Any, take: Callable[[Any], Any], good: Callable[[Any], bool] = lambda each: True) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise TypeError
    taken = tuple(take(each) for each in value)
    return _good(taken, all(map(good, taken)))


def _one_or_more(value: Any, good: Callable[[float], bool]) -> float | tuple[float, ...]:
    taken = _list(value if isinstance(value, list | tuple) else [value], _number, good)
    return taken if len(taken) > 1 else taken[0]


def _numbers(text: str, kind: Callable[[str], Any] = float) -> list[Any]:
    return [kind(each) for each in text.split(",")]

def _repeated(text: str) -> list[list[int]]:
    """A list of radices, or as many of it as 2,5*9 says."""
    numbers, star, times = text.partition("*")
    return [_numbers(numbers, int)] * (_times(int(times)) if star else 1)


_radix, _width, _times = (whole("", "", *ends).take for ends in ((2, 2**31 - 1), (1, 2**31 - 1), (1, 1000)))

RADICES = Kind(
    "radices above 1", lambda value: _list(value, lambda each: _list(each, _radix)),
    lambda text: [each for part in text.split("/") for each in _repeated(part)], ("10,10", "2,5/10"), older=True,
)  # fmt: skip
WIDTHS = Kind(
    "positive whole numbers", lambda value: _list(value, _width), lambda text: _numbers(text, int), ("8,30,1",),
    older=True,
)  # fmt: skip
SPARSITY = Kind(
    "a fraction removed, at least 0 and below 1, or one a layer",
    lambda value: _one_or_more(value, lambda each: 0 <= each < 1), _numbers, ("0.9", "0.5,0.9"), older=True,
)  # fmt: skip
GOALS = Kind(
    "sparsities from 0 to 1, not all of them 0",
    lambda value: _some(_one_or_more(value, lambda each: 0 <= each <= 1)), _numbers, ("0.9", "0.9,0.9,0"), older=True,
)  # fmt: skip
BETAS = Kind(
    "two fractions of at least 0 and below 1",
    lambda value: _good(_list(value, _number, lambda each: 0 <= each < 1), len(value) == 2), _numbers, ("0.9,0.999",),
)  # fmt: skip


def _some(goals: float | tuple[float, ...]) -> float | tuple[float, ...]:
    return _good(goals, max(goals if isinstance(goals, tuple) else (goals,)) > 0)


def _number(value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError
    return _good(float(value), isfinite(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return _good(value, bool(value) and "\0" not in value)


def _good(value: Any, is_good: bool) -> Any:
    if not is_good:
        raise ValueError
    return value
