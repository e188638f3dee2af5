"""A command as one of the ranks of an MPI job: the first speaks for all, and who fails alone ends the job."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import Any

from .._package import VERSION, source
from ..console.output import complain
from ..runs.config import RunConfig
from ..runtime.ranks import Ranks, RanksError, started

PATIENCE = 5.0
"""Seconds that a rank which has failed waits for the others to fail as well, before it ends them."""
FAILED = (1, 2)
"""Exit statuses of failures; others, of interrupts, wait as long as it takes the first rank to save."""


def together(program: str, work: Callable[[Ranks], int]) -> int:
    """Do this process's part of a command that mpiexec or srun has started; returns the exit status."""
    try:
        ranks = started()
    except RanksError as error:
        return complain(program, error, 2)
    assert ranks is not None
    return among(ranks, lambda: work(ranks))


def among(ranks: Ranks, work: Callable[[], int]) -> int:
    """Do a rank's part of a command; returns its exit status, when all have done theirs.

    What a rank says is not printed, but the first's and that of one that fails where the first does not.
    """
    with _silent(ranks.rank > 0) as said:
        try:
            status = work()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            _say(ranks, traceback.format_exc())
            ranks.abort(1)
            raise
    found = ranks.leave(status, PATIENCE if status in FAILED else None)
    if status and (found is None or not found[0] or not ranks.rank):
        words = said.getvalue().strip().splitlines() or [f"ended with exit status {status}"]
        if ranks.rank or found is None:
            _say(ranks, words[-1])
    if found is None:
        ranks.abort(status)
    return status


def agreed(config: RunConfig, ranks: Ranks, **others: Any) -> None:
    """See to it that all ranks are to make the same run. Raises RanksError."""
    free = ("threads", "data_dir")
    options = {name: value for name, value in config.as_dict().items() if name not in free}
    ranks.same({"version": VERSION, "commit": source().get("commit"), **options, **others})


def joint(config: RunConfig, ranks: Ranks | None) -> RunConfig:
    """The run in which each rank takes a batch of the configuration's size: its own batch is all of them together."""
    if ranks is None or config.batch_size is None:
        return config
    return replace(config, batch_size=ranks.size * config.batch_size)


def _say(ranks: Ranks, text: str) -> None:
    stream = sys.__stderr__ or sys.stderr
    print(f"rank {ranks.rank}: {text}", file=stream, flush=True)


@contextmanager
def _silent(silent: bool) -> Iterator[io.StringIO]:
    """Keep what is printed from where it would go, and what is said of errors in what this gives."""
    said = io.StringIO()
    if not silent:
        yield said
        return
    with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(said):
        yield said
