"""The outcomes of many runs in one file, small enough to be committed: a report can be made from it alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import one_line
from ...files import content, replace
from .outcome import Outcome, as_json, number, outcome_of, records
from .run import Run

Course = list[dict[str, Any]]
"""Of a run's lines of metrics, what is drawn over time."""
DRAWN = {"epoch": ("epoch",), "prune": ("epoch", "step", "accuracy_before", "accuracy_after")}
"""The numbers that a line has, by its event; an epoch's may have a test accuracy."""

LARGEST = 1 << 30  # bytes of such a file


class Archive(NamedTuple):
    """By the runs' keys: outcomes, and the courses of those that are drawn over time."""

    outcomes: Mapping[str, Outcome]
    courses: Mapping[str, Course]


def course_of(folder: Path) -> Course:
    """The course of the run in a folder."""
    found = []
    for record in records(folder):
        if record["event"] in DRAWN:
            found.append(_drawn(record))
    return found


def write_archive(path: Path, runs: Iterable[Run], archive: Archive) -> None:
    """Write a line of JSON for each of these runs that is in an archive: key, command, and outcome."""
    lines = []
    for key, run in {run.key: run for run in runs}.items():
        if key in archive.outcomes:
            line = {"run": key, "command": str(run)} | as_json(archive.outcomes[key])
            if key in archive.courses:
                line["course"] = archive.courses[key]
            lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
    replace(path, "".join(f"{line}\n" for line in lines).encode())


def read_archives(paths: Iterable[Path]) -> Archive:
    """Everything in these files.

    Raises
    ------
    ValueError
        Names the file that cannot be read or is empty, or its line that is no outcome of a run.
    """
    outcomes: dict[str, Outcome] = {}
    courses: dict[str, Course] = {}
    for path in paths:
        for place, text in enumerate(_lines(path), 1):
            try:
                line = json.loads(text)
                key, _ = str(line.pop("run")), line.pop("command")
                course = [_drawn(each) for each in line.pop("course", ())]
                outcomes[key] = outcome_of(line)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{path}, line {place}: expected a run as a study writes it to runs.jsonl") from None
            if course:
                courses[key] = course
    return Archive(outcomes, courses)


def _lines(path: Path) -> list[str]:
    try:
        lines = content(path, LARGEST).decode(errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): expected the runs.jsonl of a study") from None
    if not lines:
        raise ValueError(f"{path}: holds no runs: expected the runs.jsonl of a study that has made some")
    return lines


def _drawn(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is drawn of a line of metrics, which may come from anywhere. Raises KeyError, TypeError or ValueError."""
    event = record["event"]
    line = {"event": event} | {name: _short(record[name]) for name in DRAWN[event]}
    if "test_accuracy" in record:
        line["test_accuracy"] = _short(record["test_accuracy"])
    if event == "prune":
        line["layers"] = list(map(_layer, record["layers"]))
    return line


def _layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer in a pruning's line; there need be no threshold where nothing was removed."""
    removed, threshold = _short(layer["removed"]), layer["threshold"]
    if removed or (threshold is not None and isfinite(threshold)):
        threshold = _short(threshold)
    return {"name": one_line(layer["name"]), "sparsity": _short(layer["sparsity"]),
            "threshold": threshold, "removed": removed}  # fmt: skip


def _short(value: Any) -> Any:
    """A number, in six digits if it is not a whole one."""
    return float(f"{value:.6g}") if isinstance(number(value), float) else value
