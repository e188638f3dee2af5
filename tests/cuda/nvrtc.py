"""NVIDIA's own compiler, without a GPU or a driver: what it makes of the kernels. `python -m tests.cuda.nvrtc` tells.

NVRTC compiles to machine code and says how many registers a thread takes and what is spilled; nvdisasm shows the
instructions.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sparsecore.kernels.tuning import CUDA_BLOCK

from .emulator import stand_in

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
FAMILIES = (
    "spmm", "sddmm", "coo", "relu", "add", "place", "fold", "norm", "pooling", "dropout", "augment", "update", "loss",
    "pack", "pairs",
)  # fmt: skip
PAIRED = ("spmm", "sddmm", "relu", "add", "place", "norm", "pooling", "dropout", "pack")
"""Families that take activations in bfloat16, too."""
REGISTERS, THREADS = 65536, {"sm_75": 1024, "sm_120": 1536}


class Kernel(NamedTuple):
    """One kernel as compiled."""

    registers: int
    spilled: int
    stack: int
    shared: int

    def occupancy(self, arch: str) -> float:
        """The fraction of a multiprocessor's threads that its registers hold; those of a warp come in 256s."""
        warps = REGISTERS // (-(-self.registers * 32 // 256) * 256)
        threads = THREADS.get(arch, 2048)
        return min(warps // (CUDA_BLOCK // 32) * CUDA_BLOCK, threads) / threads


def why_not() -> str | None:
    """Why nothing can be compiled here and what to do, or None."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
        _disassembler()
    except (ImportError, RuntimeError, metadata.PackageNotFoundError):
        return "needs NVIDIA's compiler, which runs without a GPU: pip install -e '.[nvrtc]'"
    return None


def source(family: str) -> str:
    """A family's source as the launcher gives it to CuPy."""
    with stand_in.installed():
        from sparsecore.kernels.cuda import launch

        return launch.source(family)


def options(itemsize: int) -> tuple[str, ...]:
    """The options that the launcher gives CuPy."""
    with stand_in.installed():
        from sparsecore.kernels.cuda import launch

        return launch.options(itemsize)


def sizes(family: str) -> tuple[int, ...]:
    """What a family is compiled for: bfloat16 (2), float32 (4), float64 (8)."""
    if family == "pairs":
        return (2,)
    return (2, 4, 8) if family in PAIRED else (4, 8)


def compiled(family: str, itemsize: int, arch: str) -> dict[str, Kernel]:
    """A family's kernels for an architecture, by name. Raises RuntimeError with the compiler's messages."""
    found = {}
    for entry in _built(family, itemsize, arch)[0].split("Compiling entry function '")[1:]:
        name = entry.split("'")[0]

        def number(pattern: str, entry: str = entry) -> int:
            match = re.search(pattern, entry)
            return int(match[1]) if match else 0

        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        stack, shared = number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes smem")
        found[name] = Kernel(number(r"Used (\d+) registers"), spilled, stack, shared)
    return found


@cache
def _built(family: str, itemsize: int, arch: str) -> tuple[str, bytes]:
    """The compiler's report and the machine code."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(source(family).encode(), f"{family}.cu".encode(), 0, [], [])
    flags = [f"-arch={arch}", *options(itemsize), "--ptxas-options=-v"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    log = _text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(log)
    return log, _text(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)


def _text(program: object, size: object, get: object) -> bytes:
    _, count = size(program)  # type: ignore[operator]
    text = b" " * count
    get(program, text)  # type: ignore[operator]
    return text


@cache
def instructions(family: str, itemsize: int, arch: str) -> dict[str, Counter[str]]:
    """Each kernel's instructions and how many there are, such as LDG.E.128.CONSTANT. Takes a third of a second."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(_built(family, itemsize, arch)[1])
        file.flush()
        command = [str(_disassembler()), "-c", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Counter[str]] = {}
    for section in re.split(r"^\.text\.(?=\w+:)", listing, flags=re.M)[1:]:
        operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", section)
        found[section.split(":")[0]] = Counter(operations)
    return found


SIX = {
    "pack": ("pack_samples_1",), "spmm": tuple(f"spmm_{n}" for n in (1, 2, 3, 4)), "loss": ("cross_entropy",),
    "sddmm": tuple(f"sddmm_{n}" for n in (1, 2, 3, 4)), "update": ("reorder_4", "sgd"),
}  # fmt: skip
"""The six kernels of a step, by their families; those of rows come in four sizes of group."""


def six_table(arch: str = "sm_90") -> str:
    """The instructions of the six kernels in float32 that the design counts on."""
    wanted = {
        "16-byte loads": r"LDG.*\.128", "other loads": r"LDG(?!.*\.128)", "16-byte stores": r"STG.*\.128",
        "other stores": r"STG(?!.*\.128)", "FFMA": "FFMA", "shared": "LDS|STS", "shuffles": "SHFL", "local": "LDL|STL",
    }  # fmt: skip
    lines = [f"| {arch} | registers | {' | '.join(wanted)} |", "|---|--:" + "|--:" * len(wanted) + "|"]
    for family, names in SIX.items():
        for name in names:
            found = instructions(family, 4, arch)[name]
            counts = [sum(n for each, n in found.items() if re.match(what, each)) for what in wanted.values()]
            lines.append(f"| {name} | {compiled(family, 4, arch)[name].registers} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def _disassembler() -> Path:
    for file in metadata.files("nvidia-cuda-nvdisasm") or []:
        if file.name in ("nvdisasm", "nvdisasm.exe"):
            return Path(str(file.locate()))
    raise metadata.PackageNotFoundError("nvidia-cuda-nvdisasm")


def main() -> None:
    """A table of all kernels: registers, and how much of a multiprocessor they fill; and the instructions of six."""
    print("| kernel | " + " | ".join(ARCHITECTURES) + " |\n|---" + "|---" * len(ARCHITECTURES) + "|")
    for family in FAMILIES:
        for itemsize in sizes(family):
            rows = {arch: compiled(family, itemsize, arch) for arch in ARCHITECTURES}
            for name in sorted(rows["sm_80"]):
                cells = [f"{row[name].registers} ({row[name].occupancy(arch):.0%})" for arch, row in rows.items()]
                kind = "bfloat16" if itemsize == 2 else f"float{8 * itemsize}"
                print(f"| {name} {kind} | " + " | ".join(cells) + " |")
    print("\n" + six_table())


if __name__ == "__main__":
    main()
