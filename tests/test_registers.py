"""Kernels are made for the registers that Numba compiles for, whatever else this processor has."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm
from sparsecore.kernels.compile import register_bytes, register_bytes_of
from sparsecore.kernels.layout import kept_size, registers_of_line
from sparsecore.kernels.tuning import (
    LARGEST_GROUP,
    few_registers,
    gather_lines,
    gather_passes,
    linear_lines,
    sample_block,
    sample_lines,
    sample_turn,
)

from bench.environment import AVX2
from sparsecore.layers.linear import SparseLinear
from sparsecore.topology import uniform_random

X86 = llvm.get_process_triple().startswith("x86_64")
HOST = dict(llvm.get_host_cpu_features()) if X86 else {}
on_x86 = pytest.mark.skipif(not X86, reason="names and features of x86's processors")


def passes() -> list[Any]:
    """A layer, forward and backward, of rows alone."""
    rng = np.random.default_rng(0)
    layer = SparseLinear(uniform_random(40, 50, 0.8, rng), rng=rng)
    x, dy = rng.standard_normal((20, 50), np.float32), rng.standard_normal((20, 40), np.float32)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    return [y, dx, grads["weight"], grads["bias"]]


@on_x86
@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("haswell", "", 32), ("znver3", "", 32), ("sapphirerapids", "", 64), ("nehalem", "", 16),
        ("znver4", "-avx512f", 32), ("haswell", "+avx512f", 64), ("sandybridge", "", 16), ("generic", "", 16),
    ],
)  # fmt: skip
def test_a_targets_registers_are_as_wide_as_its_multiply_adds(name: str, features: str, expected: int) -> None:
    assert register_bytes_of(llvm.get_process_triple(), name, features) == expected


@on_x86
@pytest.mark.skipif(any(name.startswith("NUMBA_CPU") for name in os.environ), reason="the target is another's")
def test_left_alone_numba_compiles_for_this_processor() -> None:
    assert register_bytes() == (64 if HOST.get("avx512f") else 32 if HOST.get("avx2") and HOST.get("fma") else 16)


@pytest.mark.skipif(not (HOST.get("avx2") and HOST.get("fma")), reason="needs AVX2")
def test_a_process_told_to_compile_for_avx2_does_and_computes_the_same() -> None:
    code = (
        "import sys; import numpy as np; from tests.test_registers import passes, register_bytes; "
        "assert register_bytes() == 32, register_bytes(); np.savez(sys.stdout.buffer, *passes())"
    )
    command, root = [sys.executable, "-c", code], Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, env=os.environ | AVX2, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = np.load(io.BytesIO(done.stdout))
    for one, other in zip(passes(), found.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert passes()[0].tobytes() == found["arr_0"].tobytes(), "a lane's sum has the same order in any register"


GROUPS = range(1, LARGEST_GROUP + 1)


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("width", [64, 32, 16])
def test_sums_leave_room_in_the_register_file(width: int, size: int) -> None:
    registers, there = registers_of_line(size, width // kept_size(size)), 16 if few_registers(width) else 32
    together = 2 if size == 2 and not few_registers(width) else 1
    for group in GROUPS:
        lines = max(gather_lines(group, width, registers), linear_lines(group, width, registers))
        assert group * lines * registers // gather_passes(group, width, registers) <= there // 2
        block = sample_block(group, width, together)
        assert group * block + min(group, block) * together + 1 <= there
    assert sample_lines(width, registers) * registers <= max(there // 4, registers)


def test_what_avx512_was_tuned_to_is_as_it_was() -> None:
    for size, lines, fully, dys, blocks in (
        (4, [8, 8, 4, 4], [4, 4, 4, 4], 8, [8, 8, 8, 4]),
        (2, [4, 4, 2, 2], [4, 4, 2, 2], 4, [8, 8, 4, 4]),
        (8, [4, 4, 2, 2], [4, 4, 2, 2], 4, [8, 8, 8, 4]),
    ):
        registers = registers_of_line(size, 64 // kept_size(size))
        assert [gather_lines(group, 64, registers) for group in GROUPS] == lines
        for connections in (0, 1000):
            assert [linear_lines(group, 64, registers, connections) for group in GROUPS] == fully
        assert {gather_passes(group, 64, registers) for group in GROUPS} == {1}
        assert sample_lines(64, registers) == dys
        assert [sample_block(group, 64, 2 if size == 2 else 1) for group in GROUPS] == blocks
        assert [sample_turn(group, 64) for group in GROUPS] == [2, 1, 1, 1]
