"""The outcomes of many runs in one file, small enough to be committed: a report can be made from it alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ...files import content, replace
from .outcome import Outcome, outcome_of, records
from .run import Run

Course = list[dict[str, Any]]
"""Of a run's lines of metrics, what is drawn over time."""
DRAWN = ("event", "epoch", "step", "test_accuracy", "accuracy_before", "accuracy_after")
OF_LAYERS = ("name", "sparsity", "threshold", "removed")

LARGEST = 1 << 30  # bytes of such a file


class Archive(NamedTuple):
    """By the runs' keys: outcomes, and the courses of those that are drawn over time."""

    outcomes: Mapping[str, Outcome]
    courses: Mapping[str, Course]


def course_of(folder: Path) -> Course:
    """The course of the run in a folder."""
    found = []
    for record in records(folder):
        if record["event"] in ("epoch", "prune"):
            line = {name: _short(record[name]) for name in DRAWN if name in record}
            if "layers" in record:
                line["layers"] = [{name: _short(layer[name]) for name in OF_LAYERS} for layer in record["layers"]]
            found.append(line)
    return found


def write_archive(path: Path, runs: Iterable[Run], archive: Archive) -> None:
    """Write a line of JSON for each of these runs that is in an archive: key, command, and outcome."""
    lines = []
    for key, run in {run.key: run for run in runs}.items():
        if key in archive.outcomes:
            line = {"run": key, "command": str(run)} | asdict(archive.outcomes[key])
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
        for number, text in enumerate(_lines(path), 1):
            try:
                line = json.loads(text)
                key, _ = str(line.pop("run")), line.pop("command")
                course = line.pop("course", None)
                outcomes[key] = outcome_of(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{path}, line {number}: expected a run as a study writes it to runs.jsonl") from None
            if course is not None:
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


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
