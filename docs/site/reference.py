"""A page of public names for each module that docs/api.md names, written into docs/api/ before the site is made."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/api"
ROW = re.compile(r"^\| `(sparsecore[\w.]*)` \|", flags=re.MULTILINE)


def modules() -> list[str]:
    return ROW.findall((ROOT / f"{PAGE}.md").read_text(encoding="utf-8"))


def public(module: Any) -> list[str]:
    """What a module declares, or else the functions and classes that it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__, key=str.lower)
    return [
        name for name, each in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(each) or inspect.isroutine(each))
        and getattr(each, "__module__", "") == module.__name__
    ]  # fmt: skip


class Homes:
    """Where each object is described: in the first module that has it. Elsewhere a line leads there."""

    def __init__(self) -> None:
        self.of: dict[int, str] = {}

    def page(self, name: str) -> str:
        """The page of a module, in reStructuredText, for autodoc to fill."""
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            return titled(name, f"This site was made where it could not be imported: {error}.")
        entries = [self.entry(f"{name}.{each}", getattr(module, each)) for each in public(module)]
        return titled(name, f".. automodule:: {name}\n   :no-members:", *entries)

    def entry(self, name: str, found: Any) -> str:
        home = self.of.setdefault(id(found), name)
        if home != name:
            return f"``{name.rpartition('.')[2]}`` is :py:obj:`{home}`."
        if inspect.isclass(found):
            hidden = "".join(f"\n   :exclude-members: {', '.join(names)}" for names in [given(found)] if names)
            return f".. autoclass:: {name}\n   :members:{hidden}\n   :show-inheritance:"
        if inspect.isroutine(found):
            return f".. autofunction:: {name}"
        short = name.rpartition(".")[2]
        return f".. py:data:: {short}\n\n   {' '.join(said(short, found))}"  # in the module above it


def given(found: type) -> list[str]:
    """Methods that a class was given, by scikit-learn or in a loop, and that nobody has described."""
    return [
        name for name, each in vars(found).items()
        if re.fullmatch("set_.*_request", name) or "<locals>" in getattr(each, "__qualname__", "")
    ]  # fmt: skip


def said(name: str, value: Any) -> list[str]:
    """The string below the assignment of a module's name, wherever it is assigned."""
    from sphinx.pycode import ModuleAnalyzer

    for module in [each for each in sys.modules if each.startswith("sparsecore.")]:
        if vars(sys.modules[module]).get(name) is value:
            found = ModuleAnalyzer.for_module(sys.modules[module].__name__).find_attr_docs()
            if ("", name) in found:
                return found["", name]
    raise LookupError(f"{name}: public, and no string below its assignment says what it is")


def titled(title: str, *parts: str) -> str:
    return "\n\n".join([f"{title}\n{'=' * len(title)}", *parts]) + "\n"


def write(_app: Any) -> None:
    folder, homes = ROOT / PAGE, Homes()
    folder.mkdir(exist_ok=True)
    wanted = {f"{name}.rst": homes.page(name) for name in modules()}
    for path in folder.glob("*.rst"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def link(_app: Any, page: str, source: list[str]) -> None:
    """The table of modules leads to their pages, which are at its side too."""
    if page == PAGE:
        entries = "\n".join(f"{name.removeprefix('sparsecore.')} </{PAGE}/{name}>" for name in modules())
        source[0] = ROW.sub(r"| {doc}`\1 </docs/api/\1>` |", source[0])
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"


def plain(_app: Any, _what: str, _name: str, _found: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings here are text: outside backquotes, stars and bars are themselves, and rows of bars are a table."""
    text = "\n".join(lines)
    text = re.sub(r"(?:^ *\|.*\|$\n?)+", lambda rows: table(rows[0]), text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|[*|]", lambda each: f"\\{each[0]}" if each[0] in "*|" else each[0], text)
    lines[:] = text.split("\n")


def table(rows: str) -> str:
    """A table of Markdown's as one of reStructuredText's; its second line says nothing."""
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows.strip("\n").split("\n")]
    body = ["   " + ",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [cells[0], *cells[2:]]]
    return "\n".join([".. csv-table::\n   :header-rows: 1\n", *body, "\n"])
