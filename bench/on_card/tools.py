"""Part (e): NVIDIA's profiler and its sanitizer over one step's six kernels, where the machine has them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from . import results
from .six import KERNELS

STEP = (sys.executable, "-m", "bench.on_card.six")
METRICS = (
    "gpu__time_duration.sum", "dram__bytes.sum", "lts__t_bytes.sum",
    "sm__warps_active.avg.pct_of_peak_sustained_active", "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed", "launch__registers_per_thread",
)  # fmt: skip


class Tool(NamedTuple):
    """A tool: its name in the rows, its program and its arguments before the step's command."""

    name: str
    program: str
    arguments: Sequence[str]


TOOLS = (
    Tool("ncu", "ncu", (
        "--csv", "--page", "raw", "--profile-from-start", "off", "--clock-control", "none", "--metrics",
        ",".join(METRICS), "--kernel-name", f"regex:^({'|'.join(KERNELS)})",
    )),
    Tool("memcheck", "compute-sanitizer", ("--tool", "memcheck", "--error-exitcode", "9")),
    Tool("racecheck", "compute-sanitizer", ("--tool", "racecheck", "--error-exitcode", "9")),
)  # fmt: skip


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began, wrong = perf_counter(), 0
    for number, tool in enumerate(TOOLS):
        left = results.seconds() - (perf_counter() - began)
        for row in used(tool, 0.9 * left / (len(TOOLS) - number)):
            wrong += bool(row.get("failed"))
            results.write("tools", row)
    sys.exit(wrong > 0)


def used(tool: Tool, limit: float) -> list[results.Found]:
    """A row for the tool, and for the profiler one for each launch."""
    program = found(tool.program)
    if program is None:
        return [{"tool": tool.name, "missing": True}]
    began = perf_counter()
    code, text = _ran([program, *tool.arguments, *STEP], limit)
    print(text[-40000:], flush=True)
    row: results.Found = {"tool": tool.name, "seconds": round(perf_counter() - began, 2)}
    if code is None:
        return [row | {"failed": f"not done after {limit:.0f} s"}]
    if code:
        row["failed"] = f"exit status {code}: {text[-2000:]}"
    launches = profiled(text) if tool.name == "ncu" else []
    if tool.name == "ncu" and not launches:
        row.setdefault("failed", "no launch was profiled")
    return [row | {"says": summary(text)}, *({"tool": tool.name, **each} for each in launches)]


def _ran(command: Sequence[str], limit: float) -> tuple[int | None, str]:
    """A command's exit status, None if its time was over, and what it said; whatever it started ends with it."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, process_group=0)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # when this part is told to end, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return code, said.read().decode(errors="replace")


def found(program: str) -> str | None:
    """Where a tool is: on the PATH, or where CUDA's packages put it."""
    if path := shutil.which(program):
        return path
    places = ("usr/local/cuda/bin", "opt/nvidia/nsight-compute/*", "usr/local/cuda/compute-sanitizer")
    return next((str(path) for place in places for path in sorted(Path("/").glob(f"{place}/{program}"))), None)


def profiled(text: str) -> list[dict[str, str]]:
    """The profiler's table: a row a launch, its columns by name with their units."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    table = list(csv.reader(io.StringIO("\n".join(lines[start:]))))
    if len(table) < 3:
        return []
    names, units, *rows = table
    wanted = [k for k, name in enumerate(names) if name in ("Kernel Name", "Grid Size", *METRICS)]
    spelled = [f"{names[k]} [{units[k]}]" if units[k] else names[k] for k in wanted]
    return [dict(zip(spelled, (row[k] for k in wanted), strict=True)) for row in rows if len(row) == len(names)]


def summary(text: str) -> str:
    """The sanitizer's last word."""
    lines = re.findall(r"^=+ ((?:ERROR|RACECHECK) SUMMARY.*)$", text, re.M)
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
