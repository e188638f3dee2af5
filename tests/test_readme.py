"""The README's Python runs as it stands, and its links lead somewhere."""

import re
from pathlib import Path

import numpy as np
import pytest

from sparsecore.data import load
from sparsecore.train import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "lenet300 --radix 10,10 --dataset mnist-subset --epochs 1 --quiet --out runs/radix"
    assert main(arguments.split()) == 0
    images = load("mnist-subset").test.x
    names = {"images": images}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert np.shape(names["dx"]) == (128, 784)
    assert np.mean(names["own"].predict(images) == load("mnist-subset").test.y) > 0.9
    assert np.mean(names["digits"] == load("mnist-subset").test.y) > 0.7


def test_python_of_the_page_on_reliability_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, "docs/reliability.md", "exec"), {})


def test_files_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    named = re.findall(r"`((?:sparsecore|kernels|models|bench|tests|docs)/[\w./-]+\.\w+)`", README)
    assert links and named
    assert [path for path in links + named if not (ROOT / path).exists()] == []
