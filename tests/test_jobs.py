"""The ten jobs of docs/jobs.md, as a new user would do them: each runs, and takes as many lines as said."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import load
from sparsecore.commands.door import main

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "jobs.md").read_text(encoding="utf-8")
JOBS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
LINES = {title: int(lines) for title, lines in re.findall(r"^\| \[(.*?)\]\(#.*?\) \| (\d+) \|", PAGE, re.MULTILINE)}
NEEDS = {"A table, in scikit-learn": ("sklearn",), "A comparison": ("matplotlib", "jinja2"),
         "Deploying by ONNX": ("onnx", "onnxruntime")}  # fmt: skip
BLOCK = re.compile(r"```(\w+)\n(.*?)```|^((?: {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)
RNG = np.random.default_rng(0)


def blocks(text: str) -> list[tuple[str, str]]:
    """The page's blocks in order: their kind, "sh" for indented commands, and what stands in them."""
    return [(kind or "sh", body or lines) for kind, body, lines in BLOCK.findall(text)]


def own_lines(text: str) -> int:
    """What a user writes: lines of Python, settings and commands, but no imports, comments and empty lines."""
    lines = [line.strip() for _, body in blocks(text) for line in body.splitlines()]
    return sum(bool(line) and not line.startswith(("#", "import ", "from ")) for line in lines)


def has_data(folder: Path) -> None:
    """Data such as a user has: images by class, and two tables."""
    image = pytest.importorskip("PIL.Image")
    colours = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 220)}
    for name, colour in colours.items():
        (folder / "photos" / name).mkdir(parents=True)
        for k in range(30):
            pixels = RNG.integers(0, 90, (20, 24, 3)).astype(np.uint8)
            top, left = RNG.integers(0, 8, 2)
            pixels[top : top + 10, left : left + 12] = colour
            image.fromarray(pixels).save(folder / "photos" / name / f"{k}.png")
    x = RNG.standard_normal((150, 4)) + np.repeat(np.arange(3), 50)[:, None] * [3, 0, -2, 1]
    species = np.repeat(["iris", "rose", "tulip"], 50)
    table(folder / "flowers.csv", "a,b,c,d,species", [[*row, name] for row, name in zip(x, species, strict=True)])
    table(folder / "houses.csv", "a,b,c,d,price", [[*row, 100 + row @ [9, 7, 5, 3]] for row in x])


def table(path: Path, header: str, rows: list[list[Any]]) -> None:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows), ""]))


def accuracy(run: str) -> float:
    return float(json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[-1])["test_accuracy"])


def check_layer(found: dict[str, Any], out: str) -> None:
    assert float(out.split()[-1]) > 0.9
    layer = load("own.safetensors").layers[1]
    assert type(layer) is found["SquaredReLU"] and layer.size == 100


def check_csv(found: dict[str, Any], out: str) -> None:
    rows = list(csv.reader(Path("answers.csv").read_text().splitlines()))
    assert accuracy("runs/flowers") > 0.9 and len(rows) == 31 and "rose" in {cell for row in rows for cell in row}


def check_numbers(found: dict[str, Any], out: str) -> None:
    result = json.loads(Path("runs/houses/metrics.jsonl").read_text().splitlines()[-1])
    assert result["test_r2"] > 0.95 and f"{result['test_r2']:.4f}" in out


def check_sweep(found: dict[str, Any], out: str) -> None:
    rows = list(csv.DictReader(Path("runs/sweep/sweep.csv").read_text().splitlines()))
    assert sorted(row["sparsity"] for row in rows) == ["0.8", "0.95"] and {row["runs"] for row in rows} == {"1"}


def check_tuned(found: dict[str, Any], out: str) -> None:
    tuned, pruned = load("runs/tuned"), load("pruned.safetensors")
    assert tuned.sparsity == pruned.sparsity >= 0.94 and accuracy("runs/tuned") > 0.88


def check_onnx(found: dict[str, Any], out: str) -> None:
    logits = load("runs/digits").logits(np.zeros((1, 784), np.uint8))
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-3, atol=1e-4)


CHECKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "A table, in scikit-learn": lambda found, out: _more(float(out), 0.95),
    "Your own images": lambda found, out: _more(accuracy("runs/photos"), 0.9),
    "Your own table": check_csv,
    "Numbers to predict": check_numbers,
    "A layer of your own": check_layer,
    "An optimizer of your own": lambda found, out: _more(found["result"]["test_accuracy"], 0.9),
    "A sweep": check_sweep,
    "A comparison": lambda found, out: _more(Path("comparison.html").read_text(encoding="utf-8").count("<svg"), 3),
    "Fine-tuning a pruned network": check_tuned,
    "Deploying by ONNX": check_onnx,
}


def _more(value: float, least: float) -> None:
    assert value > least


def test_there_are_ten_and_each_takes_as_many_lines_as_the_page_says() -> None:
    assert len(JOBS) == 10 and list(JOBS) == list(LINES) == list(CHECKS)
    assert {title: own_lines(text) for title, text in JOBS.items()} == LINES


@pytest.mark.parametrize("title", JOBS)
def test_a_job_is_done_by_what_its_section_says(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed in NEEDS.get(title, ()):
        if find_spec(needed) is None:
            pytest.skip(f"needs {needed}")
    monkeypatch.chdir(tmp_path)
    has_data(tmp_path)
    names: dict[str, Any] = {}
    for kind, text in blocks(JOBS[title]):
        if kind == "python":
            exec(compile(text, title, "exec"), names)
        elif kind == "toml":
            Path(text.split()[1]).write_text(text)
        for line in text.splitlines() if kind == "sh" else ():
            program, *words = shlex.split(line)
            assert program == "sparsecore" and main(words) == 0, line
    CHECKS[title](names, capsys.readouterr().out)
