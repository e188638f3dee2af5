"""NVIDIA's compiler takes every kernel for every architecture: nothing spilled, few registers, 16 bytes at a time."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sparsecore.kernels.tuning import CUDA_TEAM, CUDA_UNROLL

from . import nvrtc
from .emulator import build

pytestmark = pytest.mark.skipif(bool(nvrtc.why_not()), reason=nvrtc.why_not() or "")

# Registers of a thread, at most: a multiprocessor holds 65,536, which is 5, 4 or 3 blocks of 128 threads.
MOST = {
    ("spmm", 2): 96, ("spmm", 4): 96, ("spmm", 8): 96, ("sddmm", 2): 168, ("sddmm", 4): 136, ("sddmm", 8): 160,
    ("coo", 4): 96, ("coo", 8): 96,
}  # fmt: skip
OTHERS = 64

SOME = ("sm_75", "sm_90", "sm_120")
"""For bfloat16 and float64, which are float32's source, plain pytest takes the oldest, the main and the newest."""


def on_each(*family: str, itemsize: int) -> list[Any]:
    """Parameters (*family, itemsize, arch) for every architecture."""
    return [
        pytest.param(*family, itemsize, arch, marks=() if itemsize == 4 or arch in SOME else pytest.mark.slow)
        for arch in nvrtc.ARCHITECTURES
    ]


everywhere = pytest.mark.parametrize("itemsize, arch", [(2, "sm_90"), *on_each(itemsize=4), *on_each(itemsize=8)])
families = pytest.mark.parametrize("family", nvrtc.FAMILIES)
every = [(family, size) for family in nvrtc.FAMILIES for size in nvrtc.sizes(family)]
kinds = pytest.mark.parametrize("family, itemsize", every)


@pytest.mark.parametrize(
    "family, itemsize, arch", [each for family, size in every for each in on_each(family, itemsize=size)]
)
def test_kernels_fit_the_registers(family, itemsize, arch):
    kernels = nvrtc.compiled(family, itemsize, arch)
    assert kernels
    for name, kernel in kernels.items():
        assert kernel.spilled == kernel.stack == 0, name
        assert 0 < kernel.registers <= MOST.get((family, itemsize), OTHERS), name


@everywhere
def test_lines_move_sixteen_bytes_at_a_time(itemsize, arch):
    """What the design counts on: a thread loads and stores four floats, two doubles or eight bfloat16 by one
    instruction."""
    for rows in (1, 2, 3, 4):
        gather = nvrtc.instructions("spmm", itemsize, arch)[f"spmm_{rows}"]
        sample = nvrtc.instructions("sddmm", itemsize, arch)[f"sddmm_{rows}"]
        assert count(gather, "LDG.E.128") >= 4  # of x, unrolled
        assert count(gather, "STG.E.128") >= rows
        assert count(sample, "LDG.E.128") == 8 + rows  # of eight connections, and of each row's dy
    for name, arrays in {"normalise": 2, "normalise_back": 2, "place": 2}.items():
        found = nvrtc.instructions("place" if name == "place" else "norm", itemsize, arch)[name]
        assert count(found, "LDG.E.128") == arrays and count(found, "STG.E.128") == 1
    for name in ("moments", "slopes"):
        assert count(nvrtc.instructions("norm", itemsize, arch)[name], "LDG.E.128") >= 4  # under way together
    four = nvrtc.instructions("spmm", itemsize, arch)["spmm_4"]
    assert count(four, "LDS", ".128") >= 4 * max(itemsize, 4) // 4  # four rows' values


def test_products_are_fused_and_stay_in_registers():
    """The six kernels of a step on sm_90: four multiply-adds for 16 bytes of x and each row, none through memory."""
    for rows in (1, 2, 3, 4):
        gather = nvrtc.instructions("spmm", 4, "sm_90")[f"spmm_{rows}"]
        sample = nvrtc.instructions("sddmm", 4, "sm_90")[f"sddmm_{rows}"]
        assert gather["FFMA"] >= 4 * rows * CUDA_UNROLL  # connections at a time; and what is left of them
        assert sample["FFMA"] >= 4 * rows * CUDA_TEAM  # a team's eight connections
        assert not any(name.startswith("FMUL") for name in gather | sample)
    for family, names in nvrtc.SIX.items():
        for name in names:
            found, kernel = nvrtc.instructions(family, 4, "sm_90")[name], nvrtc.compiled(family, 4, "sm_90")[name]
            assert count(found, "LDL") == count(found, "STL") == kernel.stack == kernel.spilled == 0, name
    assert nvrtc.instructions("pack", 4, "sm_90")["pack_samples_1"]["FFMA"] >= 4
    assert nvrtc.instructions("update", 4, "sm_90")["sgd"]["FFMA"] >= 4
    assert len(nvrtc.six_table().splitlines()) == 2 + sum(map(len, nvrtc.SIX.values()))


@kinds
def test_no_atomics_and_no_local_memory(family, itemsize):
    """One writer for each element and a fixed order of summation: the same bits every time."""
    for name, found in nvrtc.instructions(family, itemsize, "sm_90").items():
        assert found.total() and not [i for i in found if re.match(r"ATOM|RED\b|LDL|STL", i)], name


@pytest.mark.skipif(bool(build.why_not()), reason=build.why_not() or "")
@families
def test_the_emulated_device_runs_the_same_kernels(family):
    size = 2 if family == "pairs" else 4
    _, names = build.kernels(nvrtc.source(family), nvrtc.options(size), checking=False)
    assert set(names) == set(nvrtc.compiled(family, size, "sm_80"))


def test_errors_are_the_compilers(monkeypatch):
    monkeypatch.setattr(nvrtc, "source", lambda family: "this is not CUDA")
    with pytest.raises(RuntimeError, match="error"):
        nvrtc.compiled("nothing", 4, "sm_80")


def count(instructions: dict[str, int], *parts: str) -> int:
    return sum(number for name, number in instructions.items() if all(part in name for part in parts))
