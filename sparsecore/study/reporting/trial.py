"""A report of nothing, drawn and written where reports will be: what is missing for one shows before runs are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from . import figures
from .markdown import write_markdown
from .page import write_page
from .report import Report, drawn, section_of
from .results import Results
from .study import Study


def try_report(places: Sequence[Path]) -> None:
    """Write a small report, its figure too, into new folders in these, which are gone afterwards.

    Raises
    ------
    ValueError
        If that cannot be done: names the place, and says why.
    """
    report = drawn(Report([section_of(STUDY, Results(()))], {}, 0, "", []))
    for place in places:
        try:
            with TemporaryDirectory(prefix=".trial-", dir=place) as folder:
                write_page(report, Path(folder, "report.html"))
                write_markdown(report, Path(folder, "results.md"))
        except OSError as error:
            raise ValueError(f"{place}: a report cannot be written there ({error.strerror}): choose another --out or "
                             "--results") from None  # fmt: skip


def _drawings(results: Results) -> list[figures.Drawing]:
    figure, (axes,) = figures.panels(1)
    axes.plot([0, 1], [0, 1], label="a line")
    axes.set(title="a trial", xlabel="x")
    figures.legend(figure)
    return [figures.Drawing("trial", "A trial.", figure)]


STUDY = Study("trial", "A trial", "Can it be drawn?", "x", "", lambda scale: [], _drawings, lambda results: [])
