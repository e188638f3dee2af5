"""The same seed gives the same bits, for any number of threads, after any interruption, in any process; and how far
processors with other registers are from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.kernels import compile as compiling
from sparsecore.kernels.cpu import launch

from sparsecore.runs.checkpoint import read
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import cpu, set_threads
from tests.kernel_checks import Strewn
from tests.reliability.runs import KINDS, StopAt, digest, digest_of, trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Even a call that takes a microsecond goes to all threads."""
    monkeypatch.setattr(launch, "WORTH_CUTTING", 1)
    before = cpu().given
    yield
    set_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_for_any_number_of_threads(kind: str) -> None:
    found = set()
    for count in (1, 2, 3, 5, 7, 40):
        set_threads(count)
        found.add(digest(kind))
    assert len(found) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_claims_what_when(kind: str) -> None:
    """Parts are cut anywhere, done in any order, by threads that stop in the middle."""
    whole = digest(kind)
    set_threads(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu(), "pool", Strewn(len(kind)))
        assert digest(kind) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_interruption_at_any_step(kind: str, tmp_path: Path) -> None:
    """Stopped, read back and gone on with at every step in turn, on another number of threads each time."""
    whole = digest(kind)
    for step in range(1, 8):
        set_threads(1 + step % 3)
        stopped = trainer(kind, out=tmp_path / f"{step}")
        stopped.callbacks.append(StopAt(step))
        assert stopped.run() is None
        saved = read(tmp_path / f"{step}")
        resumed = trainer(kind, out=tmp_path / f"{step}")
        resumed = Trainer(
            saved.network, resumed.dataset, resumed.optimizer, epochs=2, batch_size=27, seed=5,
            callbacks=resumed.callbacks, out=tmp_path / f"{step}",
        )  # fmt: skip
        resumed.restore(saved)
        resumed.run()
        assert digest_of(resumed) == whole, step


def test_in_another_process() -> None:
    code = "from tests.reliability.runs import *\nprint(*(digest(kind) for kind in KINDS))"
    for hashing in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hashing, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [digest(kind) for kind in KINDS]


def weights_with(register_bytes: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> np.ndarray:
    monkeypatch.setattr(launch, "host_register_bytes", lambda: register_bytes)
    done = trainer("csr", **options)
    done.run()
    return done.network.params.copy()


def test_other_registers_differ_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs with registers of 16, 32 and 64 bytes: sums in other orders, and nothing else.

    A weight of size w rounds at 6e-8·w; eight steps multiply that by what the gradients' conditioning is worth.
    """
    found = {width: weights_with(width, monkeypatch) for width in (16, 32, 64)}
    scale = np.abs(found[64]).max()
    apart = {width: np.abs(found[width] - found[64]).max() / scale for width in (16, 32)}
    print({width: f"{value:.1e}" for width, value in apart.items()})
    assert max(apart.values()) < 2e-6
    assert np.array_equal(found[compiling.register_bytes()], weights_with(compiling.register_bytes(), monkeypatch))
