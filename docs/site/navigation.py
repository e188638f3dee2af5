"""The order of the pages: the lists of docs/README.md, a section each, a line a page."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = "docs/README"


def sections(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(title, page), …]) of every section whose list items begin with links to pages.

    Pages are paths from the repository's root, without their ending.
    """
    found = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        items = re.findall(r"^(?:-|\d+\.) \[([^\]]+)\]\(([^)#:]+)\.md\)", body, flags=re.MULTILINE)
        if items:
            folder = posixpath.dirname(CONTENTS)
            found.append((heading, [(title, posixpath.normpath(f"{folder}/{page}")) for title, page in items]))
    return found


def listed() -> list[tuple[str, list[tuple[str, str]]]]:
    return sections((ROOT / f"{CONTENTS}.md").read_text(encoding="utf-8"))


def pages() -> list[str]:
    """The files of the site, from the repository's root."""
    return [f"{page}.md" for page in (CONTENTS, *(page for _, items in listed() for _, page in items))]


def add(_app: Any, page: str, source: list[str]) -> None:
    """The page of contents tells Sphinx what it shows: trees of pages, at its side."""
    if page == CONTENTS:
        for heading, items in listed():
            entries = "\n".join(f"{title} </{target}>" for title, target in items)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{entries}\n```\n"
