"""Pictures are the same whatever a user has set for matplotlib's own windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

DRAW = """
import sys
from pathlib import Path
from sparsecore.runs.curves import draw
record = {"event": "epoch", "train_loss": 1.0, "test_loss": 2.0, "train_accuracy": 0.5, "test_accuracy": 0.25}
draw([record | {"epoch": 1}, record | {"epoch": 2}], Path(sys.argv[1]))
import matplotlib
print(matplotlib.rcParams["lines.linewidth"], matplotlib.rcParams["backend"])
"""


def drawn(folder: Path, **environment: str) -> tuple[bytes, str]:
    """The curves that a process of its own draws, and what it then finds of the user's settings."""
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRAW, str(folder)], env=os.environ | environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return (folder / "curves.png").read_bytes(), run.stdout.strip()


def test_neither_the_backend_nor_the_settings_of_a_user_change_a_picture(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\naxes.facecolor: red\nsavefig.bbox: tight\n")
    plain, _ = drawn(tmp_path / "plain", MPLBACKEND="")
    changed, left = drawn(tmp_path / "changed", MPLBACKEND="svg", MATPLOTLIBRC=str(tmp_path / "matplotlibrc"))
    assert changed == plain
    assert left == "9.0 svg", "they are the user's again afterwards"


def test_a_backend_that_is_not_there_does_not_matter(tmp_path: Path) -> None:
    plain, _ = drawn(tmp_path / "plain", MPLBACKEND="")
    assert drawn(tmp_path / "other", MPLBACKEND="no-such-backend")[0] == plain


def test_the_backend_of_a_notebook_that_started_the_process_does_not_matter(tmp_path: Path) -> None:
    plain, _ = drawn(tmp_path / "plain", MPLBACKEND="")
    notebooks = "module://matplotlib_inline.backend_inline"
    assert drawn(tmp_path / "other", MPLBACKEND=notebooks)[0] == plain
    code = "import sys; from sparsecore.study.reporting.trial import try_report; try_report(sys.argv[1:])"
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"MPLBACKEND": notebooks}, check=True)
