"""The report's pages, and what they say of where runs come from."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sparsecore.study.making.run import train
from sparsecore.study.reporting.report import parts, write_csv
from sparsecore.study.reporting.results import against_slides
from tests.study.given import DENSE, RECIPE, made_up, outcome, point, results

pytest.importorskip("matplotlib")


def test_the_report_says_what_the_numbers_say() -> None:
    report = made_up()
    assert [cell.point.x for cell in report.below] == [90.0]
    assert [cell.point.x for cell in report.compared] == [90.0, 0.0], "the furthest below first"
    assert len(report.outcomes) == 6
    assert report.summary() == [
        "6 runs in 18 s of one core.",
        "In 1 of 2 cells (50%) our mean is higher than the slides' number.", "No run lost classes.", "1 run failed.",
        "3 runs not made yet: this is a report of what there is.",
    ]  # fmt: skip


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    from sparsecore.study.reporting.page import write_page

    write_page(made_up(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert text.count("<svg") == 3 and not re.search(r'(src|href)="(?!#)[^"]*"', text.replace("xlink:href", "href"))
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids), "figures share a page, and must not share names"
    assert all(name in ids for name in re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', text))
    assert "t &lt;b&gt;" in text and "it &lt;failed&gt;" in text and "Made up &amp; more" in text
    assert '<span class="bad">96.10</span> <i>± 0.14</i>' in text and '<span class="good">98.05</span>' in text


def test_the_markdown_page_has_its_pictures_beside_it(tmp_path: Path) -> None:
    from sparsecore.study.reporting.markdown import write_markdown

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.png").write_bytes(b"")
    write_markdown(made_up(), tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    pictures = re.findall(r"\]\((results/[^)]+)\)", text)
    assert len(pictures) == 3 and all((tmp_path / each).stat().st_size > 1000 for each in pictures)
    assert (tmp_path / "results" / "old.png").exists(), "which no report wrote"
    assert "| s | 98.05 ± 0.07 (97) | 96.10 ± 0.14 **(96.5)** |" in text
    assert "- a table, s, 90: 96.10 ± 0.14% against 96.5. 0.40 points below" in text
    assert r"- a run: it \<failed\>" in text, "what is no HTML of ours is none in Markdown either"


def test_the_csv_has_a_line_for_each_run(tmp_path: Path) -> None:
    assert write_csv(made_up(), tmp_path / "runs.csv") == 6
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["series"], row["x"], row["seed"], row["test_accuracy"]) for row in rows[:3]] == [
        ("s", "0", "0", "0.98"), ("s", "0", "1", "0.981"), ("s", "90", "0", "0.96")
    ]  # fmt: skip
    assert "--seed=1" in rows[1]["command"]


def test_parts_name_their_commit_and_machine() -> None:
    runs = [DENSE.seeded(0), DENSE.seeded(1), train("lenet5", "cifar10", RECIPE)]
    found = {runs[0].key: outcome(0.9), runs[1].key: outcome(0.9),
             runs[2].key: replace(outcome(0.9), commit="def", machine="another, 8 cores")}  # fmt: skip
    assert parts([*runs, *runs], found) == [
        "mnist-subset: 2 runs, 6 s of one core, commit abc, version 0, on a machine, 2 cores",
        "cifar10: 1 run, 3 s of one core, commit def, version 0, on another, 8 cores",
    ]


def test_a_cell_is_compared_once_however_many_studies_show_it() -> None:
    found = results((point("s", 0.0, 97.0), (98.0,)))
    assert len(against_slides([found, found])) == 1
