"""Parts one after another, each within its own time and all within eight minutes, whatever becomes of any of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from . import results

TOTAL = 480.0
"""Seconds of all parts together."""

ROOT = Path(__file__).resolve().parents[2]
LOG = "log.txt"
MOST_LOG = 3 << 20
"""Bytes of the log that a part may fill: its beginning and its end are kept."""

_GRACE = 1.0  # seconds for a part that was told to end, and then for the system to take a killed one away


class Part(NamedTuple):
    """One part.

    Attributes
    ----------
    name : str
    module : str
        Run by `python -m`.
    limit : float
        Seconds it may take at most.
    kept : float
        Seconds that the parts before it leave to it.
    """

    name: str
    module: str
    limit: float
    kept: float


PARTS = (
    Part("about", "bench.on_card.about", 90, 60),
    Part("tests", "bench.on_card.tests", 240, 120),
    Part("times", "bench.on_card.times", 150, 90),
    Part("train", "bench.on_card.train", 40, 25),
    Part("tools", "bench.on_card.tools", 120, 45),
    Part("report", "bench.on_card_report", 20, 12),
)


class Ended(NamedTuple):
    """How a part ended: "done", "failed" or "stopped", when its time was over; its seconds, and how many it had."""

    part: str
    how: str
    seconds: float
    limit: float


def run_all(out: Path, parts: Sequence[Part] = PARTS, total: float = TOTAL, *, small: bool = False) -> list[Ended]:
    """Run all parts, and write down how each ended before the next begins.

    Parameters
    ----------
    out : Path
        Folder for what they find; eight files at most, each under 16 MiB.
    parts : sequence of Part
        Their seconds are of TOTAL, and shrink with `total`.
    total : float
        Seconds for all.
    small : bool
        The smallest sizes that still run all of the code.
    """
    began, scale, ended = monotonic(), total / TOTAL, []
    given = os.environ | {results.OUT: str(out.resolve()), results.SMALL: str(int(small))}
    for number, part in enumerate(parts):
        later = scale * sum(other.kept for other in parts[number + 1 :])
        left = began + total - monotonic() - (len(parts) - number) * min(_GRACE, scale * _GRACE)
        limit = max(0.0, min(scale * part.limit, left - later))
        ended.append(_run(part, limit, out, given | {results.SECONDS: str(limit)}))
        results.write("parts", ended[-1]._asdict(), out)
    return ended


def _run(part: Part, limit: float, out: Path, environment: Mapping[str, str]) -> Ended:
    """Run one part, its output in the log, and end it and all that it started when its time is over."""
    path, began = out / LOG, monotonic()
    with path.open("ab") as log:
        log.write(f"\n== {part.name}: at most {limit:.0f} s\n".encode())
        log.flush()
        size = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", part.module, environment[results.OUT]], env=environment, cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            how = "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            how = "stopped"
        finally:
            _end(process)
    _shorten(path, size)
    return Ended(part.name, how, round(monotonic() - began, 2), round(limit, 2))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a part's whole session. One that waits for a card that hangs may not go: nobody waits long for it."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
            if process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE / 2)
            else:
                sleep(0.05)  # what it started ends too


def _shorten(path: Path, start: int) -> None:
    """Keep the beginning and the end of what the log has from `start` on."""
    if path.stat().st_size - start <= MOST_LOG:
        return
    with path.open("r+b") as log:
        log.seek(-MOST_LOG // 2, os.SEEK_END)
        end = log.read()
        log.seek(start + MOST_LOG // 2)
        log.write(b"\n[...]\n" + end)
        log.truncate()
