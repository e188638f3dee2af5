"""The documentation's Python runs as it stands, its links lead somewhere, and the API reference can be made."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ELSEWHERE = {"jobs"}
"""Pages whose commands and Python run in tests of their own: tests/test_jobs.py."""
NEEDS = {"torch": "torch", "finetuning": "torch", "jax": "jax", "sklearn": "sklearn", "deploy": "onnx"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in ELSEWHERE],
    ids=lambda page: page.relative_to(ROOT / "docs").as_posix(),
)  # fmt: skip
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem in NEEDS and find_spec(NEEDS[page.stem]) is None:
        pytest.skip(f"needs {NEEDS[page.stem]}")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    programs = [ROOT / name for name in re.findall(r"`(examples/[\w.]+)`", text)]
    assert [path for path in links + programs if not path.exists()] == []


@pytest.mark.skipif(find_spec("pdoc") is None, reason="needs pdoc: pip install -e '.[dev]'")
def test_the_api_reference_is_made_from_docstrings(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"python -m pdoc -d numpy -o build/api (.*)", text)
    modules = []
    for word in line.split():
        start, _, names = word.partition("{")
        modules += [start + name for name in names.rstrip("}").split(",")]
    command = [sys.executable, "-m", "pdoc", "-d", "numpy", "-o", str(tmp_path), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for module in modules:
        assert (tmp_path / Path(*module.split("."))).with_suffix(".html").exists(), module
    assert "SparseOperator" in (tmp_path / "sparsecore" / "interop" / "operator.html").read_text(encoding="utf-8")
