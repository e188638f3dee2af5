"""The quarter of an hour on a card, rehearsed: the whole script on the emulated device, whatever goes wrong in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import cuda as bench
from bench import on_card_report
from bench.on_card import about, cases, checks, floors, inputs, parts, plugin, results, tests, tools
from bench.on_card.cards import CARDS, H200, T4, like
from bench.on_card.cases import Case
from sparsecore.runtime.devices import cuda

from .emulator import build

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["about", "tests", "times", "train", "tools"]

emulated = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not() or "")

BARE = ("pooch", "platformdirs", "filelock", "requests", "matplotlib", "torch", "pytest_benchmark", "sklearn", "joblib")
"""What a lent machine may lack."""
PROFILE = '''\
"ID","Kernel Name","Grid Size","gpu__time_duration.sum","launch__registers_per_thread"
"","","","us","register/thread"
"0","spmm_1","(10, 1, 1)","4.20","48"
"1","sgd","(2, 1, 1)","2.10","30"
'''


@pytest.fixture
def lent(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine where CuPy is the emulated device, tools are there, and much else is not."""
    site, tool = tmp_path / "site", tmp_path / "bin"
    site.mkdir()
    tool.mkdir()
    for name in BARE:
        (site / f"{name}.py").write_text(f"raise ImportError('no {name} on this machine')\n")
    (site / "cupy.py").write_text(
        "import os, sys, time\n"
        "fault = os.environ.get('FAULT')\n"
        "if fault == 'fail': raise RuntimeError('cudaErrorIllegalAddress')\n"
        "if fault == 'overrun': time.sleep(600)\n"
        "from tests.cuda.emulator import peers\n"
        "sys.modules.update(peers.modules())\n"
    )
    step = f"while [ \"$1\" != '{sys.executable}' ]; do shift; done; \"$@\""
    for name, says in {
        "ncu": f"{step} || exit 1; echo '{PROFILE}'",
        "compute-sanitizer": f"[ -z \"$FAULT\" ] || {{ {step} || exit 9; }}; echo '========= ERROR SUMMARY: 0 errors'",
    }.items():
        (tool / name).write_text(f"#!/bin/sh\n{says}\n")
        (tool / name).chmod(0o755)
    path = f"{tool}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(site), "PATH": path, "PYTHON": sys.executable}


def rehearse(lent: dict[str, str], out: Path, seconds: float, **more: str) -> tuple[dict[str, str], float, str]:
    """How each part of the script ended, its seconds, and what it printed."""
    began = time.monotonic()
    command = ["bash", str(ROOT / "bench" / "on_card.sh"), str(out), "--small", "--seconds", str(seconds)]
    run = subprocess.run(command, env=lent | more, cwd=out.parent, capture_output=True, text=True, check=False)
    took, ended = time.monotonic() - began, {row["part"]: row["how"] for row in results.read(out, "parts")}
    text = run.stdout + run.stderr
    print(f"{took:.1f} s\n{text}")  # shown by `pytest -rP`, or if it fails
    assert run.returncode == any(how != "done" for how in ended.values()), text
    files = list(out.iterdir())
    assert len(files) <= 8 and all(file.stat().st_size < 16 << 20 for file in files)
    return ended, took, text


@emulated
def test_the_whole_script_on_the_emulated_device(lent, tmp_path):
    out = tmp_path / "out"
    ended, _, text = rehearse(lent, out, parts.TOTAL)
    assert list(ended) == [*PARTS, "report"] and set(ended.values()) == {"done"}, (out / parts.LOG).read_text()[-9000:]
    rows = {name: list(results.read(out, name)) for name in PARTS}
    assert rows["about"][0]["what"] == "python" and {"emulated"} == {row["name"] for row in rows["about"] if "name" in row}
    assert any(row["what"] == "a step on the card" for row in rows["about"])
    assert rows["tests"][-1] == {"counts": {"passed": 2}}
    assert {row["what"] for row in rows["times"] if row["bench"] == "ceiling"} == {"memory", "cache", "float32", "launch"}
    timed = [row for row in rows["times"] if "engine" in row]
    assert timed and all(row["ms"] > 0 and row["error"] <= checks.TOLERANCE for row in timed)
    done = {Case(*(row[name] for name in Case._fields)) for row in timed if row["engine"] == "sparsecore"}
    assert done == set(cases.cases(small=True))
    assert {row["engine"] for row in timed} == {"sparsecore", "cublas", "cupyx"}
    last = [row for row in rows["train"] if row["event"] == "result"]
    assert [row["on"] for row in last] == ["cuda", "cpu"]
    assert last[0]["train_loss"] == pytest.approx(last[1]["train_loss"], rel=1e-4)
    assert [row["tool"] for row in rows["tools"]] == ["ncu", "ncu", "ncu", "memcheck", "racecheck"]
    for line in ("tests: 2 passed", "Measured, µs:", "Furthest from the floor", "training on cuda", "ERROR SUMMARY: 0"):
        assert line in text


@emulated
@pytest.mark.parametrize("fault, how, seconds", [("fail", "failed", parts.TOTAL), ("overrun", "stopped", 3)])
def test_the_next_part_runs_whatever_happens(lent, tmp_path, fault, how, seconds):
    ended, took, _ = rehearse(lent, tmp_path / "out", seconds, FAULT=fault)
    assert {part: ended[part] for part in PARTS} == dict.fromkeys(PARTS, how)
    assert took < (seconds + 2 if how == "stopped" else 60)
    log = (tmp_path / "out" / parts.LOG).read_text()
    assert all(f"== {part}: at most" in log for part in PARTS)
    assert how == "stopped" or log.count("cudaErrorIllegalAddress") >= len(PARTS)
