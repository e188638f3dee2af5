"""What a sweep is: a file that says what all runs have, what varies, and how; and the runs that come of it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ...commands.recipes import resolved
from ...data.fingerprint import fingerprint
from ...errors import OneLineError
from ...files import content
from ...runs.config import RunConfig, settings
from ...runs.kinds import ConfigError, spelled
from .run import Run

TABLES = ("run", "grid", "random")
WHOLE = {"seeds": (1, 256), "draws": (1, 100_000), "seed": (0, 2**31 - 1)}
"""The numbers beside the tables, and what they may be."""
LARGEST, MOST = 1 << 20, 100_000  # bytes of a file, and runs


class SweepError(OneLineError):
    """A sweep that cannot be made; one line that names the file and the entry, what was expected and what found."""


@dataclass(frozen=True)
class Point:
    """Settings, and a run of them for each seed.

    Attributes
    ----------
    given : dict
        What varies, by the names of a configuration's fields.
    runs : tuple of Run
    """

    given: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """The settings, for people."""
        return " ".join(f"{name}={shown(value)}" for name, value in self.given.items()) or "as given"


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep, and the names of what varies, in order."""

    names: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs, each once."""
        return list({run.key: run for point in self.points for run in point.runs}.values())


def read_sweep(path: Path) -> Sweep:
    """The sweep in a TOML file.

    Raises
    ------
    SweepError
        If there is no such file, or it does not describe one; nothing has been run then.
    """
    try:
        found = tomllib.loads(content(path, LARGEST).decode())
    except OSError as error:
        raise SweepError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise SweepError(f"{path}: expected TOML, could not read it ({error})") from None
    try:
        return sweep_of(found)
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from None


def sweep_of(found: Mapping[str, Any]) -> Sweep:
    """The sweep that a file's tables describe. Raises SweepError."""
    for name in found:
        if name not in (*TABLES, *WHOLE):
            raise SweepError(f"{name}: expected one of {', '.join((*TABLES, *WHOLE))}{_close(name, (*TABLES, *WHOLE))}")
    tables = {name: _table(found, name) for name in TABLES}
    fixed, grid, drawn = tables.values()
    seeds, draws, seed = (_whole(found, name, default) for name, default in (("seeds", 1), ("draws", 0), ("seed", 0)))
    if bool(drawn) != bool(draws):
        raise SweepError("random: expected a table of that name and draws, how many of its runs to make, or neither")
    if not grid and not drawn:
        raise SweepError("expected a table grid or random with what varies, got none")
    if twice := next((name for name in fixed if name in grid or name in drawn), None):
        raise SweepError(f"{twice}: expected it to be in run, or to vary, got both")
    if twice := next((name for name in grid if name in drawn), None):
        raise SweepError(f"{twice}: expected it in grid or in random, got both")
    if "loss" in grid or "loss" in drawn:
        raise SweepError("loss: expected it in run, the same for all, since scores of different ones do not compare")
    values = {name: _list(name, value) for name, value in grid.items()}
    count = math.prod(map(len, values.values())) * max(draws, 1) * seeds
    if count > MOST:
        raise SweepError(f"expected at most {MOST:,} runs, got {count:,}")
    points = [
        _point(fixed, dict(zip(values, chosen, strict=True)) | one, seeds)
        for one in (_draws(drawn, draws, seed) if draws else [{}]) for chosen in product(*values.values())
    ]  # fmt: skip
    data = {name: fingerprint(name) for name in {run.dataset for point in points for run in point.runs}}
    own = (Point(each.given, tuple(replace(run, data=data[run.dataset]) for run in each.runs)) for each in points)
    return Sweep((*values, *drawn), tuple(own))


def _point(fixed: Mapping[str, Any], given: dict[str, Any], seeds: int) -> Point:
    try:
        config = RunConfig.from_dict({**fixed, **given})
        whole = resolved(config)
    except ConfigError as error:
        where = f" ({', '.join(f'{name} = {shown(value)}' for name, value in given.items())})" if given else ""
        raise SweepError(f"{error}{where}") from None
    if config.seed != 0:
        raise SweepError(f"seed: expected seeds, how many to make of each run, got seed = {config.seed} in run")
    if config.dataset is None:  # a run is one on a data set that it names
        config = RunConfig.from_dict({**fixed, **given, "dataset": whole.dataset})
    return Point(given, tuple(Run(config).seeded(seed) for seed in range(seeds)))


def _draws(drawn: Mapping[str, Any], draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """Settings drawn at random: the same ones for a seed, however many there are."""
    rules = {name: _rule(name, value) for name, value in drawn.items()}
    for number in range(draws):
        rng = np.random.default_rng([seed, number])
        yield {name: rule(rng.random()) for name, rule in rules.items()}


def _rule(name: str, value: Any) -> Any:
    """A value from a number in [0, 1): one of a list, or between two ends."""
    if isinstance(value, list):
        choices = _list(name, value)
        return lambda part: choices[int(part * len(choices))]
    wanted = f"{name}: expected a list, or ends such as {{ from = 0.001, to = 0.1, log = true }}, got {value!r}"
    if not isinstance(value, dict) or not {"from", "to"} <= value.keys() <= {"from", "to", "log"}:
        raise SweepError(wanted)
    first, last, log = value["from"], value["to"], value.get("log", False)
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (first, last))
    if not numbers or not isinstance(log, bool) or not math.isfinite(last - first):
        raise SweepError(wanted)
    if not first < last or (log and first <= 0):
        least = "0 < from < to" if log else "from < to"
        raise SweepError(f"{name}: expected {least}, got from {first} to {last}")
    if isinstance(first, int) and isinstance(last, int):
        if log:
            return lambda part: min(int(first * ((last + 1) / first) ** part), last)
        return lambda part: first + int(part * (last - first + 1))
    if log:
        return lambda part: float(f"{first * (last / first) ** part:.4g}")
    return lambda part: float(f"{first + (last - first) * part:.4g}")


def _table(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = found.get(name, {})
    if not isinstance(table, dict):
        raise SweepError(f"{name}: expected a table, got {table!r}")
    known = [setting.name for setting in settings()]
    for field in table:
        if field not in known:
            raise SweepError(f"{name}.{field}: no such field of a run{_close(field, known)}")
    return table


def _whole(found: Mapping[str, Any], name: str, default: int) -> int:
    value, (least, most) = found.get(name, default), WHOLE[name]
    if name in found and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
        raise SweepError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")
    return int(value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise SweepError(f"{name}: expected a list of values, got {value!r}")
    return value


def shown(value: Any) -> str:
    """A value as on a command line."""
    return spelled(tuple(tuple(each) if isinstance(each, list) else each for each in value)
                   if isinstance(value, list) else value)  # fmt: skip


def _close(name: str, known: Any) -> str:
    close = get_close_matches(str(name), list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
