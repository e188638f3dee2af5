"""Pictures are the same whatever a user has set for matplotlib's own windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import train
from sparsecore.runs import curves, pictures
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


def of_epoch(epoch: int) -> dict[str, Any]:
    splits = {"train_loss": 1.0, "test_loss": 2.0, "train_accuracy": 0.5, "test_accuracy": 0.25}
    return {"event": "epoch", "epoch": epoch, **splits}


def of_update(epoch: float, went: int, tried: int) -> dict[str, Any]:
    """An update of two layers, of 100 and of 50 places, after which there are 40 and 5 connections."""
    layers = [{"layer": "0", "name": "a", "went": went, "came": 8, "connections": 40, "tried": tried, "possible": 100,
               "empty_rows": 2, "fan_in": [0, 9, 1.5]},
              {"layer": "1", "name": "b", "went": 1, "came": 1, "connections": 5, "tried": 20, "possible": 50,
               "empty_rows": 0, "fan_in": [1, 3, 0.5]}]  # fmt: skip
    return {"event": "rewire", "epoch": epoch, "step": int(10 * epoch), "layers": layers}


def panels(monkeypatch: pytest.MonkeyPatch, history: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """What is drawn: the points of each curve, by the names of panels and curves."""
    drawn = []
    monkeypatch.setattr(pictures, "write", lambda figure, path, **_: drawn.append(figure) or path)
    curves.draw(history, Path())
    return {axes.get_title(): {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
            for axes in drawn[0].axes}  # fmt: skip


def test_curves_of_a_run_that_moves_show_what_moved_and_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = [of_update(0.5, 8, 50), of_update(1.5, 8, 60)]
    found = panels(monkeypatch, [moves[0], of_epoch(1), moves[1], of_epoch(2)])
    assert list(found)[:2] == ["accuracy", "loss"] and len(found) == 6
    assert found["new at an update, of all connections"] == {name: [[0.5, 0.2], [1.5, 0.2]] for name in "ab"}
    tried = found["ever tried, of all places"]
    assert tried["a"] == [[0.5, 0.5], [1.5, 0.6], [2.0, 0.6]], "what was tried last holds until the end"
    assert tried["all"] == [[0.5, 70 / 150], [1.5, 80 / 150], [2.0, 80 / 150]]
    assert found["outputs without connections"]["a"][0] == [0.5, 2.0]
    assert found["fan-in, standard deviation"]["b"][-1] == [2.0, 0.5]


def test_curves_have_titles_and_shares_are_in_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(pictures, "write", lambda figure, path, **_: drawn.append(figure) or path)
    curves.draw([of_update(0.5, 28, 60), of_epoch(1)], Path())
    shown = {axes.get_title(): axes.yaxis.get_major_formatter()(0.5) for axes in drawn[0].axes}
    assert {title for title, half in shown.items() if half.endswith("%")} == {
        "accuracy", "sparsity", "new at an update, of all connections", "ever tried, of all places",
    }  # fmt: skip
    (empty,) = (axes for axes in drawn[0].axes if axes.get_title() == "outputs without connections")
    assert empty.get_ylim()[0] < 0 < 2 <= empty.get_ylim()[1], "a line of zeros is not the axis"


def test_curves_of_a_run_that_becomes_sparser_as_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = panels(monkeypatch, [of_update(0.5, 28, 60), of_epoch(1), of_update(1.5, 8, 60), of_epoch(2)])
    assert list(found)[:2] == ["accuracy", "sparsity"]
    epochs, sparsities = zip(*found["sparsity"]["a"], strict=True)
    assert epochs == (0, 0.5, 1.5, 2) and sparsities == pytest.approx((0.4, 0.6, 0.6, 0.6))
