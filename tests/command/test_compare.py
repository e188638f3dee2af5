"""Runs beside each other: what is said of them is what their folders hold, and the page is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sparsecore import train
from sparsecore.commands import compare
from tests.command.given import RADIX, one_line, records

PROGRAM = "python -m sparsecore.compare"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    base = ["--quiet", "--no-curves", "--epochs", "2"]
    assert train.main([*RADIX, *base, "--out", str(folder / "a$b<i>")]) == 0
    sparse = ["lenet300", "--random", "--sparsity", "0.99", "--dataset", "mnist-subset"]
    assert train.main([*sparse, *base, "--out", str(folder / "_sparse")]) == 0
    return folder


@pytest.fixture(autouse=True)
def runs(made: Path, tmp_path: Path, elsewhere: None) -> None:
    for each in made.iterdir():
        shutil.copytree(each, each.name)


class Page(HTMLParser):
    """What stands in a page, and whether what is opened is closed."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.cells: list[str] = []
        self.uses: list[str] = []
        self.svgs = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.svgs += tag == "svg"
        self.ids += [given["id"] or ""] if "id" in given else []
        self.uses += [given[name] or "" for name in ("src", "href", "xlink:href") if name in given]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_the_table_is_what_the_runs_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["_sparse", "a$b<i>"]) == 0
    titles, first, second = capsys.readouterr().out.splitlines()
    assert titles.split()[:3] == ["run", "model", "data"] and first.startswith("_sparse ")
    for line, name in ((first, "_sparse"), (second, "a$b<i>")):
        result = records(name)[-1]
        for text in (f"{result['test_accuracy']:.2%}", f"{result['connections']:,}", "lenet300", "mnist-subset"):
            assert text in line.split()
    assert compare.main(["_sparse", "a$b<i>", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [each["name"] for each in found] == ["_sparse", "a$b<i>"]
    assert found[0]["best"] == max(each["test_accuracy"] for each in records("_sparse") if each["event"] == "epoch")
    assert found[1]["seconds"] == records("a$b<i>")[-1]["train_seconds"]


def test_a_run_that_is_not_finished_is_shown_as_far_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("_sparse/metrics.jsonl")
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines() if '"result"' not in line))
    assert compare.main(["_sparse"]) == 0
    assert "_sparse (unfinished)" in capsys.readouterr().out


def test_the_page_has_a_picture_for_each_figure_and_needs_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    assert compare.main(["_sparse", "a$b<i>", "--out", "page.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "page.html"
    page, text = Page(), Path("page.html").read_text(encoding="utf-8")
    page.feed(text)
    assert page.open == [] and page.svgs == 4
    assert {"accuracy", "loss", "connections", "time"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)  # figures share one space of names
    assert [use for use in page.uses if not use.startswith("#")] == []
    assert [use for use in page.uses if use[1:] not in page.ids] == []
    assert "a$b<i>" in page.cells and "<i>" not in text.replace("&lt;i&gt;", "")
    for name in ("_sparse", "a$b&lt;i&gt;"):
        assert text.count(name) >= 5  # in the table, and in the legend of every figure


def test_numbers_of_a_logarithmic_axis_are_read_at_once() -> None:
    pytest.importorskip("matplotlib")
    runs = [compare.Run(name, "mlp", "own", [], 0.9, 0.9, count, 0.5, 1.0, True)
            for name, count in (("few", 7_000), ("many", 250_000))]  # fmt: skip
    shown = {figure.name: figure.svg for figure in compare.figures_of(runs)}
    assert ">20,000</text>" in shown["connections"] and "mathdefault" not in shown["connections"]


def test_a_browser_shows_every_figure() -> None:
    """In Chromium, where the variable SPARSECORE_BROWSER names a folder in which npm has installed it."""
    pytest.importorskip("matplotlib")
    folder = os.environ.get("SPARSECORE_BROWSER")
    if folder is None:
        pytest.skip("needs SPARSECORE_BROWSER, a folder in which to: npm install @sparticuz/chromium puppeteer-core")
    assert compare.main(["_sparse", "a$b<i>", "--out", "page.html"]) == 0
    command = ["node", str(Path(__file__).with_name("look.mjs")), str(Path("page.html").absolute())]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert len(found["sizes"]) == 4 and all(width > 300 and height > 200 for width, height in found["sizes"])
    assert (found["rows"], found["wide"], found["said"]) == (2, False, [])


def test_runs_that_tell_numbers_are_compared_by_r2_and_with_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((100, 3))
    np.savez("own.npz", x=x, y=x @ [1.0, 2.0, 3.0])
    words = ["mlp", "--hidden", "8", "--dataset", "own.npz", "--loss", "mse", "--epochs", "3", "--quiet", "--no-curves"]
    for name, lr in (("slow", "0.001"), ("fast", "0.05")):
        assert train.main([*words, "--lr", lr, "--out", name]) == 0
    capsys.readouterr()
    assert compare.main(["slow", "fast"]) == 0
    titles, _, fast = capsys.readouterr().out.splitlines()
    result = records("fast")[-1]
    assert "test R²" in titles and f" {result['test_r2']:.4f} " in fast and "%" not in fast.replace("0.0%", "")
    assert compare.main(["slow", "fast", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert found[1]["r2"] == result["test_r2"] and "accuracy" not in found[1] and "measure" not in found[1]
    assert compare.main(["slow", "_sparse"]) == 2
    assert "expected runs that tell all classes or all numbers, got R² of slow and accuracy of _sparse" in one_line(
        capsys, PROGRAM
    )
    if find_spec("matplotlib") and find_spec("jinja2"):
        assert compare.main(["slow", "fast", "--out", "page.html"]) == 0
        text = Path("page.html").read_text(encoding="utf-8")
        assert "test R² against connections" in text and "test accuracy" not in text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "required: DIR"),
        ("nowhere", "nowhere: expected a run's folder, got none"),
        ("_sparse ./_sparse", "expected different runs, got ./_sparse twice"),
        ("_sparse --out page.txt", "--out: expected a name that ends in .html"),
        ("_sparse --out there.html", "there.html is there already"),
        ("_sparse empty", "expected a run with one epoch or more"),
        ("_sparse strange", "strange"),
        ("_sparse other", "other: expected the metrics of a run, got other records"),
        ("_sparse --jsno", "did you mean --json?"),
    ],
)
def test_what_is_wrong_is_one_line(line: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.html").touch()
    for name, text in (("empty", ""), ("strange", "x"), ("other", '{"event": "epoch", "test_accuracy": null}\n')):
        Path(name).mkdir()
        Path(name, "metrics.jsonl").write_text(text)
    before = sorted(Path().iterdir())
    assert compare.main(line.split()) == 2
    assert problem in one_line(capsys, PROGRAM)
    assert sorted(Path().iterdir()) == before


def test_without_what_draws_there_is_no_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    assert compare.main(["_sparse", "--out", "page.html"]) == 2
    assert "needs matplotlib and jinja2, not installed here: pip install 'sparsecore[" in one_line(capsys, PROGRAM)
