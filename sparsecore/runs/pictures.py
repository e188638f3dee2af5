"""Figures drawn by matplotlib, where it is installed: the same on every machine, in files that are never half-written.

Every figure of the package is made in `canvas` or within `settings`. So neither MPLBACKEND nor a user's matplotlibrc
changes it, and no screen is needed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from ..files import replace


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


@contextmanager
def settings(**changes: Any) -> Iterator[None]:
    """matplotlib's own settings instead of the user's, with some changed (`svg__fonttype` is "svg.fonttype")."""
    matplotlib = _matplotlib()
    ours = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    with matplotlib.rc_context(ours | {name.replace("__", "."): value for name, value in changes.items()}):
        yield


def figure(width: float = 6.4, height: float = 4.8) -> Any:
    """An empty figure of so many inches that is drawn in memory; to be filled and written within `settings`."""
    _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


@contextmanager
def canvas(width: float = 6.4, height: float = 4.8) -> Iterator[Any]:
    """An empty figure, within `settings`."""
    with settings():
        yield figure(width, height)


def write(figure: Any, path: Path, *, dpi: int) -> Path:
    """Draw a figure, then write it; gives the path back.

    Raises
    ------
    OSError
        If it cannot be written; what was there is as it was.
    """
    picture = BytesIO()
    with settings():
        figure.savefig(picture, format="png", dpi=dpi)
    replace(path, picture.getvalue())
    return path


def in_per_cent(axis: Any) -> None:
    """Let the axis of a figure show parts of 1 in per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1))


def svg(figure: Any, name: str) -> str:
    """A figure as a part of an HTML page; `name` is its own on the page.

    Letters stay letters, which a browser draws sharply and finds; names of parts are the figure's own, since all
    figures of a page share one space of names.
    """
    out = StringIO()
    with settings(svg__fonttype="none", svg__hashsalt=name):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text[text.index("<svg") :])


def _matplotlib() -> Any:
    """The package. An MPLBACKEND that it does not know would keep it from being imported, so it is read afterwards."""
    if "matplotlib" not in sys.modules:
        chosen = os.environ.pop("MPLBACKEND", None)
        try:
            import matplotlib
        finally:
            if chosen is not None:
                os.environ["MPLBACKEND"] = chosen
        if chosen:
            with suppress(ValueError):  # what needs a screen will refuse the name
                matplotlib.rcParams["backend"] = chosen
    import matplotlib

    return matplotlib
