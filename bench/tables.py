"""Tables in Markdown, so that what is printed can be pasted; and picking rows for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .timing import Row


def markdown(title: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table with its columns aligned: the first to the left, numbers to the right."""
    lines = [list(head), *map(list, body)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]

    def spell(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "| " + " | ".join([line[0].ljust(widths[0]), *cells[1:]]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([title, "", spell(lines[0]), rule, *map(spell, lines[1:]), ""])


def pick(rows: Iterable[Row], *engines: str, **wanted: object) -> list[Row]:
    """Rows with these values, of these engines or of any."""
    return [
        row
        for row in rows
        if (not engines or row["engine"] in engines) and all(row.get(name) == value for name, value in wanted.items())
    ]


def fastest(rows: Iterable[Row]) -> float | None:
    """Milliseconds of the fastest row, if there is one."""
    return min((row["ms"] for row in rows), default=None)


def number(value: float | None, digits: int = 3) -> str:
    """A few significant digits; a dash for what was not measured."""
    if value is None:
        return "–"
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.4f}"


def ratio(dividend: float | None, divisor: float | None) -> str:
    """How many times as fast, or a dash if either was not measured."""
    return "–" if dividend is None or divisor is None else f"{dividend / divisor:.2f}×"


def percent(part: float | None, whole: float | None) -> str:
    return "–" if part is None or whole is None else f"{100 * part / whole:.0f}%"


def wires(topology: str, sparsity: float) -> str:
    """How a pattern is named in a table."""
    return "dense" if topology == "dense" else f"{topology} {100 * sparsity:g}%"
