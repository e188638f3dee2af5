"""The processor as a device: its arrays, its threads, and that nothing happens before it is asked for."""

import copy
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsecore.runtime.device import DeviceError
from sparsecore.runtime.devices import cpu, default_threads, device, get_threads, set_threads

from .small import PATTERNS, linear, numbers


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = get_threads()
    yield
    set_threads(before)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (7, 11, 16)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, "uint8"])
def test_arrays_are_aligned_and_whole(shape, dtype):
    for array in (cpu().empty(shape, dtype), cpu().zeros(shape, dtype), cpu().put(np.ones(shape, dtype))):
        assert array.shape == shape and array.dtype == dtype
        assert array.flags.c_contiguous and array.flags.writeable
        assert array.ctypes.data % 64 == 0 or not array.size
    assert not cpu().zeros(shape, dtype).any() and cpu().put(np.ones(shape, dtype)).all()


def test_put_copies_and_get_gives_back():
    for host in (
        np.arange(12.0).reshape(3, 4),
        np.arange(24.0).reshape(4, 6)[::2, ::-1],
        [[1, 2], [3, 4]],
        np.float32(3),
    ):
        there = cpu().put(host)
        assert np.array_equal(cpu().get(there), host) and there.dtype == np.asarray(host).dtype
        assert not np.shares_memory(there, np.asarray(host))


def test_there_is_one_processor():
    assert cpu() is cpu() and cpu().name == "cpu"


def test_threads_can_be_chosen():
    layer, x = linear(PATTERNS["random"]), numbers((33, 50))
    wanted, _ = layer.forward(x)
    for threads in (1, 3, 2, 1, 5):
        set_threads(threads)
        assert get_threads() == threads == cpu().pool.threads
        assert np.array_equal(layer.forward(x)[0], wanted)


@pytest.mark.parametrize("threads", [0, -1, 1.5, 0.0])
def test_fewer_than_one_thread_is_refused(threads):
    before = get_threads()
    with pytest.raises(ValueError, match=f"^threads must be a whole number of at least 1, got {threads}$"):
        set_threads(threads)
    assert get_threads() == before


@pytest.mark.parametrize(
    "limit, wanted",
    [("1", 1), ("", None), ("0", None), ("-2", None), ("many", None), ("1000000", None), ("9" * 5000, None), ("2,1", 2)]
)
def test_omp_num_threads_is_an_upper_limit(monkeypatch, limit, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert default_threads() == (wanted or 4)


def test_without_affinity_all_processors_count(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert default_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


def test_importing_starts_no_thread_and_compiles_nothing():
    script = (
        "import threading, sys; import sparsecore.network, sparsecore.step; from sparsecore.device import cpu\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not any(name.startswith('sparsecore.kernels.cpu') for name in sys.modules), 'kernels were imported'\n"
        "assert 'numba' not in sys.modules, 'numba was imported'\n"
        "cpu(); assert threading.active_count() == 1, 'threads start with the first work'"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_small_work_wakes_nobody():
    set_threads(2)
    before = threading.active_count()
    linear(PATTERNS["random"]).forward(numbers((3, 50)))
    assert threading.active_count() == before


# ------------------------------------------------------------------------------------------ names, and what is missing


def a_cupy(cards: Callable[[], int], compiler: Callable[[], object]) -> Any:
    return SimpleNamespace(
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=cards), nvrtc=SimpleNamespace(getVersion=compiler)
        )
    )


def fails(error: Exception) -> Callable[[], Any]:
    def call() -> None:
        raise error

    return call


NO_DRIVER = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
NO_NVRTC = RuntimeError("Failure finding libnvrtc.so.13:\nno such file")


@pytest.mark.parametrize(
    "cupy, index, said, cure",
    [
        (None, "", "needs CuPy", "pip install 'sparsecore[cuda]'"),
        (a_cupy(fails(NO_DRIVER), lambda: (13, 0)), "", "needs an NVIDIA GPU and its driver", "install the driver"),
        (a_cupy(lambda: 0, lambda: (13, 0)), "", "needs an NVIDIA GPU and its driver", "install the driver"),
        (a_cupy(lambda: 1, fails(NO_NVRTC)), "", "finds no NVRTC", "pip install 'cupy-cuda13x[ctk]'"),
        (a_cupy(lambda: 2, lambda: (13, 0)), ":2", "one of 2 GPUs, from 0, got 2", "cuda:0"),
    ],
    ids=["no CuPy", "no driver", "no card", "no NVRTC", "no such card"],
)
def test_what_is_missing_is_said_with_its_cure(monkeypatch, cupy, index, said, cure):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for ask in (device, linear(PATTERNS["random"]).to):
        with pytest.raises(DeviceError) as caught:
            ask(f"cuda{index}")
        message = str(caught.value)
        assert message.startswith(f"cuda{index}: ") and said in message and cure in message and "\n" not in message
    if not index:
        assert device("auto") is cpu()


@pytest.mark.parametrize("name", ["tpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "", "auto:1"])
def test_names_that_nobody_knows(name):
    with pytest.raises(DeviceError, match=f"^device: expected auto, cpu, cuda or cuda:1, got {re.escape(repr(name))}$"):
        device(name)


def test_names_that_are_known():
    assert device("cpu") is cpu() and device(cpu()) is cpu()
    assert copy.deepcopy(cpu()) is cpu() and pickle.loads(pickle.dumps(cpu())) is cpu()
