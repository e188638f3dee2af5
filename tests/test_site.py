"""The site of the pages: its order, its reference; in the long form, that it builds strictly and fetches nothing."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_public_names import OPTIONAL, PUBLIC

ROOT = Path(__file__).resolve().parent.parent


def part(name: str) -> ModuleType:
    """A module of docs/site, which needs no Sphinx to be read."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_a_list_of_the_page_of_contents() -> None:
    """A new page is one line in docs/README.md."""
    listed = part("navigation").pages()
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages - set(listed)) == []
    assert [page for page in listed if not (ROOT / page).is_file()] == []
    assert sorted({page for page in listed if listed.count(page) > 1}) == []


def test_the_order_is_that_of_the_lists() -> None:
    text = "# X\n\n## One\n\n1. [First](a.md): see [b](b.md).\n2. [Bench](../bench/README.md)\n\n## None\n\n[c](c.md)\n"
    found = part("navigation").sections(text)
    assert found == [("One", [("First", "docs/a"), ("Bench", "bench/README")])]


def test_every_module_with_public_names_is_in_the_reference() -> None:
    """A new module is one line in the table of docs/api.md."""
    listed = part("reference").modules()
    assert sorted(set(PUBLIC) - set(listed)) == []
    assert sorted(set(listed)) == sorted(listed)


@pytest.mark.parametrize("name", ["sparsecore", "sparsecore.layers", "sparsecore.prune", "sparsecore.data"])
def test_a_page_of_the_reference_has_every_public_name(name: str) -> None:
    pytest.importorskip("sphinx")
    reference = part("reference")
    homes = reference.Homes()
    first, page = homes.page("sparsecore"), homes.page(name)
    for each in PUBLIC[name]:
        assert re.search(rf":: (?:{name}\.)?{each}$|^``{each}`` is", page, flags=re.MULTILINE), each
    assert (":: sparsecore.SparseLinear\n" in first) and ":: sparsecore.layers.SparseLinear\n" not in page


def test_docstrings_keep_their_stars_bars_and_tables() -> None:
    lines = ["|w| of (batch, *shape), `a|b*`", "", "| layer | then |", "|---|---|", "| first | say \"x\" |", "", "end"]
    part("reference").plain(None, "", "", None, None, lines)
    assert lines[0] == r"\|w\| of (batch, \*shape), `a|b*`"
    assert lines[2:8] == [".. csv-table::", "   :header-rows: 1", "", '   "layer","then"', '   "first","say ""x"""', ""]
    assert lines[-1] == "end"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("sphinx", "myst_parser", "furo", "numpydoc"):
        if find_spec(tool) is None:
            pytest.skip(f"needs {tool}: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-c", "docs/site", ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_public_name(site: Path) -> None:
    """Sphinx warns of links, anchors, pages in no list, docstrings that cannot be read; a warning is an error."""
    body = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    described = {line.split()[0] for line in zlib.decompress(body).decode().splitlines()}
    pages = {name: (site / "docs" / "api" / f"{name}.html").read_text(encoding="utf-8") for name in PUBLIC}
    for module, names in PUBLIC.items():
        if module not in OPTIONAL or find_spec(OPTIONAL[module]) is not None:
            there = {name for name in names if f"{module}.{name}" in described or f">{name}<" in pages[module]}
            assert set(names) - there == set(), module
    assert (site / "index.html").is_file() and "regrowth" in (site / "searchindex.js").read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_page_of_the_site_fetches_anything(site: Path) -> None:
    fetched = re.compile(r"""<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//""")
    assert [page.name for page in site.rglob("*.html") if fetched.search(page.read_text(encoding="utf-8"))] == []
    sheets = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    assert sheets and not any(re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet) for sheet in sheets)
