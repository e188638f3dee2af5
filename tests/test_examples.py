"""Every example runs as it stands; each checks its own result."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
NEEDS = {
    "torch_pruned": "torch", "torch_finetuning": "torch", "jax_regression": "jax", "sklearn_pipeline": "sklearn",
    "deploy_onnx": "onnxruntime",
}  # fmt: skip
LONG = {"torch_finetuning"}  # which have a --quick


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_an_example_runs(program: Path, tmp_path: Path) -> None:
    runs(program, tmp_path, *(["--quick"] if program.stem in LONG else []))


@pytest.mark.slow
@pytest.mark.parametrize("program", [each for each in EXAMPLES if each.stem in LONG], ids=lambda program: program.stem)
def test_a_long_example_runs_whole(program: Path, tmp_path: Path) -> None:
    runs(program, tmp_path)


def runs(program: Path, tmp_path: Path, *flags: str) -> None:
    if (needed := NEEDS.get(program.stem)) and find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    command = [sys.executable, program, *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
