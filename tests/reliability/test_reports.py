"""Reports and records: they delete what is theirs, say whose result it is, and fail before the work rather than after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparsecore.study.making import worker
from sparsecore.study.reporting.markdown import write_markdown
from tests.study.given import made_up

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
