"""`python -m sparsecore.compare`: runs beside each other, as a table, as JSON, and as a page with figures.

Exit status: 0, or 2 for a command that cannot be followed or a run that cannot be used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..console.arguments import Parser, UsageError
from ..console.output import answer
from ..files import replace
from ..runs.checkpoint import read
from ..runs.folder import RunFolder, RunFolderError
from ..runs.metrics import Metrics, Record
from ..runs.strict import as_line
from .answers import check_file

PROGRAM = "python -m sparsecore.compare"
EXAMPLE = f"{PROGRAM} runs/a runs/b --out comparison.html"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Colours that nearly everybody can distinguish: M. Okabe, K. Ito, Color Universal Design, 2008."""
STYLES = ("-", "--", ":", "-.")


class Run(NamedTuple):
    """A run, as its folder tells it.

    Attributes
    ----------
    name : str
        The folder, as it was given.
    model, dataset : str
    epochs : list of Record
        The lines of its epochs.
    score, best : float
        On the test split: at the end, and the best after any epoch. Higher is better.
    connections : int
    sparsity : float
        Of the sparse layers.
    seconds : float
        Spent on training.
    finished : bool
    measure : str
        What the score is, "accuracy" or "r2".
    """

    name: str
    model: str
    dataset: str
    epochs: list[Record]
    score: float
    best: float
    connections: int
    sparsity: float
    seconds: float
    finished: bool
    measure: str = "accuracy"

    def record(self) -> dict[str, Any]:
        """For programs; without the epochs, which metrics.jsonl has."""
        found = self._asdict() | {"epochs": len(self.epochs)}
        return {found["measure"] if name == "score" else name: found[name] for name in found if name != "measure"}


class Measure(NamedTuple):
    """What runs are compared by: its name for people, what it is multiplied by in figures, and its name there."""

    title: str
    unit: float
    label: str


MEASURES = {"accuracy": Measure("accuracy", 100.0, "accuracy, %"), "r2": Measure("R²", 1.0, "R²")}


class Figure(NamedTuple):
    """A figure of the page: its name, its title, and itself as SVG."""

    name: str
    title: str
    svg: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return answer(PROGRAM, _compared, arguments, "interrupted; nothing was written")


def parser() -> Parser:
    """The parser of this command."""
    made = Parser(PROGRAM, "Put runs beside each other.", EXAMPLE)
    made.add_argument("runs", nargs="+", metavar="DIR", help="folders of runs, in the order in which they are shown")
    made.add_argument("--out", metavar="FILE", help="write a page with figures, as .html (not written if not given)")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _compared(arguments: list[str]) -> list[str]:
    """Compare as a command line says; returns the lines to print. Raises ValueError."""
    asked = parser()
    given = vars(asked.parse_args(arguments))
    names = given["runs"]
    if twice := [name for k, name in enumerate(names) if os.path.realpath(name) in map(os.path.realpath, names[:k])]:
        asked.error(f"expected different runs, got {twice[0]} twice")
    page = check_file("--out", given["out"], (".html",)) if "out" in given else None
    missing = " and ".join(name for name in ("matplotlib", "jinja2") if find_spec(name) is None)
    if page is not None and missing:
        raise UsageError(f"--out: needs {missing}, not installed here: pip install 'sparsecore[plot]'")
    runs = [run_in(name) for name in names]
    if other := next((run for run in runs if run.measure != runs[0].measure), None):
        asked.error(f"expected runs that tell all classes or all numbers, got {MEASURES[runs[0].measure].title} of "
                    f"{runs[0].name} and {MEASURES[other.measure].title} of {other.name}")  # fmt: skip
    if page is not None:
        write_page(runs, page)
    if "json" in given:
        return [as_line({"runs": [run.record() for run in runs]})]
    return [*table(runs), *([str(page)] if page is not None else [])]


def run_in(name: str) -> Run:
    """The run in a folder.

    Raises
    ------
    ValueError
        If there is none, or it cannot be used or has not come to its first evaluation.
    """
    folder = RunFolder(name)
    if not folder.exists():
        raise RunFolderError(f"{name}: expected a run's folder, got none")
    history = list(Metrics(folder.metrics))
    try:
        return _run(name, folder, history)
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{name}: expected the metrics of a run, got other records") from None


