"""Numba's cache cut short or full of noise, no place for one, no JIT asked for: the same answers, and no traceback."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# One kernel and the thread that walks its tape; counts the compiler's passes, of which none runs where all is found.
USE = """
import json, sys
{first}
import numpy as np
from numba.core.event import install_recorder
with install_recorder("numba:run_pass") as passes:
    from sparsecore.kernels.cpu.launch import Launcher
    from sparsecore.kernels.cpu.threads import Pool
    x = np.linspace(-1, 1, 160, dtype=np.float32).reshape(2, 5, 16)
    y = np.empty_like(x)
    Launcher(Pool(1)).relu(x, y)
assert (y == np.maximum(x, 0)).all()
print(json.dumps({{"passes": len(passes.buffer)}}))
"""


def used(cache: Path, first: str = "", **environment: str) -> tuple[int, str]:
    """How many passes the compiler made in a process of its own, and what that said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", USE.format(first=first)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found["passes"], done.stderr


def noise(data: bytes) -> bytes:
    return random.Random(len(data)).randbytes(len(data))


def a_bit(data: bytes) -> bytes:
    """In the middle, where the machine code is: Numba would run it."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 8]) + data[len(data) // 2 + 1 :]


def zeros(data: bytes) -> bytes:
    """The length is on the disk, the blocks are not."""
    return bytes(len(data))


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-1], lambda data: data + b"x", noise,
    a_bit, zeros,
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cache")
    assert used(found)[0] > 0
    return found


def test_what_is_damaged_is_compiled_again_and_kept(cache: Path) -> None:
    """Indexes and machine code, each file in another way."""
    for number, path in enumerate(sorted(cache.rglob("*.nb?"))):
        path.write_bytes(DAMAGES[number % len(DAMAGES)](path.read_bytes()))
    passes, said = used(cache)
    assert passes > 0 and not said
    assert used(cache) == (0, "")


AND_COMPILES = """
import atexit
def compile_something():
    assert "numba.misc.cffiimpl" not in sys.modules, "all that Numba compiles with was loaded"
    from numba import njit
    assert njit(lambda x: np.sin(x).sum() + len("abc"))(np.zeros(3)) == 3
atexit.register(compile_something)
"""


def test_machine_code_is_loaded_without_the_compiler_which_works_when_it_is_wanted(cache: Path) -> None:
    used(cache)
    assert used(cache, AND_COMPILES) == (0, "")


def test_each_damage_is_seen(tmp_path: Path) -> None:
    from sparsecore.kernels.cache import _Files

    files = _Files(str(tmp_path), "name", ("stamp", 1))
    for damage in DAMAGES:
        files.save("key", {"some": "data"})
        assert files.load("key") == {"some": "data"}
        for path in tmp_path.iterdir():
            whole = path.read_bytes()
            path.write_bytes(damage(whole))
            assert files.load("key") is None
            path.write_bytes(whole)
    files.save("key", {"some": "data"})
    assert _Files(str(tmp_path), "name", ("stamp", 2)).load("key") is None, "its source is another"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A full disk, or a folder that is taken away: compiled, and not kept."""
    full = """
from numba.core.caching import IndexDataCacheFile
def refuse(self, path): raise OSError(28, "No space left on device")
IndexDataCacheFile._open_for_write = refuse
"""
    passes, said = used(tmp_path, full)
    assert passes > 0 and not said and not list(tmp_path.rglob("*.nb?"))


def test_no_place_for_a_cache(tmp_path: Path) -> None:
    """As with a read-only install and no home."""
    nowhere = (
        "from numba.core import caching\nfor kind in caching.CacheImpl.__subclasses__(): kind._locator_classes = []"
    )
    passes, said = used(tmp_path, nowhere)
    assert passes > 0 and said.count("RuntimeWarning") == 1 and "set NUMBA_CACHE_DIR to a folder" in said


def test_without_the_jit_kernels_are_compiled_all_the_same(cache: Path) -> None:
    """It is for functions that Python can run too; a user's own are left as they are."""
    passes, said = used(
        cache, "import numba; assert not hasattr(numba.njit(lambda: 0), 'py_func')", NUMBA_DISABLE_JIT="1"
    )
    assert passes == 0 and not said
