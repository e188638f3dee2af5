"""Sentences made from numbers. They follow from the data alone, whichever way the data point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .results import Cell, Results, differ


def versus(results: Results, table: str, a: str, b: str) -> list[str]:
    """How series a compares with series b, column by column; nothing if they share no column."""
    pairs = results.pairs(table, a, b)
    if not pairs:
        return []
    ahead = [(cell, other) for cell, other in pairs if differ(cell, other) > 0]
    behind = [(cell, other) for cell, other in pairs if differ(cell, other) < 0]
    even = [cell for cell, other in pairs if differ(cell, other) == 0]
    if len(even) == len(pairs):
        where = f"in any of {len(pairs)} columns" if len(pairs) > 1 else f"at {_columns(even)}"
        return [f"{table}: “{a}” and “{b}” cannot be told apart {where}."]
    parts = [f"is ahead of “{b}” at {_by(ahead)}" if ahead else "",
             f"is behind “{b}” at {_by(behind)}" if behind else "",
             f"cannot be told from “{b}” at {_columns(even)}" if even else ""]  # fmt: skip
    return [f"{table}: “{a}” {_joined(part for part in parts if part)}."]


def course(results: Results, table: str, series: str) -> list[str]:
    """The best and the worst column of a series, and those that cannot be told from the best."""
    row = results.row(table, series)
    if len(row) < 2:
        return []
    best, worst = max(row, key=lambda cell: cell.mean), min(row, key=lambda cell: cell.mean)
    if differ(best, worst) == 0:
        return [f"{table}, {series}: no column can be told from the best, {percent(best)} at {best.point.column}."]
    as_good = [cell for cell in row if cell is not best and differ(best, cell) == 0]
    near = f", and {_columns(as_good)} cannot be told from it" if as_good else ""
    return [f"{table}, {series}: best at {best.point.column} with {percent(best)}{near}; "
            f"worst at {worst.point.column} with {percent(worst)}."]  # fmt: skip


def beside_slides(results: Results) -> list[str]:
    """In how many cells of each series our mean is above the slides' number, and where it is not."""
    found = []
    for table in results.tables:
        for series in results.series(table):
            row = [cell for cell in results.row(table, series) if cell.point.slides is not None]
            if row:
                found.append(f"{table}, {series}: {_above(row)}.")
    return found


def dead_runs(results: Results) -> str:
    """The runs that lost classes, or that there are none."""
    runs = sum(len(cell.outcomes) for cell in results.cells)
    lost = [cell for cell in results.cells if cell.dead]
    if not lost:
        return f"No run of {runs} lost a class."
    where = "; ".join(f"{_full(cell)}: {_lost(cell)}" for cell in lost)
    return f"{sum(cell.dead for cell in lost)} of {runs} runs lost classes: {where}."


def explained(cell: Cell) -> str:
    """Why a cell may not be above the slides' number, as far as the data say."""
    assert cell.point.slides is not None
    below = cell.point.slides - cell.mean
    if cell.dead:
        return f"{cell.dead} of {counted(len(cell.outcomes), 'run')} lost classes: {_lost(cell)}"
    if below <= 2 * cell.error:
        return f"{below:.2f} points below, within two standard errors of our mean ({2 * cell.error:.2f})"
    fits = [outcome.train_accuracy for outcome in cell.outcomes if outcome.train_accuracy is not None]
    if not fits:
        return f"{below:.2f} points below: what was pruned was not trained again"
    fit = 100 * sum(fits) / len(fits)
    if fit - cell.mean > 1:
        return f"{below:.2f} points below: it fits the training set ({fit:.1f}%) better than the test set"
    epochs = cell.outcomes[0].epochs
    return f"{below:.2f} points below: after {counted(epochs, 'epoch')} it does not fit the training set either " \
           f"({fit:.1f}%)"  # fmt: skip


def percent(cell: Cell) -> str:
    """A cell's mean and spread."""
    spread = f" ± {cell.spread:.2f}" if len(cell.outcomes) > 1 else ""
    return f"{cell.mean:.2f}{spread}%"


def _full(cell: Cell) -> str:
    return f"{cell.point.table}, {cell.point.series} at {cell.point.column}"


def _lost(cell: Cell) -> str:
    """The classes that each of a cell's runs lost."""
    return ", ".join(f"class{'es' * (len(o.dead) > 1)} {' '.join(map(str, o.dead))} at {100 * o.accuracy:.1f}%"
                     for o in cell.outcomes if o.dead)  # fmt: skip


def _above(row: Sequence[Cell]) -> str:
    gaps = [cell.mean - (cell.point.slides or 0.0) for cell in row]
    below = [(cell, gap) for cell, gap in zip(row, gaps, strict=True) if gap <= 0]
    count = f"our mean is above the slides' number in {len(row) - len(below)} of {counted(len(row), 'column')}"
    if below:
        where = _joined(f"{cell.point.column} ({gap:+.2f} points)".replace("-", "−") for cell, gap in below)
        none = f"our mean is not above the slides' number at {where}"
        return none if len(below) == len(row) else f"{count}, and not at {where}"
    return f"{count}, by {min(gaps):.2f} to {max(gaps):.2f} points" if len(row) > 1 else f"{count}, by {gaps[0]:.2f}"


def _by(pairs: Iterable[tuple[Cell, Cell]]) -> str:
    return _joined(f"{cell.point.column} (by {abs(differ(cell, other)):.2f} points)" for cell, other in pairs)


def _columns(cells: Iterable[Cell]) -> str:
    return _joined(cell.point.column for cell in cells)


def _joined(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, what: str) -> str:
    """A number and what it counts, in the plural but for one."""
    return f"{count} {what}" + "s" * (count != 1)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
