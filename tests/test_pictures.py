"""Pictures are the same whatever a user has set for matplotlib's own windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsecore.runs import curves, pictures

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
    return {axes.get_ylabel(): {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
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


def test_curves_of_a_run_that_becomes_sparser_as_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = panels(monkeypatch, [of_update(0.5, 28, 60), of_epoch(1), of_update(1.5, 8, 60), of_epoch(2)])
    assert list(found)[:2] == ["accuracy", "sparsity"]
    epochs, sparsities = zip(*found["sparsity"]["a"], strict=True)
    assert epochs == (0, 0.5, 1.5, 2) and sparsities == pytest.approx((0.4, 0.6, 0.6, 0.6))
