"""The report as one HTML page that needs nothing else: styles, figures and tables are in it."""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path

from ...files import replace
from .markdown import place
from .progress import duration
from .readings import column, explained, percent
from .report import Report, Section, overview, table_of
from .results import Cell
from .study import Drawing

STYLE = """
:root { --ink: #1c2733; --soft: #5b6875; --line: #e3e8ee; --back: #f6f8fa; --card: #fff;
  --good: #00794f; --bad: #b00020; --accent: #0072b2 }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 24px }
header { padding-top: 44px }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3em; letter-spacing: -.02em }
h2 { font-size: 1.4rem; margin: 0; letter-spacing: -.01em }
h3 { font-size: 1rem; margin: 1.6em 0 .4em }
p { margin: .5em 0; max-width: 80ch }
nav { position: sticky; top: 0; background: var(--back); border-bottom: 1px solid var(--line); z-index: 1 }
nav div { max-width: 1180px; margin: 0 auto; padding: 10px 24px; display: flex; gap: 6px 20px; flex-wrap: wrap }
nav a { color: var(--soft); text-decoration: none; font-size: .9rem } nav a:hover { color: var(--accent) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 26px 30px;
  margin: 26px 0; scroll-margin-top: 52px }
.facts { display: flex; gap: 14px; flex-wrap: wrap; margin: 22px 0 }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 20px;
  min-width: 130px }
.fact b { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 650; letter-spacing: -.02em }
.fact span, figcaption, .pinned { color: var(--soft); font-size: .875rem }
.good { color: var(--good) } .bad { color: var(--bad) }
.warning { border-left: 4px solid #e69f00; background: #fff8e8; padding: 10px 16px; border-radius: 4px }
figure { margin: 18px 0 } figure svg { width: 100%; height: auto; max-width: var(--wide); display: block }
ul { padding-left: 1.2em; max-width: 88ch } li { margin: .25em 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem }
th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--line); white-space: nowrap;
  line-height: 1.35 }
th { font-weight: 600; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
th:first-child { white-space: normal; min-width: 11em; max-width: 15em }
td small { color: var(--soft); display: block; font-size: .75rem } td i { font-style: normal; color: var(--soft) }
code, pre { font: .8rem/1.5 ui-monospace, monospace }
pre { background: var(--back); padding: 12px 16px; border-radius: 6px; overflow-x: auto; white-space: pre-wrap }
summary { cursor: pointer; color: var(--soft); font-size: .875rem; margin-top: 1em }
footer { max-width: 1180px; margin: 0 auto; padding: 4px 24px 44px; color: var(--soft); font-size: .875rem }
"""


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    body = "\n".join(_section(section) for section in report.sections)
    links = "".join(f'<a href="#{each.study.name}">{escape(each.study.title)}</a>' for each in report.sections)
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>The study</title><style>{STYLE}</style></head><body>
<header><h1>Training sparse neural networks, in sparse storage</h1>
<p>The figures of the 2018 slides again, by one command, with error bars.</p>
{_facts(report)}</header><nav><div>{links}</div></nav><main>{_summary(report)}
{body}</main><footer>{_foot(report)}</footer></body></html>
"""
    replace(path, text.encode())


def _facts(report: Report) -> str:
    facts = [(f"{len(report.outcomes)}", "runs", ""), (duration(report.seconds), "of one core", "")]
    if report.compared and not report.quick:
        above = len(report.compared) - len(report.below)
        good = above >= 0.9 * len(report.compared)
        facts.append((f"{above}/{len(report.compared)}", "cells above the slides'", "good" if good else "bad"))
    by_relu = f", and {report.lost_by_relu} with a ReLU on the logits" if report.lost_by_relu else ""
    facts.append((f"{report.lost}", f"runs lost classes{by_relu}", "bad" if report.lost else "good"))
    if report.failures:
        facts.append((f"{len(report.failures)}", "runs failed", "bad"))
    shown = "".join(f'<div class="fact"><b class="{kind}">{value}</b><span>{what}</span></div>'
                    for value, what, kind in facts)  # fmt: skip
    return f'<div class="facts">{shown}</div>'


def _summary(report: Report) -> str:
    parts = []
    if report.quick:
        parts.append('<p class="warning">Quick runs on a small part of the data: they show that all is in order, and '
                     "prove nothing about the slides.</p>")  # fmt: skip
    if report.missing:
        parts.append(f'<p class="warning">{report.missing} runs are not made yet; run the command again to go on.</p>')
    if report.failures:
        parts.append(_list("Failed", [f"{name}: {why}" for name, why in report.failures.items()]))
    if report.compared:
        parts.append(_figure(overview(report.compared)))
    if report.below and not report.quick:
        parts.append(_list("Cells that are not above the slides' number", [
            f"{place(cell)}: {percent(cell)} against {cell.point.slides:g}; {explained(cell)}" for cell in report.below
        ]))  # fmt: skip
    if report.dead:
        parts.append(_list("Runs that lost classes", [
            f"{place(cell)}: {cell.dead} of {len(cell.outcomes)}" for cell in report.dead
        ]))  # fmt: skip
    return f"<section><h2>All of it</h2>{''.join(parts)}</section>" if parts else ""


def _section(section: Section) -> str:
    study = section.study
    tables = "".join(_table(section, table) for table in section.results.tables)
    readings = "".join(f"<li>{escape(reading)}</li>" for reading in section.readings)
    commands = "\n".join(dict.fromkeys(str(cell.point.run) for cell in section.results.cells))
    return f"""<section id="{study.name}"><h2>{escape(study.title)}</h2><p>{escape(study.question)}</p>
{"".join(map(_figure, section.drawings))}<ul>{readings}</ul>{tables}
<p class="pinned">{escape(study.pinned)}</p>
<details><summary>Commands, but for their --seed and --out</summary><pre>{escape(commands)}</pre></details>
</section>"""


def _table(section: Section, table: str) -> str:
    columns, rows = table_of(section.results, table)
    head = "".join(f"<th>{escape(column(x))}</th>" for x in columns)
    body = "".join(
        f"<tr><td>{escape(series)}</td>{''.join(map(_cell, cells))}</tr>" for series, cells in rows
    )  # fmt: skip
    return (f"<h3>{escape(table)}</h3><div class=scroll><table><tr><th>{escape(section.study.x)}</th>{head}</tr>"
            f"{body}</table></div>")  # fmt: skip


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    kind = {True: "good", False: "bad", None: ""}[cell.above_slides]
    spread = f" <i>± {cell.spread:.2f}</i>" if len(cell.outcomes) > 1 else ""
    slides = f"slides {cell.point.slides:g}" if cell.point.slides is not None else ""
    seconds = f"{cell.seconds:.1f} s" if cell.seconds else ""
    notes = [each for each in (slides, seconds) if each]
    marks = (f' <b class="bad" title="runs that lost classes">✕{cell.dead}</b>' if cell.dead else "") + (
        f' <i title="runs that are missing">−{cell.missing}</i>' if cell.missing else ""
    )
    title = escape(f"{cell.outcomes[0].connections:,} connections; " + ", ".join(f"{p:.2f}" for p in cell.percents))
    return (f'<td title="{title}"><span class="{kind}">{cell.mean:.2f}</span>{spread}{marks}'
            f"<small>{'<br>'.join(notes)}</small></td>")  # fmt: skip


def _figure(drawing: Drawing) -> str:
    import matplotlib

    out = io.StringIO()
    # Letters stay letters, which a browser draws sharply and finds; names of parts are the figure's own, since all
    # figures of the page share one space of names.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.name, "font.family": "sans-serif"}):
        drawing.figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{drawing.name}-", svg)
    wide = round(drawing.figure.get_figwidth() * 96)
    caption = escape(drawing.caption)
    return (f'<figure style="--wide: {wide}px" role="img" aria-label="{caption}">{svg}'
            f"<figcaption>{caption}</figcaption></figure>")  # fmt: skip


def _list(title: str, lines: list[str]) -> str:
    return f"<h3>{escape(title)}</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _foot(report: Report) -> str:
    where = "<br>".join(map(escape, report.where))
    return f"""<p><b>How to read it.</b> Numbers are test accuracies in percent at the end of a run, never the best on
the way: mean ± sample standard deviation over the seeds. Green is above the slides' number, red is not. ✕ marks runs
that lost classes: the network answers them for fewer than one in fifty of their samples. Two means “cannot be told
apart” where they differ by less than two standard errors; the error of a mean is never taken to be smaller than the
test set's size allows. Lines join means, bars show the spread, dots are runs. Seconds are training time of a run on one
core, mean.</p>
<p>Made by <code>{escape(report.command)}</code><br>{where}</p>"""
