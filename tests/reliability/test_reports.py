"""Reports and records delete what is theirs alone, say whose result it is, and fail before the work, not after it."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sparsecore.study import studies
from sparsecore.study.__main__ import main
from sparsecore.study.making import worker
from sparsecore.study.making.archive import read_archives
from sparsecore.study.reporting.figures import Drawing, by_sparsity, over_time
from sparsecore.study.reporting.markdown import write_markdown
from tests.study.given import DENSE, made_up, outcome, study_of

pytest.importorskip("matplotlib")


# -- a report deletes only what it wrote itself -----------------------------------------------------------------------


def test_a_report_deletes_the_pictures_of_the_one_before_and_no_others(tmp_path: Path) -> None:
    page, folder = tmp_path / "results.md", tmp_path / "results"
    folder.mkdir()
    for name in ("mine.png", "photo of me.png"):
        (folder / name).write_bytes(b"mine")
    whole = made_up()
    write_markdown(whole, page)
    assert (folder / "second.png").exists()
    page.write_text(page.read_text().replace("## Made up", "![mine](results/mine.png)\n\n## Made up"))
    section = replace(whole.sections[0], drawings=whole.sections[0].drawings[:1])
    write_markdown(replace(whole, sections=[section]), page)
    assert sorted(each.name for each in folder.iterdir()) == ["made-up.png", "mine.png", "overview.png",
                                                              "photo of me.png"]  # fmt: skip


@pytest.mark.parametrize("names", ["../mine.png", "../../mine.png second.png", "/tmp/mine.png", "mine.txt"])
def test_a_page_of_somebody_else_has_nothing_deleted(tmp_path: Path, names: str) -> None:
    page, folder = tmp_path / "results.md", tmp_path / "results"
    folder.mkdir()
    for place in (tmp_path / "mine.png", folder / "mine.png", folder / "mine.txt"):
        place.write_bytes(b"mine")
    page.write_text(
        f"# Results of the study\n\n![mine](results/mine.png)\n<!-- pictures written with this page: {names} -->\n"
    )
    write_markdown(made_up(), page)
    assert all(each.exists() for each in (tmp_path / "mine.png", folder / "mine.png", folder / "mine.txt"))


def test_a_run_that_is_made_again_deletes_its_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.safetensors", "model.safetensors.previous", "model.safetensors.mine"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr("sparsecore.prune.__main__.main", lambda arguments: 0)
    assert worker._command({"kind": "prune", "arguments": []}, tmp_path) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors.mine"]


# -- what fails after hours of work is tried first --------------------------------------------------------------------

ELSEWHERE = {"run": DENSE.seeded(0).key, "command": str(DENSE)} | asdict(outcome(0.9))


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A study of one run, in a folder of its own; `--from there.jsonl` has that run."""
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text(json.dumps(ELSEWHERE) + "\n")

    def figures(results: Any) -> list[Drawing]:
        return [Drawing("small", "A caption.", by_sparsity(results))]

    def use(**changes: Any) -> None:
        monkeypatch.setattr(studies, "STUDIES", {"small": replace(study_of(DENSE), **{"figures": figures} | changes)})

    use()
    return use


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that cannot be followed says, on one line and before any run."""
    assert main(["--quick", "--workers", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not list(Path().glob("*/runs/*"))
    return error


@pytest.mark.parametrize(
    "results", ["folder.md", "folder", "name", "out/report.html", "out/runs.csv", "out/runs.jsonl", "there.jsonl/a.md"]
)
def test_a_page_that_cannot_be_written_is_refused_before_any_run(
    study: Any, results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.md").mkdir()
    Path("folder").mkdir()
    assert "choose another" in (said := refused(capsys, "--out", "out", "--results", results)) or "results.md" in said


def test_an_old_report_that_is_a_folder_is_refused_before_any_run(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/runs.csv").mkdir(parents=True)
    assert "expected a file to write to, got a folder" in refused(capsys, "--out", "out")


@pytest.mark.parametrize("part", ["write_page", "write_markdown"])
def test_a_report_is_drawn_and_written_on_trial(
    study: Any, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparsecore.study.reporting import trial

    def fails(*arguments: Any) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(trial, part, fails)
    assert "out: a report cannot be written there (Read-only file system)" in refused(capsys, "--out", "out")


def test_rows_are_written_before_pictures(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def figures(results: Any) -> list[Drawing]:
        raise ValueError("no picture")

    study(figures=figures)
    assert main(["--quick", "--from", "there.jsonl", "--out", "out"]) == 2
    assert capsys.readouterr().err == "python -m sparsecore.study: no picture\n"
    assert read_archives([Path("out/runs.jsonl")]).outcomes == {ELSEWHERE["run"]: outcome(0.9)}
    assert len(list(csv.DictReader(Path("out/runs.csv").read_text(encoding="utf-8").splitlines()))) == 1


def test_names_that_are_no_text_and_have_brackets_are_written(study: Any) -> None:
    out = os.fsdecode(b"my \xff (results)[1]")
    assert main(["--quick", "--from", "there.jsonl", "--out", "out", "--results", f"{out}.md"]) == 0
    text = Path(f"{out}.md").read_text(encoding="utf-8")
    assert "![A caption.](my%20%FF%20%28results%29%5B1%5D/small.png)" in text
    assert (Path(out) / "small.png").stat().st_size > 1000
    assert r"--results 'my \udcff (results)[1].md'" in text, "as a shell takes it, as far as it is text"
    assert r"my \udcff (results)" in Path("out/report.html").read_text(encoding="utf-8")


# -- what comes from files that others wrote --------------------------------------------------------------------------

PRUNED_LINE = {"event": "prune", "epoch": 0.5, "step": 3, "accuracy_before": 0.5, "accuracy_after": 0.25,
               "layers": [{"name": "a", "sparsity": 0.5, "threshold": 0.1, "removed": 2}]}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": float("nan")}, {"accuracy": 1e300}, {"accuracy": -1}, {"accuracy": "0.9"}, {"accuracy": True},
        {"accuracy": 10**400}, {"train_accuracy": float("inf")}, {"seconds": float("nan")}, {"train_seconds": -1.0},
        {"connections": 1.5}, {"epochs": None}, {"answers": [1] * 9}, {"answers": [float("nan")] * 10},
        {"support": "0123456789"}, {"support": [0] * 10}, {"more": 1}, {"course": 3}, {"course": [3]},
        {"course": [{"event": "epoch"}]}, {"course": [{"event": "epoch", "epoch": float("nan")}]},
        {"course": [PRUNED_LINE | {"layers": 3}]}, {"course": [PRUNED_LINE | {"step": "3"}]},
        {"course": [PRUNED_LINE | {"accuracy_after": float("nan")}]}, {"course": [{"event": "result"}]},
        {"course": [PRUNED_LINE | {"layers": [PRUNED_LINE["layers"][0] | {"sparsity": None}]}]},  # type: ignore[index]
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_foreign_outcome_that_is_none_is_refused_by_its_line(
    study: Any, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.jsonl").write_text(json.dumps(ELSEWHERE) + "\n" + json.dumps(ELSEWHERE | change) + "\n")
    said = refused(capsys, "--from", "there.jsonl", "--out", "out")
    assert "there.jsonl, line 2: expected a run as a study writes it to runs.jsonl" in said
    assert not Path("out").exists()


HOSTILE = '<script>alert(1)</script><img src=x>![a](http://b/c.png)[d](javascript:e)\n# f `g` \udcff\x1b[2J $\\frac$'


def test_what_a_foreign_file_says_is_text_wherever_it_is_shown(study: Any) -> None:
    layer = PRUNED_LINE["layers"][0] | {"name": HOSTILE}  # type: ignore[index]
    course = [{"event": "epoch", "epoch": 1, "test_accuracy": 0.5}, PRUNED_LINE | {"layers": [layer]}]
    foreign = {"version": HOSTILE, "commit": HOSTILE, "machine": HOSTILE, "course": course}
    Path("there.jsonl").write_text(json.dumps(ELSEWHERE | foreign) + "\n")
    study(over_time=True, figures=lambda found: [Drawing("time", "Over time.", over_time(found, [("a", DENSE)]))])
    assert main(["--quick", "--from", "there.jsonl", "--out", "out"]) == 0
    page, text = Path("out/report.html").read_text("utf-8"), Path("out/results.md").read_text("utf-8")
    assert "<script" not in page and "<img" not in page and page.count("&lt;script&gt;") >= 3
    assert "\x1b" not in page + text and "\n# f" not in text
    assert r"\<script\>alert(1)\</script\>\<img src=x\>\!\[a\](http://b/c.png)\[d\](javascript:e) # f \`g\`" in text
