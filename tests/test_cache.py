"""Compiled kernels are kept on disk: found by the next process, and not found once any kernel's source has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Counts the compiler's passes: none runs where everything is found. Given a number, one kernel is enough, and the
# number stands for another source.
USE = """
import json, sys, time
started = time.perf_counter()
import numpy as np
from numba.core.event import install_recorder
from sparsecore.kernels import compile
if len(sys.argv) > 1 and sys.argv[1] != "0":
    compile.source = lambda: int(sys.argv[1])
with install_recorder("numba:run_pass") as passes:
    from sparsecore.kernels.cpu import launch
    from sparsecore.kernels.cpu.launch import Launcher
    from sparsecore.kernels.cpu.threads import Pool
    from sparsecore.pattern import SparsityPattern
    from sparsecore.plan import Plan
    launch.WORTH_CUTTING = 1
    x, y, w, db = (np.ones(shape, np.float32) for shape in ((2, 5, 16), (2, 3, 16), 15, 3))
    Launcher(Pool(1)).relu(x, x)
    if len(sys.argv) == 1:
        pool, plan = Pool(2), Plan(SparsityPattern.full((3, 5)))
        for pause in (0.1, 0):
            Launcher(pool).spmm(plan.forward, plan.grid(2), w, x, db, y)
            Launcher(pool).sddmm(plan.forward, plan.grid(2), y, x, w, db)
            time.sleep(pause)
        pool.close()
print(json.dumps({"passes": len(passes.buffer), "seconds": time.perf_counter() - started}))
"""


def run(cache: Path, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", USE, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kept(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(cache)


def test_a_second_process_compiles_nothing(first):
    cache, cold = first
    before = kept(cache)
    warm = run(cache)
    assert cold["passes"] > 0
    assert warm["passes"] == 0
    assert kept(cache) == before
    assert warm["seconds"] < cold["seconds"]


def test_a_change_of_source_compiles_anew(first):
    cache, _ = first
    before = kept(cache)
    assert run(cache, "12345")["passes"] > 0
    assert len(kept(cache)) > len(before)
    assert run(cache, "12345")["passes"] == 0
    assert run(cache, "0")["passes"] == 0  # the old ones are still there


def test_the_number_of_the_source_changes_with_every_file(tmp_path, monkeypatch):
    from sparsecore.kernels import compile

    folder = Path(compile.__file__).parent
    files = [path for path in folder.rglob("*.py") if "cuda" not in path.relative_to(folder).parts]
    assert {"compile.py", "tuning.py", "layout.py", "rates.py", "vector.py", "spmm.py"} <= {path.name for path in files}
    read = Path.read_bytes
    numbers = {compile.source()}
    for changed in files:
        monkeypatch.setattr(Path, "read_bytes", lambda path, to=changed: read(path) + b"#" * (path == to))
        numbers.add(compile.source.__wrapped__())
    assert len(numbers) == 1 + len(files) > 10
