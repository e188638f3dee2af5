"""The real CuPy has everything that the engine uses: the stand-in's names, under which all of it runs in the tests.

CuPy imports without a GPU and without a driver, but is a large download that `dev` does not include.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from .emulator import peers, stand_in

cupy = pytest.importorskip("cupy", reason="needs CuPy, which imports without a GPU: pip install 'sparsecore[cuda]'")


def theirs(kind: type) -> Any:
    """CuPy's own class of this name."""
    return getattr(cupy, kind.__name__, None) or getattr(cupy.cuda, kind.__name__)


@pytest.mark.parametrize("name", stand_in.CUPY)
def test_functions_and_modules_are_there(name):
    assert hasattr(cupy, name)


@pytest.mark.parametrize("name", peers.CUPY)
def test_what_the_benchmarks_use_is_there(name):
    assert hasattr(cupy, name)


def test_sparse_matrices_are_there():
    from cupyx.scipy.sparse import csr_matrix

    assert callable(csr_matrix)


@pytest.mark.parametrize(
    "path",
    [
        "Event", "get_elapsed_time", "is_available", "nvrtc.getVersion",
        *(f"runtime.{name}" for name in vars(stand_in.cuda.runtime)),
    ],
)  # fmt: skip
def test_what_it_says_of_devices_is_there(path):
    found: Any = cupy.cuda
    for name in path.split("."):
        found = getattr(found, name)


@pytest.mark.parametrize(
    "kind",
    [stand_in.ndarray, stand_in.RawModule, stand_in.Device, stand_in.Event, stand_in.Stream, stand_in.Graph], ids=str,
)  # fmt: skip
def test_objects_have_what_the_stand_ins_have(kind):
    wanted = [name for name, _ in inspect.getmembers(kind) if not name.startswith("_")]
    missing = [name for name in wanted if not hasattr(theirs(kind), name)]
    assert wanted and not missing


@pytest.mark.parametrize(
    "name", ["__deepcopy__", "__cuda_array_interface__", "__getitem__", "__setitem__", "__len__", "__iand__"]
)
def test_arrays_copy_and_index(name):
    assert hasattr(stand_in.ndarray, name) and hasattr(cupy.ndarray, name)


@pytest.mark.parametrize("name", ["empty", "zeros", "array"])
def test_calls_go_through(name):
    """By CuPy's signatures; a call itself needs a card."""
    given = {"order": "C"} if name == "array" else {}
    inspect.signature(getattr(cupy, name)).bind((3, 4), "float32", **given)


def test_errors_are_runtime_errors():
    """What a missing driver raises is what `sparsecore.device` catches."""
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert issubclass(cupy.cuda.compiler.CompileException, Exception)


def test_without_a_driver_the_engine_says_so():
    if cupy.cuda.is_available():
        pytest.skip("there is a driver here")
    script = "from sparsecore.device import device, cpu; assert device('auto') is cpu(); device('cuda')"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert "DeviceError: cuda: needs an NVIDIA GPU and its driver" in last and "install the driver" in last
