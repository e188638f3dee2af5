"""The documentation's Python runs as it stands, its links lead somewhere, and the first hour goes as its page says."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparsecore.commands import door

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = [
    ROOT / f"{name}.md"
    for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "bench/README", "kernels/cuda/README")
]
ELSEWHERE = {"jobs"}
"""Pages whose commands and Python run in tests of their own: tests/test_jobs.py."""
NEEDS = {"torch": "torch", "finetuning": "torch", "jax": "jax", "sklearn": "sklearn", "deploy": "onnx"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in ELSEWHERE],
    ids=lambda page: page.relative_to(ROOT / "docs").as_posix(),
)  # fmt: skip
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem == "first":
        pytest.skip("with its commands, below")
    if page.stem in NEEDS and find_spec(NEEDS[page.stem]) is None:
        pytest.skip(f"needs {NEEDS[page.stem]}")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as the code host and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = [re.sub(r"\]\([^)]*\)", "", each) for each in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings}


def broken(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of one."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    assert broken(page) == []
    programs = [ROOT / name for name in re.findall(r"`(examples/[\w.]+)`", page.read_text(encoding="utf-8"))]
    assert [path for path in programs if not path.exists()] == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = "[a](#one-two) [b](page.md#one-two) [c](https://x.y/#z) [d](#two) [e](none.md) [f](page.md#x)"
    page.write_text(f"# One, two\n\n{links}\n")
    assert broken(page) == ["#two", "none.md", "page.md#x"]


def test_numbers_of_the_page_on_methods_stand_on_the_pages_that_it_names() -> None:
    """Nothing there is measured anew, nor rounded again."""
    page = ROOT / "docs" / "which.md"
    text = page.read_text(encoding="utf-8")
    sources = {page.parent / link for link in re.findall(r"\]\(([^)#:]+\.md)\)", text)}
    measured = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    known = set(re.findall(r"\d[\d,]*(?:\.\d+)?", measured))
    numbers = set(re.findall(r"\d[\d,]*\.\d+|\d+,\d{3}", text)) - {"0.9"}
    assert len(numbers) > 60
    assert sorted(numbers - known) == []


def test_the_first_hour_goes_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands and its Python, one after another in one folder."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "first.md").read_text(encoding="utf-8")
    text = text[text.index("## Train") :]
    steps = re.findall(r"^    (sparsecore [^\n]*)$|^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    ran = 0
    for command, block in steps:
        if block:
            exec(compile(block, "first.md", "exec"), names)
        elif "--out comparison.html" not in command or (find_spec("matplotlib") and find_spec("jinja2")):
            assert door.main(shlex.split(command, comments=True)[1:]) == 0, command
            ran += 1
    assert ran >= 9
    assert {"radix", "dense", "rigl", "tuned"} <= {each.name for each in Path("runs").iterdir()}
