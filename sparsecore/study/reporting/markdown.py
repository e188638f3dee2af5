"""The report as a Markdown page with its pictures in a folder beside it: what `docs/results.md` is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from ...files import replace
from ...runs.pictures import write
from .figures import Drawing
from .report import Report, Section, below, dead, failures, overview, table_of
from .results import Cell, column

OURS = "<!-- pictures written with this page: {} -->"
"""The page's last line, which readers do not see: what the next report may delete, for nobody else wrote it."""


def write_markdown(report: Report, path: Path) -> None:
    """Write the page, and its pictures into the folder that has its name without the ending.

    Of the pictures that the page before this one was written with, those go that are not drawn again.
    """
    pictures = path.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    before = _written_with(path)
    lines = ["# Results of the study", "", *_head(report, pictures)]
    for section in report.sections:
        lines += ["", *_section(section, pictures)]
    drawn = re.findall(r"^!\[.*/([\w-]+\.png)\)$", "\n".join(lines), re.MULTILINE)
    lines += ["", OURS.format(" ".join(drawn))]
    replace(path, "\n".join([*lines, ""]).encode())
    for name in before - set(drawn):
        (pictures / name).unlink(missing_ok=True)


def _written_with(page: Path) -> set[str]:
    """The pictures that a page was written with; none if it is not there, or not one of ours."""
    try:
        last = page.read_text(encoding="utf-8", errors="replace").rstrip("\n").rpartition("\n")[2]
    except OSError:
        return set()
    found = re.fullmatch(OURS.format(r"((?:[\w-]+\.png ?)*)"), last)
    return set(found[1].split()) if found else set()


def _head(report: Report, pictures: Path) -> list[str]:
    where = [f"- {_plain(each)}" for each in report.where]
    lines = [" ".join(report.summary()), "", f"    {report.command}", "", *where, "",
             "Test accuracy in percent at the end of each run, mean ± sample standard deviation over the seeds; in "
             "brackets the slides' number, in bold where ours is not above it. † marks cells with runs that lost "
             "classes, … those with runs that are missing. Two means “cannot be told apart” where they differ by less "
             "than two standard errors; the error of a mean is never taken to be smaller than the test set's size "
             "allows."]  # fmt: skip
    if report.compared:
        lines += ["", *_picture(overview(report.compared), pictures)]
    if report.below and not report.quick:
        lines += ["", "Cells that are not above the slides' number:", ""]
        lines += [f"- {line}" for line in below(report)]
    if report.dead:
        lines += ["", "Runs that lost classes:", ""]
        lines += [f"- {line}" for line in dead(report)]
    if report.failures:
        lines += ["", "Runs that failed:", "", *(f"- {_plain(line)}" for line in failures(report))]
    return lines


def _plain(text: str) -> str:
    """Text that comes from files, none of which Markdown or HTML is to heed."""
    return re.sub(r"([\\`*_\[\]<>&|~!])", r"\\\1", text)


def _section(section: Section, pictures: Path) -> list[str]:
    study = section.study
    lines = [f"## {study.title}", "", study.question, "", study.pinned, ""]
    for drawing in section.drawings:
        lines += [*_picture(drawing, pictures), ""]
    lines += [f"- {reading}" for reading in section.readings]
    for table in section.results.tables:
        columns, rows = table_of(section.results, table)
        lines += ["", f"**{table}**, by {study.x}", "", f"| | {' | '.join(map(column, columns))} |",
                  "|---" * (len(columns) + 1) + "|"]  # fmt: skip
        lines += [f"| {series} | {' | '.join(map(_cell, cells))} |" for series, cells in rows]
        times = [cell.seconds for _, cells in rows for cell in cells if cell is not None and cell.seconds]
        if times:
            span = " to ".join(dict.fromkeys(f"{each:.1f}" for each in (min(times), max(times))))
            lines += ["", f"Training took {span} s a run, on one core."]
    return lines


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = f"{cell.mean:.2f}" + (f" ± {cell.spread:.2f}" if len(cell.outcomes) > 1 else "")
    if cell.point.slides is not None:
        text += f" ({cell.point.slides:g})" if cell.above_slides else f" **({cell.point.slides:g})**"
    return text + (" †" if cell.dead else "") + (" …" if cell.missing else "")


def _picture(drawing: Drawing, pictures: Path) -> list[str]:
    path = write(drawing.figure, pictures / f"{drawing.name}.png", dpi=130)
    address = quote(os.fsencode(f"{pictures.name}/{path.name}"))  # Markdown ends one at a space or a bracket
    return [f"![{drawing.caption}]({address})", "", f"*{drawing.caption}*"]
