"""Threads and processes of every kind around networks: the same bits, and nobody waits for ever.

Each scenario has a Python process of its own, which is ended where it would hang.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.runs import KINDS, digest, samples, trainer

ROOT = Path(__file__).resolve().parents[2]

HEADER = """
import multiprocessing, os, sys, threading
import numpy as np
from sparsecore.device import set_threads
from sparsecore.kernels.cpu import launch
from tests.reliability.runs import *
launch.WORTH_CUTTING = 1
set_threads(3)
"""


def python(code: str, *, timeout: float = 240) -> str:
    """What a script prints; it may not write to stderr, nor take for ever."""
    done = subprocess.run(
        [sys.executable, "-c", HEADER + code], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}, which is not installed")


def test_networks_train_side_by_side_in_threads() -> None:
    wanted = {kind: digest(kind) for kind in KINDS}
    found: dict[str, str] = {}
    users = [threading.Thread(target=lambda kind=kind: found.update({kind: digest(kind)})) for kind in KINDS]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
        assert not user.is_alive()
    assert found == wanted


def test_one_network_is_asked_by_many_threads() -> None:
    done = trainer("csr")
    done.run()
    network, x = done.network, samples(400).train.x
    wanted, wrong = network.logits(x), []

    def ask() -> None:
        for size in (1, 7, 64, 200) * 10:
            if not np.array_equal(network.logits(x, batch_size=size), wanted):
                wrong.append(size)

    users = [threading.Thread(target=ask) for _ in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
        assert not user.is_alive()
    assert not wrong


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_worker_processes(method: str) -> None:
    """A pool of workers made after this process imported, compiled and trained."""
    if not hasattr(os, "fork") and method != "spawn":
        pytest.skip("no fork on this system")
    python(f"""
if __name__ == "__main__":
    mine = [digest(kind) for kind in KINDS]
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        assert pool.map(digest, KINDS) == mine
        mine_again = digest("csr")
        assert pool.map(digest, ["csr"] * 6) == [mine_again] * 6
""")


@pytest.mark.parametrize(
    "backend", ["loky", *(pytest.param(b, marks=pytest.mark.slow) for b in ("threading", "multiprocessing"))]
)
def test_joblib(backend: str) -> None:
    need("joblib")
    python(f"""
import joblib
if __name__ == "__main__":
    mine = [digest(kind) for kind in KINDS]
    assert joblib.Parallel(n_jobs=2, backend={backend!r})(joblib.delayed(digest)(kind) for kind in KINDS) == mine
""")


def test_beside_blas() -> None:
    """NumPy's BLAS in the same threads, in other threads, and in forked children, where it has a pool of its own."""
    python("""
a = np.random.default_rng(0).standard_normal((400, 400))
product, mine = a @ a, digest("csr")
def both():
    for _ in range(5):
        assert np.array_equal(a @ a, product) and digest("csr") == mine
users = [threading.Thread(target=both) for _ in range(3)]
for user in users: user.start()
for user in users: user.join()
for _ in range(3):  # not meanwhile: BLAS itself may not survive a fork while another of its threads computes
    child = os.fork()
    if child == 0:
        both()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
""")


def test_beside_numbas_own_threads() -> None:
    """A user's function with parallel=True, called while networks train."""
    python("""
import numba
@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for k in numba.prange(len(x)):
        s += x[k]
    return s
x, mine = np.ones(100_000), digest("csr")
assert total(x) == 100_000
def train():
    for _ in range(5):
        assert digest("csr") == mine
users = [threading.Thread(target=train) for _ in range(2)]
for user in users: user.start()
for _ in range(200): assert total(x) == 100_000
for user in users: user.join()
""")


def test_beside_torch() -> None:
    """PyTorch's pool in the same process, in turns and at once; and children forked after it was used."""
    need("torch")
    python("""
import torch
torch.set_num_threads(2)
a, mine = torch.rand(600, 600), digest("csr")
product = a @ a
def both():
    for _ in range(5):
        assert torch.allclose(a @ a, product) and digest("csr") == mine
users = [threading.Thread(target=both) for _ in range(2)]
for user in users: user.start()
both()
for user in users: user.join()
child = os.fork()
if child == 0:
    assert digest("csr") == mine
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""")
