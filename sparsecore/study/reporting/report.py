"""What the pages show: the studies with their tables, figures and readings, and a summary of all."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from ... import files
from ...runs.pictures import settings
from ..making.outcome import Outcome
from ..making.run import Run
from . import figures
from .figures import Drawing
from .readings import counted, duration, explained, percent
from .results import Cell, Results, against_slides
from .study import Study

COLUMNS = ("study", "table", "series", "x", "seed", "test_accuracy", "slides", "train_accuracy", "dead_classes",
           "connections", "sparsity", "global_sparsity", "epochs", "train_seconds", "step_ms", "seconds", "run",
           "commit", "machine", "command")  # fmt: skip
"""The columns of the table of all runs."""


@dataclass(frozen=True)
class Section:
    """A study with its results."""

    study: Study
    results: Results
    drawings: Sequence[Drawing]
    readings: Sequence[str]


@dataclass(frozen=True)
class Report:
    """Everything the pages show.

    Attributes
    ----------
    sections : sequence of Section
    failures : mapping of str to str
        The runs that failed, by name, and the reasons.
    missing : int
        How many runs were not made; the report leaves them out.
    command : str
        The command line that makes this report.
    where : sequence of str
        The commits and machines that the runs were made from and on.
    quick : bool
        Whether the runs were cut short, so that they prove nothing.
    """

    sections: Sequence[Section]
    failures: Mapping[str, str]
    missing: int
    command: str
    where: Sequence[str]
    quick: bool = False

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Every run's outcome, each once, by its key."""
        found = {}
        for section in self.sections:
            for cell in section.results.cells:
                for seed, outcome in cell.by_seed.items():
                    found[cell.point.run.seeded(seed).key] = outcome
        return found

    @property
    def compared(self) -> list[Cell]:
        """The cells for which the slides have a number, the furthest below it first."""
        return against_slides(section.results for section in self.sections)

    @property
    def below(self) -> list[Cell]:
        """The cells whose mean is not above the slides' number."""
        return [cell for cell in self.compared if not cell.above_slides]

    @property
    def dead(self) -> list[Cell]:
        """The cells with runs that lost classes, each once."""
        found = {cell.point.run.key: cell for section in self.sections for cell in section.results.cells if cell.dead}
        return list(found.values())

    @property
    def lost(self) -> int:
        """How many runs lost classes, without those that are made to: with the slides' ReLU on the logits."""
        return sum(cell.dead for cell in self.dead) - self.lost_by_relu

    @property
    def lost_by_relu(self) -> int:
        """How many runs with the slides' ReLU on the logits lost classes."""
        return sum(cell.dead for cell in self.dead if cell.point.run.options.get("relu_logits"))

    @property
    def seconds(self) -> float:
        """Seconds of one core, for all runs."""
        return sum(outcome.seconds for outcome in self.outcomes.values())

    def summary(self) -> list[str]:
        """The report in a few sentences."""
        lines = [f"{counted(len(self.outcomes), 'run')} in {duration(self.seconds)} of one core."]
        if self.compared and not self.quick:
            above = len(self.compared) - len(self.below)
            lines.append(f"In {above} of {len(self.compared)} cells ({above / len(self.compared):.0%}) our mean is "
                         "higher than the slides' number.")  # fmt: skip
        by_relu = f", and {counted(self.lost_by_relu, 'run')} with a ReLU on the logits" if self.lost_by_relu else ""
        lines.append(f"{counted(self.lost, 'run') if self.lost else 'No run'} lost classes{by_relu}.")
        if self.failures:
            lines.append(f"{counted(len(self.failures), 'run')} failed.")
        if self.missing:
            lines.append(f"{counted(self.missing, 'run')} not made yet: this is a report of what there is.")
        if self.quick:
            lines.append("These are quick runs on a small part of the data, which prove nothing about the slides.")
        return lines


def section_of(study: Study, results: Results) -> Section:
    """What a study reads from its results; not drawn yet."""
    return Section(study, results, (), study.readings(results))


def drawn(report: Report) -> Report:
    """A report with its figures."""
    with settings():
        sections = [replace(each, drawings=each.study.figures(each.results)) for each in report.sections]
    return replace(report, sections=sections)


