"""A process that makes one run after another: jobs come as lines of JSON on stdin, what came of them goes to stdout.

Runs are the package's own commands, called in this process, with their own folder. When stdin closes,
because the study is over or was killed, a run under way saves and stops.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ...console.output import write_anything
from ...files import to_append
from ...runs.checkpoint import NAME as CHECKPOINT
from ...runs.folder import CONFIG, METRICS
from .outcome import assess

LOOK_EPOCHS = 4
"""Between two looks at the test split, which take a tenth of an epoch."""
LOG = "log.txt"
"""What a run's command printed, in its folder."""


def main() -> int:
    """Work until stdin closes."""
    write_anything()
    jobs, answers = _channels()
    try:
        for job in jobs:
            answers.write(json.dumps(_done(job)) + "\n")
            answers.flush()
    except BrokenPipeError:  # the study is gone; its next call finds in the run's folder what was made
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())
    return 0


def made(job: dict[str, Any]) -> dict[str, Any]:
    """Make one run in a process that has other things to do, such as MPI's: its exit status and, if it failed, why."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        return _done(job)
    finally:
        for number, own in zip((1, 2), kept, strict=True):
            os.dup2(own, number)
            os.close(own)


def _settle(threads: int) -> None:
    """Train on so many threads, and count their processors' seconds: some of the runs compared had to share the
    machine."""
    from ...runtime.devices import set_threads
    from ...training import loop

    set_threads(threads)
    loop.clock = time.process_time


def _channels() -> tuple[Iterator[Any], TextIO]:
    """The jobs and where answers go; stdin, stdout and stderr are then no longer those of the study."""
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    waiting: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put("")
        os.kill(os.getpid(), signal.SIGTERM)  # a run under way saves and stops; without one this process ends

    threading.Thread(target=listen, daemon=True).start()
    return map(json.loads, iter(waiting.get, "")), answers


def _done(job: dict[str, Any]) -> dict[str, Any]:
    """Make a run; its exit status and, if it failed, why."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    _settle(job.get("threads", 1))
    begin = time.process_time()
    with to_append(folder / LOG) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            status = _command(job, folder)
            if status == 0:
                assess(folder, time.process_time() - begin, job.get("data_dir"))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    return {"status": status, "why": _last_line(folder / LOG) if status else ""}


def _command(job: dict[str, Any], folder: Path) -> int:
    """Call the run's command, or go on with it where it stopped."""
    from ... import train
    from ...prune.__main__ import main as prune

    if job["kind"] == "prune":
        for name in CHECKPOINT, f"{CHECKPOINT}.previous":  # of an attempt that did not get to its outcome
            (folder / name).unlink(missing_ok=True)
        return prune(job["arguments"])
    threads, look = f"--threads={job.get('threads', 1)}", f"--evaluate-every={LOOK_EPOCHS}"
    free = [threads, "--quiet", "--no-curves", look, f"--out={folder}"]
    if job.get("data_dir"):
        free.append(f"--data-dir={job['data_dir']}")
    begun = any((folder / name).exists() for name in (CONFIG, METRICS))
    return train.main([*free, "--resume"] if begun else [*free, *job["arguments"]], alone=True)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"

