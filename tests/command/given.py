"""What the tests of the command share: a run to call, what it left, how it is stopped on its way."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsecore.runs.checkpoint import read
from sparsecore.training.step import Step

ROOT = Path(__file__).resolve().parents[2]
RADIX = ["lenet300", "--radix", "10,10", "--dataset", "mnist-subset"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sparsecore.train", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


def bits(folder: Path | str) -> tuple[Any, ...]:
    """What a run in a folder learned and said."""
    saved = read(folder)
    said = [
        {key: record[key] for key in record if "seconds" not in key and key != "step_ms"}
        for record in records(folder)
    ]
    return saved.network.params.tobytes(), saved.velocity.tobytes(), said


def records(folder: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def one_line(capsys: pytest.CaptureFixture[str], program: str = "python -m sparsecore.train") -> str:
    err = capsys.readouterr().err
    assert err.startswith(f"{program}: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert len(err) < 500
    assert "Traceback" not in err
    return err


class After:
    """Raises a signal after so many training steps: `Step.run` is called for evaluations too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int, do: Callable[[], None]) -> None:
        real = Step.run

        def run(step: Step, start: int, batch: int) -> None:
            nonlocal steps
            real(step, start, batch)
            steps -= step.optimizer is not None
            if steps == 0:
                steps = -1
                do()

        monkeypatch.setattr(Step, "run", run)
