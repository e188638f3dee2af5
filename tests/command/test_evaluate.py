"""What `evaluate` says of answers is what slow and obvious code, and scikit-learn, find in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsecore
from sparsecore import evaluate, train
from sparsecore.commands import evaluation
from sparsecore.commands.answers import BINS, Answers
from sparsecore.data import load
from sparsecore.layers import SparseLinear
from sparsecore.topology import dense
from tests.command.given import RADIX, one_line

PROGRAM = "python -m sparsecore.evaluate"


def drawn(samples: int, classes: int, seed: int) -> Answers:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(classes, 0.3), samples)
    return Answers(rng.integers(0, classes, samples).astype(np.int32), rows)


@given(st.integers(1, 60), st.integers(2, 7), st.integers(0, 10**6))
def test_figures_are_those_of_a_loop(samples: int, classes: int, seed: int) -> None:
    found = drawn(samples, classes, seed)
    confusion = np.zeros((classes, classes), int)
    for label, row in zip(found.labels, found.probabilities, strict=True):
        confusion[label, int(np.argmax(row))] += 1
    np.testing.assert_array_equal(found.confusion, confusion)
    error = 0.0
    for k in range(BINS):
        here = [
            (max(row), int(np.argmax(row)) == label)
            for label, row in zip(found.labels, found.probabilities, strict=True)
            if k / BINS < max(row) <= (k + 1) / BINS
        ]
        assert found.bins[k].samples == len(here)
        if here:
            confidence, right = np.mean(here, axis=0)
            error += len(here) / samples * abs(confidence - right)
    assert found.calibration_error == pytest.approx(error, abs=1e-12)
    assert sum(each.samples for each in found.bins) == samples


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = drawn(80, 6, seed)
    labels = np.arange(6)
    wanted = metrics.precision_recall_fscore_support(found.labels, found.predicted, labels=labels, zero_division=0)
    figures = np.array([(each.precision, each.recall, each.f1, each.samples) for each in found.classes]).T
    np.testing.assert_allclose(figures, np.array(wanted), atol=1e-12)
    np.testing.assert_array_equal(
        found.confusion, metrics.confusion_matrix(found.labels, found.predicted, labels=labels)
    )


def test_certain_answers_are_calibrated_if_right() -> None:
    labels = np.array([0, 1, 2], np.int32)
    assert Answers(labels, np.eye(3)).calibration_error == 0
    assert Answers(labels, np.eye(3)[[1, 2, 0]]).calibration_error == 1


def test_of_many_classes_the_worst_are_shown() -> None:
    many = drawn(400, 30, 0)
    lines = many.lines()
    assert "the 10 of 30 classes" in lines[1] and len(lines) == 2 + 1 + 10
    shown = [int(line.split()[0]) for line in lines[3:]]
    worst = max(many.classes[k].recall for k in shown)
    assert all(each.recall >= worst for k, each in enumerate(many.classes) if k not in shown)


def test_classes_are_called_by_their_names(tmp_path: Path) -> None:
    names = ("cat", "a\ndog", "x" * 60)
    found = Answers(np.array([0, 1, 2, 2], np.int32), np.eye(3)[[0, 2, 2, 1]], names)
    cells = [line.split("  ") for line in found.lines()[2:]]
    assert [line.strip().split("  ")[0] for line in found.lines()[2:4]] == ["cat", "a dog"]
    assert "a dog (1)" in cells[2][-1] and all(len(line) < 120 for line in found.lines())
    assert [each["name"] for each in found.record()["classes"]] == list(names)
    found.write(tmp_path / "a.csv")
    found.write(tmp_path / "a.npz")
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    assert (rows[0]["label"], rows[0]["predicted"], rows[1]["label"]) == ("cat", "cat", "a\ndog")
    assert rows[0]["pcat"] == "1" and tuple(np.load(tmp_path / "a.npz")["classes"]) == names


def test_numbers_have_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4)).astype(np.float32)
    np.savez("told.npz", x=x, y=x @ np.array([1, 2, 0, -1], np.float32))
    assert train.main(["mlp", "--dataset", "told.npz", "--loss", "mse", "--hidden", "8", "--dense", "--epochs", "2",
                       "--quiet", "--no-curves", "--out", "run"]) == 0  # fmt: skip
    capsys.readouterr()
    assert evaluate.main(["run"]) == 0
    assert "R²" in capsys.readouterr().out
    assert evaluate.main(["run", "--predictions", "a.csv"]) == 2
    assert "--predictions: is for classes" in one_line(capsys, PROGRAM) and not Path("a.csv").exists()


@pytest.mark.parametrize("shape", [(5,), (3, 1, 1)])
def test_probabilities_are_the_softmax_of_logits(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    network = sparsecore.Network([SparseLinear(dense(4, int(np.prod(shape))), rng=rng)])
    x = rng.standard_normal((20, int(np.prod(shape)))).astype(np.float32)
    logits = network.logits(x).astype(np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = network.predict_proba(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.dtype == np.float32 and (found.argmax(1) == network.predict(x)).all()
    network.params[:] *= 1e4
    found = network.predict_proba(x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    network.params[:] = np.nan
    with pytest.raises(ValueError, match="got NaN as logits of sample 0"):
        network.predict_proba(x)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    assert train.main([*RADIX, "--epochs", "1", "--quiet", "--no-curves", "--out", folder]) == 0
    return folder


def test_a_run_is_evaluated(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    test, network = load("mnist-subset").test, sparsecore.load(run)
    capsys.readouterr()
    assert evaluate.main([run, "--predictions", "a.csv", "--plot", "a.png"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("calibration error (ECE, 15 bins) ") and shown[3].split()[:2] == ["class", "samples"]
    assert len(shown) == 4 + 10 + 2 and shown[-2:] == ["a.csv", "a.png"]
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert [int(row["predicted"]) for row in rows] == network.predict(test.x).tolist()
    assert [int(row["label"]) for row in rows] == test.y.tolist()
    assert evaluate.main([run, "--predictions", "a.npz", "--json"]) == 0
    record, arrays = json.loads(capsys.readouterr().out), np.load("a.npz")
    np.testing.assert_array_equal(arrays["probability"], network.predict_proba(test.x))
    confusion = np.array(record["confusion"])
    assert confusion.sum() == record["samples"] == len(test)
    assert confusion.trace() / len(test) == pytest.approx(record["test_accuracy"])
    assert len(record["classes"]) == 10 and len(record["bins"]) == BINS


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--predictions a.txt", "--predictions: expected a name that ends in .csv or .npz, got a.txt"),
        ("--predictions there.csv", "--predictions: there.csv is there already"),
        ("--plot none/a.png", "--plot: none/a.png: there is no such folder"),
        ("--plot a.pdf", "--plot: expected a name that ends in .png"),
    ],
)
def test_what_is_wrong_is_one_line(run: str, line: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.csv").touch()
    capsys.readouterr()
    assert evaluate.main([run, *line.split()]) == 2
    assert problem in one_line(capsys, PROGRAM)
    assert [each.name for each in Path().iterdir()] == ["there.csv"]


def test_without_matplotlib_nothing_is_drawn(
    run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "can_draw", lambda: False)
    capsys.readouterr()
    assert evaluate.main([run, "--plot", "a.png"]) == 2
    assert "pip install 'sparsecore[plot]'" in one_line(capsys, PROGRAM)
