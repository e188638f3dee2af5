"""Figures as files that are whole at every moment."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from ..files import replace


def write(figure: Any, path: Path, *, dpi: int) -> Path:
    """Draw a matplotlib figure, then write it; gives the path back.

    Raises
    ------
    OSError
        If it cannot be written; what was there is as it was.
    """
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    replace(path, picture.getvalue())
    return path