def parts(runs: Iterable[Run], outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line for each data set, commit and machine: how many runs were made from it and there."""
    found: dict[tuple[str, ...], list[float]] = {}
    for key, run in {run.key: run for run in runs}.items():
        if key in outcomes:
            o = outcomes[key]
            found.setdefault((run.dataset, o.commit, o.version, o.machine), []).append(o.seconds)
    return [f"{dataset}: {counted(len(seconds), 'run')}, {duration(sum(seconds))} of one core, commit {commit}, "
            f"version {version}, on {machine}" for (dataset, commit, version, machine), seconds in found.items()]


def table_of(results: Results, table: str) -> tuple[list[float | str], list[tuple[str, list[Cell | None]]]]:
    """A table's columns, and for each series its cells."""
    columns = list(dict.fromkeys(cell.point.x for cell in results.cells if cell.point.table == table))
    if not any(isinstance(x, str) for x in columns):
        columns.sort()
    rows = []
    for series in results.series(table):
        cells = {cell.point.x: cell for cell in results.row(table, series)}
        rows.append((series, [cells.get(x) for x in columns]))
    return columns, rows


def failures(report: Report) -> list[str]:
    """A line for each run that failed."""
    return [f"{name}: {why}" for name, why in report.failures.items()]


def below(report: Report) -> list[str]:
    """A line for each cell that is not above the slides' number, and what the data say about it."""
    return [f"{cell.point.title}: {percent(cell)} against {cell.point.slides:g}. {explained(cell)}."
            for cell in report.below]  # fmt: skip


def dead(report: Report) -> list[str]:
    """A line for each cell with runs that lost classes."""
    return [f"{cell.point.title}: {cell.dead} of {len(cell.outcomes)}" for cell in report.dead]


@settings()
def overview(cells: Sequence[Cell]) -> Drawing:
    """Every cell beside the slides' number, on axes that are logarithmic in the error."""
    figure, (axes,) = figures.panels(1, width=8.6, height=5.0)
    names = list(dict.fromkeys(f"{cell.point.table}: {cell.point.series}" for cell in cells))
    for k, name in enumerate(sorted(names)):
        row = [cell for cell in cells if f"{cell.point.table}: {cell.point.series}" == name]
        colour, marker = figures.COLOURS[k % 7], "os^vDP*"[(k + k // 7) % 7]  # together 49 kinds
        axes.plot([100 - (cell.point.slides or 0) for cell in row], [100 - cell.mean for cell in row], marker,
                  color=colour, markersize=6, alpha=0.8, label=name)  # fmt: skip
    limits = (0.3, 100)
    axes.plot(limits, limits, color="#777777", linewidth=1)
    axes.fill_between(limits, limits, [100, 100], color="#b00020", alpha=0.05)
    ticks = [100, 50, 20, 10, 5, 2, 1, 0.5]
    for which in "xy":
        getattr(axes, f"set_{which}scale")("log")
        getattr(axes, f"set_{which}lim")(*reversed(limits))
        getattr(axes, f"set_{which}ticks")(ticks, [f"{100 - tick:g}" for tick in ticks])
        getattr(axes, f"set_{which}ticks")([], minor=True)
    axes.set(xlabel="slides, %", ylabel="ours, mean, %")
    axes.text(0.97, 0.04, "slides better", transform=axes.transAxes, ha="right", color="#b00020", alpha=0.7)
    axes.text(0.03, 0.95, "ours better", transform=axes.transAxes, color="#555555")
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return Drawing("overview", "Every cell of the slides' tables: their number across, ours up; above the line ours is "
                   "better.", figure)  # fmt: skip


def write_csv(report: Report, path: Path) -> int:
    """Write a line for each run in each cell that it belongs to; returns how many."""
    lines = [
        _line(section.study, cell, seed)
        for section in report.sections for cell in section.results.cells for seed in cell.by_seed
    ]  # fmt: skip
    text = StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *lines])
    files.replace(path, text.getvalue().encode())
    return len(lines)


def _line(study: Study, cell: Cell, seed: int) -> list[object]:
    point, run, o = cell.point, cell.point.run.seeded(seed), cell.by_seed[seed]
    return [study.name, point.table, point.series, point.column, seed, o.accuracy,
            "" if point.slides is None else point.slides, o.train_accuracy, " ".join(map(str, o.dead)), o.connections,
            o.sparsity, o.global_sparsity, o.epochs, o.train_seconds, o.step_ms, o.seconds, run.key, o.commit,
            o.machine, str(run)]  # fmt: skip