def _run(name: str, folder: RunFolder, history: list[Record]) -> Run:
    epochs = [each for each in history if each["event"] == "epoch"]
    results = [each for each in history if each["event"] == "result"]
    measure = next((name for name in MEASURES if any(f"test_{name}" in each for each in epochs)), "accuracy")
    tests = [float(each[f"test_{measure}"]) for each in epochs if f"test_{measure}" in each]
    if not tests:
        raise RunFolderError(f"{name}: expected a run with one epoch or more that was evaluated, got {len(epochs)}")
    config = folder.config() or {}
    if results:
        last = results[-1]
        structure = int(last["connections"]), float(last["sparsity"]), float(last["train_seconds"])
    else:
        network = read(folder.path).network
        structure = network.connections, network.sparsity, sum(float(each["seconds"]) for each in epochs)
    options = config.get("options", {})
    score = float(results[-1][f"test_{measure}"]) if results else tests[-1]
    dataset = str(options.get("dataset_name") or options.get("dataset") or "?")
    model = str(config.get("model") or "?")
    return Run(name, model, dataset, epochs, score, max(tests), *structure, bool(results), measure)


def rows_of(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The table: titles, and a row for each run."""
    word, form = ("test", ".2%") if runs[0].measure == "accuracy" else ("test R²", ".4f")
    titles = ("run", "model", "data", "epochs", word, "best", "connections", "sparsity", "seconds")
    rows: list[tuple[str, ...]] = [
        (
            run.name + ("" if run.finished else " (unfinished)"), run.model, run.dataset, f"{len(run.epochs)}",
            f"{run.score:{form}}", f"{run.best:{form}}", f"{run.connections:,}", f"{run.sparsity:.1%}",
            f"{run.seconds:.1f}",
        )
        for run in runs
    ]  # fmt: skip
    return [titles, *rows]


def table(runs: Sequence[Run]) -> list[str]:
    """The table as lines: words to the left, numbers to the right."""
    rows = rows_of(runs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k < 3 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write_page(runs: Sequence[Run], path: Path) -> None:
    """Write the page, which needs nothing else, whole or not at all."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    template = Path(__file__).with_name("compare.html")
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    titles, *rows = rows_of(runs)
    text = environment.get_template(template.name).render(titles=titles, rows=rows, figures=figures_of(runs))
    replace(path, text.encode())


def figures_of(runs: Sequence[Run]) -> list[Figure]:
    """Curves over each other, and the score against what it costs."""
    name, (title, unit, label) = runs[0].measure, MEASURES[runs[0].measure]
    ends = [unit * run.score for run in runs]
    return [
        _curves(runs, name, f"test {title}", f"test_{name}", unit, f"test {label}"),
        _curves(runs, "loss", "training loss", "train_loss", 1.0, "training loss"),
        _dots(runs, "connections", f"test {title} against connections", [float(run.connections) for run in runs], ends),
        _dots(runs, "time", f"test {title} against training time, s", [run.seconds for run in runs], ends),
    ]


def _curves(runs: Sequence[Run], name: str, title: str, key: str, unit: float, label: str) -> Figure:
    def draw(axes: Any) -> None:
        for k, run in enumerate(runs):
            points = [(each["epoch"], unit * each[key]) for each in run.epochs if each.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=_label(run), marker=".", **_look(k))
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _figure(name, title, draw)


def _dots(runs: Sequence[Run], name: str, title: str, xs: Sequence[float], ys: Sequence[float]) -> Figure:
    def draw(axes: Any) -> None:
        for k, (run, x, y) in enumerate(zip(runs, xs, ys, strict=True)):
            axes.plot([x], [y], label=_label(run), marker="osD^v"[k % 5], markersize=8, **_look(k))
        if max(xs) > 5 * min(xs) > 0:
            _in_decades(axes)
        axes.set(xlabel=title.partition("against ")[2], ylabel=f"test {MEASURES[runs[0].measure].label}")

    return _figure(name, title, draw)


def _figure(name: str, title: str, draw: Any) -> Figure:
    from ..runs import pictures

    with pictures.settings():
        made = pictures.figure(7.2, 4.4)
        axes = made.subplots()
        draw(axes)
        axes.set_title(title)
        axes.grid(alpha=0.25)
        if axes.lines:
            made.legend(loc="outside lower center", ncols=2, frameon=False)
        return Figure(name, title, pictures.svg(made, name))


def _in_decades(axes: Any) -> None:
    """x by its logarithm, with numbers that are read at once: 20,000, not 2 × 10⁴."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _look(k: int) -> dict[str, Any]:
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": STYLES[k // len(COLOURS) % len(STYLES)]}


def _label(run: Run) -> str:
    """A name that a legend shows as it is: dollars would be formulas, and a name that begins with _ is left out."""
    text = run.name.replace("$", r"\$")
    return f"./{text}" if text.startswith("_") else text
