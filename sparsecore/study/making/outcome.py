"""A run's result: its accuracy and sizes, which classes its network answers, and where it was made."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from ..._package import source
from ...data import Dataset
from ...errors import one_line
from ...files import content, memory, replace
from ...network import Network
from ...runs.folder import METRICS
from ...training.lost import lost_classes
from ...training.state import Record

NAME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes
    ----------
    accuracy : float
        On the test split, at the end of the run; a fraction. 0 where numbers are told.
    train_accuracy : float or None
        Of the last epoch; None where nothing was trained.
    connections : int
    sparsity, global_sparsity : float
        Of the sparse layers, and of all.
    epochs : int
    train_seconds, step_ms, seconds : float
        Of one core, for training alone, for one step, and for everything since the run began or was last resumed:
        what the process had of it, however busy the machine was.
    answers, support : tuple of int
        For each class, how many test samples the network puts into it, and how many belong to it.
    version, commit, machine : str
    r2 : float or None
        Of a run that tells numbers: R² on the test split. It has no answers, no support and no accuracy.
    """

    accuracy: float
    train_accuracy: float | None
    connections: int
    sparsity: float
    global_sparsity: float
    epochs: int
    train_seconds: float
    step_ms: float
    seconds: float
    answers: tuple[int, ...]
    support: tuple[int, ...]
    version: str
    commit: str
    machine: str
    r2: float | None = None

    @property
    def score(self) -> float:
        """What runs are compared by, on the test split; more is better: R² where numbers are told, or else accuracy."""
        return self.accuracy if self.r2 is None else self.r2

    @property
    def shown(self) -> str:
        """The score, for people."""
        return f"{self.accuracy:.2%}" if self.r2 is None else f"R² {self.r2:.4f}"

    @property
    def dead(self) -> tuple[int, ...]:
        """The classes that the network never or hardly ever answers, although samples belong to them."""
        return lost_classes(self.answers, self.support)


def assess(folder: Path, seconds: float, data_dir: str | None = None) -> Outcome:
    """Test the network that a run left in its folder, and write the outcome beside it."""
    from ...data import load
    from ...runs.checkpoint import read
    from ...runs.state import from_json

    checkpoint = read(folder)
    network, state = checkpoint.network, checkpoint.state
    options = state["config"]["options"]
    dataset = load(options["dataset"], data_dir=data_dir, target=options.get("target"), loss=options.get("loss"))
    result = from_json(state["run"]).result or {} if "run" in state else {}
    outcome = Outcome(
        train_accuracy=result.get("train_accuracy"),
        connections=network.connections, sparsity=network.sparsity, global_sparsity=network.global_sparsity,
        epochs=result.get("epochs", 0), train_seconds=result.get("train_seconds", 0.0),
        step_ms=result.get("step_ms", 0.0), seconds=seconds,
        version=_made_by(state, "version"), commit=_made_by(state, "commit"), machine=machine(),
        **(_told_numbers(result) if dataset.numbers else _told_classes(result, network, dataset)),
    )  # fmt: skip
    write(folder, outcome)
    return outcome


def _told_classes(result: Record, network: Network, dataset: Dataset) -> dict[str, Any]:
    """What an outcome says of a run that tells classes."""
    answers, labels = network.predict(dataset.test.samples(0, len(dataset.test))), np.asarray(dataset.test.y)
    return {
        "accuracy": float(result.get("test_accuracy", np.mean(answers == labels))),
        "answers": _counts(answers, dataset.classes), "support": _counts(labels, dataset.classes),
    }  # fmt: skip


def _told_numbers(result: Record) -> dict[str, Any]:
    """What an outcome says of a run that tells numbers. Raises KeyError where it has not come to its end."""
    return {"accuracy": 0.0, "answers": (), "support": (), "r2": _r2(result["test_r2"])}


def write(folder: Path, outcome: Outcome) -> None:
    """Write an outcome into a run's folder, whole or not at all: with this file the run counts as finished."""
    replace(folder / NAME, (json.dumps(as_json(outcome), indent=1) + "\n").encode())


def as_json(outcome: Outcome) -> dict[str, Any]:
    """What `outcome_of` takes."""
    found = asdict(outcome)
    return found if outcome.r2 is not None else {name: value for name, value in found.items() if name != "r2"}


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of the run in a folder; None if it is not finished, or the file is not whole."""
    try:
        return outcome_of(json.loads(content(folder / NAME, 1 << 20)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def outcome_of(found: dict[str, Any]) -> Outcome:
    """An outcome from its JSON, which may come from anywhere. Raises what foreign JSON may raise."""
    if found.get("r2", 0) is None:  # as an outcome of classes has it
        found = {name: value for name, value in found.items() if name != "r2"}
    if found.keys() | {"r2"} != _TAKEN.keys():
        raise KeyError
    outcome = Outcome(**{name: _TAKEN[name](value) for name, value in found.items()})
    if len(outcome.answers) != len(outcome.support) or any(outcome.support) != (outcome.r2 is None):
        raise ValueError
    return outcome


def number(value: Any, most: float = inf) -> float:
    """A finite number from 0, and not above `most`. Raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not 0 <= value <= min(most, 1e15):  # no NaN either; what is larger is no time and no count of ours
        raise ValueError
    return value


def records(folder: Path) -> list[dict[str, Any]]:
    """A run's lines of metrics so far."""
    try:
        lines = content(folder / METRICS, memory() // 8).decode().splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _made_by(state: dict[str, Any], name: str) -> str:
    """The version or commit that a run was made by; all of them in order, where it was resumed by others."""
    changes, last = state.get("changes", ()), state.get("source", source())
    return " then ".join(dict.fromkeys([*(change[name][0] for change in changes if name in change), last[name]]))


def machine() -> str:
    """The processor's name and number of cores."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError
    return int(number(value))


def _each(values: Any) -> tuple[int, ...]:
    return tuple(map(_whole, values))


def _fraction(value: Any) -> float:
    return number(value, 1)


def _r2(value: Any) -> float:
    """An R², which may be far below 0."""
    number(1 - value)
    return float(value)


_TAKEN: dict[str, Callable[[Any], Any]] = {
    "accuracy": _fraction, "train_accuracy": lambda value: None if value is None else _fraction(value),
    "connections": _whole, "sparsity": _fraction, "global_sparsity": _fraction, "epochs": _whole,
    "train_seconds": number, "step_ms": number, "seconds": number, "answers": _each, "support": _each,
    "version": one_line, "commit": one_line, "machine": one_line, "r2": _r2,
}  # fmt: skip
"""How each field of an outcome is taken from JSON."""


def _counts(classes: Any, count: int) -> tuple[int, ...]:
    return tuple(int(each) for each in np.bincount(classes, minlength=count))
