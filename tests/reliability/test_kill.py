"""SIGKILL at any moment: a checkpoint that can be read, and on from there to the very bits of a run left alone.

Runs are forked from this process, which has everything compiled, so that a killed one costs what it computed. They
save after every step; a good part of their time is spent in the middle of writing. `tests/command/test_interrupted.py`
kills whole commands, from their start.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.models.catalogue import MODELS

from sparsecore.runs.checkpoint import located, read
from sparsecore.runs.folder import RunFolder
from tests.reliability.runs import command, kept

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

RUNS = {
    "sparse": ["lenet300", "--dataset", "flat.npz", "--random", "--sparsity", "0.9"],
    "coo": ["lenet300", "--dataset", "flat.npz", "--radix", "4,5", "--widths", "1,3,1", "--format", "coo"],
    "pruned": ["lenet300", "--dataset", "flat.npz", "--prune", "gradual", "--prune-to", "0.9", "--prune-every", "1",
               "--rewind", "initial"],
    "convolution": ["lenet5", "--dataset", "images.npz", "--prune", "one-time", "--prune-to", "0.5"],
}  # fmt: skip
COMMON = ["--epochs", "3", "--batch-size", "40", "--validation", "0.1", "--save-every", "0", "--check-every-step",
          "--warm-up", "0", "--quiet", "--no-curves"]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng, y = np.random.default_rng(0), np.arange(200) % 5
    np.savez("flat.npz", x=rng.integers(0, 256, (200, 20), np.uint8), y=y)
    np.savez("images.npz", x=rng.integers(0, 256, (200, 1, 28, 28), np.uint8), y=y)


def begun(words: Sequence[str]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(command(*words)))
    process.start()
    return process


def finished(words: Sequence[str]) -> None:
    process = begun(words)
    process.join(300)
    assert process.exitcode == 0, f"{' '.join(words)}: status {process.exitcode}"


def kills(name: str, times: int, seed: int) -> dict[str, int]:
    """Kill a run at a random moment, go on, compare; that many times."""
    words, chance = [*RUNS[name], *COMMON], random.Random(seed)
    assert command(*words, "--out", "warm") == 0  # here: what is compiled now, all that are forked have
    begin = time.monotonic()
    finished([*words, "--out", "whole"])
    lasts, whole = time.monotonic() - begin, kept(Path("whole"))
    killed = saved = 0
    while killed < times:
        shutil.rmtree("cut", ignore_errors=True)
        process = begun([*words, "--out", "cut"])
        process.join(chance.uniform(0, 1.1 * lasts))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode != -signal.SIGKILL:  # it was done before its time came
            assert process.exitcode == 0
            continue
        killed += 1
        if Path("cut").exists() and RunFolder("cut").has_checkpoint():
            read(located("cut"))
            saved += 1
        finished([*words, *(["--resume"] if Path("cut").exists() else []), "--out", "cut"])
        assert kept(Path("cut")) == whole, f"kill {killed}"
        assert not list(Path("cut").glob(".*"))
        assert RunFolder("cut").config() == RunFolder("whole").config()
    return {"killed": killed, "from a checkpoint": saved}


@pytest.mark.parametrize("name", ["sparse", "pruned", "convolution"])
def test_killed_and_resumed(name: str) -> None:
    if RUNS[name][0] not in MODELS:
        pytest.skip(f"there is no {RUNS[name][0]} yet")
    kills(name, 1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times"), [("sparse", 60), ("coo", 30), ("pruned", 70), ("convolution", 40)])
def test_killed_two_hundred_times(name: str, times: int) -> None:
    if RUNS[name][0] not in MODELS:
        pytest.skip(f"there is no {RUNS[name][0]} yet")
    found = kills(name, times, seed=1)
    print(f"{name}: {found['killed']} SIGKILLs, {found['from a checkpoint']} of them with a checkpoint to go on from; "
          f"{found['killed']} resumes to the same bits")  # fmt: skip
