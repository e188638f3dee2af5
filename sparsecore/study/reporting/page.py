"""The report as one HTML page that needs nothing else: styles, figures and tables are in it.

`page.html`, a Jinja2 template, holds the page's text and looks; here is what it asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...files import replace
from ...runs.pictures import svg
from .figures import Drawing
from .readings import duration
from .report import Report, Section, below, dead, failures, overview, table_of
from .results import Cell, column

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "below": below, "column": column, "commands": _commands, "dead": dead, "failures": failures, "hint": _hint,
        "overview": overview, "pixels": _pixels, "svg": _svg, "table_of": table_of, "verdict": _verdict,
    }  # fmt: skip
    text = environment.get_template(TEMPLATE.name).render(report=report, facts=_facts(report))
    replace(path, text.encode())


class _Fact(NamedTuple):
    """A number that stands large at the top, and whether it is good, bad or neither."""

    value: str
    what: str
    verdict: str = ""


def _facts(report: Report) -> list[_Fact]:
    facts = [_Fact(f"{len(report.outcomes)}", "runs"), _Fact(duration(report.seconds), "of one core")]
    if report.compared and not report.quick:
        above = len(report.compared) - len(report.below)
        good = above >= 0.9 * len(report.compared)
        facts.append(_Fact(f"{above}/{len(report.compared)}", "cells above the slides'", "good" if good else "bad"))
    by_relu = f", and {report.lost_by_relu} with a ReLU on the logits" if report.lost_by_relu else ""
    facts.append(_Fact(f"{report.lost}", f"runs lost classes{by_relu}", "bad" if report.lost else "good"))
    if report.failures:
        facts.append(_Fact(f"{len(report.failures)}", "runs failed", "bad"))
    return facts


def _verdict(cell: Cell) -> str:
    return {True: "good", False: "bad", None: ""}[cell.above_slides]


def _hint(cell: Cell) -> str:
    """What a browser shows where the mouse rests on a cell."""
    return f"{cell.outcomes[0].connections:,} connections; " + ", ".join(f"{each:.2f}" for each in cell.percents)


def _commands(section: Section) -> str:
    return "\n".join(dict.fromkeys(str(cell.point.run) for cell in section.results.cells))


def _pixels(drawing: Drawing) -> int:
    """How wide a figure is shown."""
    return round(drawing.figure.get_figwidth() * 96)


def _svg(drawing: Drawing) -> str:
    """A figure as a part of the page."""
    return svg(drawing.figure, drawing.name)
