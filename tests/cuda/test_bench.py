"""The benchmarks of a GPU: what this engine's compute on the emulated device, and on a card what all compute."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from bench import cuda as bench
from bench.engines import contenders, sparsecore
from bench.environment import settled
from bench.options import Options
from bench.problem import MODELS, layer_pattern, training_problem
from sparsecore.runtime import devices
from sparsecore.runtime.device import DeviceError
from sparsecore.runtime.devices import cuda

WIRINGS = [("random", 0.9), ("dense", 0.0)]


@pytest.mark.parametrize("topology, sparsity", WIRINGS)
def test_our_own_compute_what_they_do_on_the_cpu(a_cuda, topology, sparsity):
    problem = training_problem((60, 40, 20, 10), topology, sparsity, 24)
    here, there = (sparsecore.Step(problem, 1, device=on) for on in (None, a_cuda))
    for _ in range(3):
        here.run(), there.run()
    np.testing.assert_allclose(there.result(), here.result(), rtol=1e-4, atol=1e-5)
    halves = [sparsecore.Step(problem, 1, activations="bfloat16"), bench.in_halves(a_cuda).make(problem)]
    for each in halves:
        each.run(), each.run(), each.run()
    np.testing.assert_allclose(halves[1].result(), halves[0].result(), rtol=0.02, atol=0.02)
    assert not np.array_equal(halves[1].result(), there.result())
    pattern, rng = layer_pattern((40, 60), topology, sparsity), np.random.default_rng(0)
    x, dy = rng.standard_normal((60, 24), np.float32), rng.standard_normal((40, 24), np.float32)
    for what, operand in (("gather", rng.standard_normal(pattern.nnz, np.float32)), ("sample", dy)):
        for way, make in sparsecore.WHAT[what].items():
            ours = make(pattern, operand, x, threads=1, device=a_cuda)
            ours.run(), ours.run()
            on_cpu = make(pattern, operand, x, threads=1)
            on_cpu.run()
            np.testing.assert_allclose(ours.result(), on_cpu.result(), rtol=1e-4, atol=1e-4, err_msg=f"{what} {way}")


@pytest.mark.gpu
def test_all_compute_the_same_on_a_card():
    on = cuda()
    for topology, sparsity in WIRINGS:
        problem = training_problem(MODELS["lenet300"], topology, sparsity, 64)
        for each in bench.contenders("step", on):
            if each.suits(topology, 1):
                ours = each.make(problem)
                ours.run()
                theirs = next(one for one in contenders("step", 1) if one.engine == "sparsecore").make(problem)
                theirs.run()
                np.testing.assert_allclose(ours.result(), theirs.result(), rtol=0.1, atol=0.05, err_msg=str(each))
        pattern, rng = layer_pattern((300, 784), topology, sparsity), np.random.default_rng(0)
        x, dy = rng.standard_normal((784, 64), np.float32), rng.standard_normal((300, 64), np.float32)
        for what, operand in (("gather", rng.standard_normal(pattern.nnz, np.float32)), ("sample", dy)):
            found = {}
            for each in bench.contenders(what, on):
                if each.suits(topology, 1):
                    one = each.make(pattern, operand, x)
                    one.run()
                    found[each.engine, each.variant] = one.result()
            first = next(iter(found.values()))
            for name, result in found.items():
                np.testing.assert_allclose(result, first, rtol=1e-3, atol=1e-2, err_msg=str(name))


@pytest.mark.gpu
def test_everything_is_timed_on_a_card():
    on = cuda()
    print(bench.describe(on))
    for what in bench.BENCHES:
        rows = bench.measure(Options(quick=True), what, on)
        assert {"sparsecore", "cublas"} <= {row["engine"] for row in rows} and all(row["ms"] > 0 for row in rows)
        print(bench.table(rows))


def test_without_a_card_it_says_so(monkeypatch):
    monkeypatch.setattr(devices, "gpu", devices.CUDA)  # not one that is in use already
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"^never run on hardware here: cuda: needs CuPy"):
        bench.gpu("cuda")
    script = "import sys; sys.modules['cupy'] = None; from bench.__main__ import main; main()"
    environment = os.environ | settled(1)  # the command would start again in it, with CuPy
    run = subprocess.run(
        [sys.executable, "-c", script, "--device", "cuda"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 1 and run.stderr.startswith("never run on hardware here: cuda: needs CuPy")


def test_tables_have_a_line_a_wiring():
    row = {"bench": "gather", "model": "784x300", "batch": 128, "connections": 9, "sparsity": 0.0}
    rows = [
        row | {"topology": "dense", "engine": "cublas", "ms": 0.01},
        row | {"topology": "dense", "engine": "sparsecore", "ms": 0.02},
        row | {"topology": "random", "sparsity": 0.9, "engine": "sparsecore", "ms": 0.005},
    ]
    lines = bench.table(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["pattern", "dense", "random 90%"]
    assert "2.00×" in lines[-2] or "2.00×" in lines[-1]
