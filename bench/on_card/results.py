"""What a part finds, written as it goes: one JSON object a line, so that a part that is killed leaves what it had."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Found = dict[str, Any]

OUT, SECONDS, SMALL = "ON_CARD_OUT", "ON_CARD_SECONDS", "ON_CARD_SMALL"
"""What the environment tells a part: its folder, how long it has, and whether sizes only show that all of it runs."""


def out() -> Path:
    """Where results go."""
    return Path(os.environ[OUT])


def seconds() -> float:
    """How long this part may take from its start."""
    return float(os.environ[SECONDS])


def small() -> bool:
    """Whether this is a rehearsal."""
    return os.environ.get(SMALL) == "1"


def write(name: str, found: Found, folder: Path | None = None) -> None:
    """Add a line to the file `name`.jsonl of the folder, this part's if not given, and say it."""
    line = json.dumps(found, default=str)
    with ((out() if folder is None else folder) / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(f"{name}: {line[:400]}", flush=True)


def read(folder: Path, name: str) -> Iterator[Found]:
    """The lines of a file, none if it is not there; one that was being written when its part was killed is left out."""
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
