"""Every example runs as it stands; each checks its own result."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
NEEDS = {"torch_pruned": "torch", "jax_regression": "jax", "sklearn_pipeline": "sklearn", "deploy_onnx": "onnxruntime"}


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_an_example_runs(program: Path, tmp_path: Path) -> None:
    if (needed := NEEDS.get(program.stem)) and find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    command = [sys.executable, program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
