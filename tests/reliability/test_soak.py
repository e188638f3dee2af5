"""Long runs: memory after 100,000 steps is what it was after 1,000; `pytest -m slow` watches it for an hour."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SOAK = """
import json, os, sys, time
import numpy as np
from sparsecore.data import Dataset, Split
from sparsecore.optim import SGD
from sparsecore.trainer import Callback, Trainer
from tests.small import network

seconds, steps, samples, folder = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rng = np.random.default_rng(0)

def split(count):
    return Split(rng.integers(0, 256, (count, 20), np.uint8), rng.integers(0, 5, count, dtype=np.int32))

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

class Watch(Callback):  # figures after 1,000 steps, then ever farther apart, and the last: it must not be what grows
    def __init__(self):
        self.begin, self.seen, self.next = time.monotonic(), {}, 1000

    def stepped(self, trainer):
        if trainer.done % 1000:
            return
        over = trainer.done >= steps and time.monotonic() - self.begin >= seconds
        if trainer.done >= self.next or over:
            self.seen[trainer.done] = resident()
            self.next *= 2
        if over:
            trainer.stop()

watch = Watch()
data = Dataset("soak", "", split(samples), split(1000), (20,), 5, (0.5,), (0.3,))
trainer = Trainer(network(), data, SGD(0.01, 0.9, 1e-4, clip_norm=1.0), epochs=10**6, batch_size=16, out=folder,
                  save_every=0.5, callbacks=[watch])
trainer.run()
print(json.dumps({"steps": trainer.done, "seconds": time.monotonic() - watch.begin, "resident": watch.seen}))
"""


def soaked(seconds: float, steps: int, samples: int, folder: Path) -> dict[str, Any]:
    """Train a small network that long, with checkpoints and evaluations; memory by step."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    done = subprocess.run(
        [sys.executable, "-c", SOAK, str(seconds), str(steps), str(samples), str(folder / "run")], cwd=ROOT,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    first, last = found["resident"]["1000"], list(found["resident"].values())[-1]
    found["growth"] = last / first - 1
    print(f"{found['steps']:,} steps in {found['seconds']:.0f} s: {first / 2**20:.1f} MiB after 1,000 steps, "
          f"{last / 2**20:.1f} MiB at the end, {found['growth']:+.2%}")  # fmt: skip
    return found


def test_a_hundred_thousand_steps(tmp_path: Path) -> None:
    found = soaked(0, 100_000, 16_000, tmp_path)
    assert found["steps"] >= 100_000
    assert found["growth"] < 0.01


@pytest.mark.slow
def test_an_hour(tmp_path: Path) -> None:
    """A million samples an epoch: what is left over an hour is a few hundred lines of metrics, and nothing else."""
    found = soaked(3600, 100_000, 1_000_000, tmp_path)
    assert found["growth"] < 0.01
