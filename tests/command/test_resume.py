"""Going on with a run: what is accepted, what is refused, what is not overwritten."""

import signal
from pathlib import Path

import numpy as np
import pytest

from sparsecore import evaluate, train
from tests.command.given import RADIX, After, bits, one_line


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The folder of a run that was stopped in its second epoch."""
    with monkeypatch.context() as patch:
        After(patch, 70, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*RADIX, "--epochs", "3", "--lr", "0.1", "--out", "cut", "--threads", "1"]) == 130
    capsys.readouterr()
    return "cut"


def test_resume_accepts_what_was_said(cut: str) -> None:
    arguments = [*RADIX, "--epochs", "3", "--lr", "1e-1", "--threads", "2", "--quiet", "--resume", "--out", cut]
    assert train.main(arguments) == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--lr 0.2", "--lr: in cut it was 0.1, got 0.2"),
        ("--epochs 4", "--epochs: in cut it was 3, got 4"),
        ("--radix 2,50", "--radix: in cut it was 10,10, got 2,50"),
        ("--nesterov", "--nesterov: in cut it was not given"),
        ("--dense", "--dense"),
        ("--dataset mnist", "--dataset: in cut it was mnist-subset"),
        ("--seed 1", "--seed: in cut it was 0, got 1"),
    ],
)
def test_resume_refuses_another_run(capsys: pytest.CaptureFixture[str], cut: str, line: str, problem: str) -> None:
    before = {path.name: path.read_bytes() for path in Path(cut).iterdir()}
    assert train.main(["lenet300", *line.split(), "--resume", "--out", cut]) == 2
    assert problem in one_line(capsys)
    assert {path.name: path.read_bytes() for path in Path(cut).iterdir()} == before


def test_run_is_not_overwritten(capsys: pytest.CaptureFixture[str], cut: str) -> None:
    before = {path.name: path.read_bytes() for path in Path(cut).iterdir()}
    assert train.main([*RADIX, "--out", cut]) == 2
    assert "--resume" in one_line(capsys)
    assert {path.name: path.read_bytes() for path in Path(cut).iterdir()} == before


def test_finished_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*RADIX, "--epochs", "1", "--out", "run"]) == 0
    result = capsys.readouterr().out.splitlines()[-1]
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert train.main(["--resume", "--out", "run"]) == 0
    assert capsys.readouterr().out.splitlines() == ["the run in run is finished", result]
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_resume_without_a_checkpoint_starts_over(capsys: pytest.CaptureFixture[str], cut: str) -> None:
    Path(cut, "model.safetensors").unlink()
    assert train.main(["--resume", "--out", cut, "--quiet"]) == 0
    assert train.main([*RADIX, "--epochs", "3", "--lr", "0.1", "--out", "whole", "--quiet"]) == 0
    assert bits(cut) == bits("whole")
    Path("empty").mkdir()
    assert train.main([*RADIX, "--epochs", "3", "--lr", "0.1", "--resume", "--out", "empty", "--quiet"]) == 0
    assert bits("empty") == bits("whole")


def test_resume_with_a_broken_checkpoint(capsys: pytest.CaptureFixture[str], cut: str) -> None:
    path = Path(cut, "model.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    assert train.main(["--resume", "--out", cut]) == 2
    assert "model.safetensors: expected a safetensors file" in one_line(capsys)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"options": 3}', '{"options": {}}', '{"options": {"model": "--help"}}', "[" * 100_000,
     '{"options": {"model": "lenet300", "help": true}, "x": 1}', '{"options": {"model": "lenet300", "epochs": "many"}}',
     '{"options": {"model": "lenet300", "epochs": "3"}}', '{"options": {"model": "lenet300", "nesterov": 1}}',
     '{"options": {"model": "lenet300", "optimizer": "adam", "momentum": 0.9}}',
     '{"options": {"model": "lenet300", "radix": ' + "[" * 900 + "]" * 900 + "}}", '{"options": {"model": [[]]}}'],
)  # fmt: skip
def test_resume_with_a_strange_configuration(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text(text)
    assert train.main(["--resume", "--out", "run"]) == 2
    one_line(capsys)
    assert [path.name for path in Path("run").iterdir()] == ["config.json"]


def test_resume_from_elsewhere_with_own_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 20)).astype(np.float32), np.arange(400) % 4
    x[np.arange(400), y] += 3
    np.savez("mine.npz", x=x, y=y)
    options = ["lenet300", "--random", "--sparsity=0.8,0.9", "--dataset=mine.npz", "--epochs=3", "--batch-size=50",
               "--no-curves"]  # fmt: skip
    assert train.main([*options, "--out", "whole", "--quiet"]) == 0
    with monkeypatch.context() as patch:
        After(patch, 9, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*options, "--out", "cut"]) == 130
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert train.main(["--resume", "--out", "../cut", "--quiet", "--no-curves"]) == 0
    assert bits("../cut") == bits("../whole")
    assert evaluate.main(["../cut"]) == 0
    x[0, 0] += 1
    np.savez("../mine.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        After(patch, 9, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*options, "--out", "cut2"]) == 130
    np.savez("mine.npz", x=2 * x, y=y)
    capsys.readouterr()
    assert train.main(["--resume", "--out", "cut2", "--quiet"]) == 2
    assert "expected a checkpoint of this run" in one_line(capsys)
