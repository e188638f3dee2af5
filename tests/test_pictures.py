"""Pictures are the same whatever a user has set for matplotlib's own windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsecore import train
from sparsecore.runs import pictures
from sparsecore.runs.checkpoint import read

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parent.parent
RUN = ["lenet300", "--dataset", "mine.npz", "--epochs", "1", "--batch-size", "40", "--warm-up", "0", "--quiet"]

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


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("mine.npz", x=rng.integers(0, 256, (200, 20), np.uint8), y=np.arange(200) % 5)


def test_a_matplotlibrc_that_needs_tex_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\npgf.texsystem: no-such-program\n")
    plain, _ = drawn(tmp_path / "plain")
    environment = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PATH": str(tmp_path)}  # where there is no TeX
    assert drawn(tmp_path / "tex", **environment)[0] == plain


@pytest.mark.usefixtures("mine")
def test_a_matplotlibrc_that_cannot_be_read_costs_a_picture(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"axes.facecolor: \xff\xfe\n")
    done = subprocess.run(
        [sys.executable, "-m", "sparsecore.train", *RUN, "--out", "run"], capture_output=True, text=True,
        env=os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and "test accuracy" in done.stdout and "Traceback" not in done.stderr
    assert "curves could not be drawn" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("error", [RuntimeError("no latex\nat all"), OSError(28, "No space left"), MemoryError()])
def test_no_picture_costs_a_run_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pictures, "write", fails)
    assert train.main([*RUN, "--out", "run"]) == 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "curves could not be drawn" in said.err and "test accuracy" in said.out
    assert train.main(["--resume", "--out", "run"]) == 0
    assert "curves could not be drawn" in capsys.readouterr().err
    assert read("run").state["run"]["result"] is not None and not Path("run/curves.png").exists()


def test_the_backend_of_a_notebook_that_started_the_process_does_not_matter(tmp_path: Path) -> None:
    plain, _ = drawn(tmp_path / "plain", MPLBACKEND="")
    notebooks = "module://matplotlib_inline.backend_inline"
    assert drawn(tmp_path / "other", MPLBACKEND=notebooks)[0] == plain
    code = "import sys; from sparsecore.study.reporting.trial import try_report; try_report(sys.argv[1:])"
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"MPLBACKEND": notebooks}, check=True)
