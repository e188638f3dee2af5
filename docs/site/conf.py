"""The site: these pages as they are, in the order of docs/README.md, and a reference made from docstrings.

    python -m sphinx -W --keep-going -c docs/site . build/site

The sources are read from the repository's root, so that a link between pages is the same here and on the code host.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import navigation
import reference

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "sparsecore"
author = "sparsecore developers"
html_title = "sparsecore"

root_doc = navigation.CONTENTS
include_patterns = [*navigation.pages(), "docs/api/*.rst"]
exclude_patterns = [".*", "build", "runs", "**/__pycache__"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx.ext.viewcode"]

# Pages. Anchors of headings are those of the code host.
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Docstrings are numpydoc; what stands in single backquotes is code, and a link where it names something public.
default_role = "py:obj"
numpydoc_show_class_members = False  # autodoc does, where they stand
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

# Everything that a page needs comes with the theme: nothing is fetched when it is read.
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["front"]  # index.html leads to the first page
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", reference.write)
    app.connect("source-read", navigation.add)
    app.connect("source-read", reference.link)
    app.connect("autodoc-process-docstring", reference.plain, priority=100)  # before numpydoc
