"""Event files hold what metrics.jsonl holds, also of a run that was interrupted and goes on."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsecore import train
from sparsecore.commands import tensorboard
from tests.command.given import RADIX, After, bits, one_line, records

RUN = [*RADIX, "--epochs", "3", "--quiet", "--no-curves", "--out", "run", "--tensorboard", "--save-every", "1000"]


def events(folder: str) -> Iterator[Any]:
    """Every event in a folder, by file and in order: a record is its length, that one's checksum, itself, its own."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(Path(folder, "tensorboard").iterdir()):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            yield Event.FromString(data[start + 12 : start + 12 + length])
            start += 16 + length


def drawn(folder: str) -> dict[tuple[str, int], float]:
    """What TensorBoard would draw: the points, less those that a later file takes back."""
    found: dict[tuple[str, int], float] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            found = {(name, step): value for (name, step), value in found.items() if step < event.step}
        for value in event.summary.value:
            assert (value.tag, event.step) not in found
            found[value.tag, event.step] = value.simple_value
    return found


def check(folder: str) -> None:
    found = drawn(folder)
    for record in records(folder):
        if record["event"] == "epoch":
            for tag, name in (("loss/train", "train_loss"), ("accuracy/test", "test_accuracy"), ("run/lr", "lr")):
                assert found[tag, record["epoch"]] == pytest.approx(record[name], rel=1e-6)
    assert len({step for _, step in found}) == 3


def test_epochs_are_drawn_and_bits_are_the_same() -> None:
    pytest.importorskip("tensorboardX")
    assert train.main(RUN) == 0
    check("run")
    assert train.main([*(word for word in RUN if word != "--tensorboard"), "--out", "plain"]) == 0
    assert bits("plain") == bits("run")


def test_a_run_that_goes_on_takes_back_what_came_after_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    with monkeypatch.context() as patch:
        After(patch, 100, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert train.main(RUN) == 130
    assert train.main([*RUN, "--resume"]) == 0
    check("run")
    assert len(list(Path("run/tensorboard").iterdir())) == 2


def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.main([*RADIX, "--tensorboard"]) == 2
    assert "--tensorboard: needs --out" in one_line(capsys)
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    assert train.main(RUN) == 2
    assert "pip install 'sparsecore[tensorboard]'" in one_line(capsys)
    assert not Path("run").exists()


def test_what_is_drawn_of_a_line() -> None:
    assert list(tensorboard.scalars({"event": "prune", "epoch": 0.5, "connections": 7, "sparsity": 0.5})) == [
        ("run/connections", 7.0), ("run/sparsity", 0.5),
    ]  # fmt: skip
    assert list(tensorboard.scalars({"event": "epoch", "epoch": 1, "test_loss": float("nan"), "lr": 0.5})) == [
        ("run/lr", 0.5)
    ]
    assert list(tensorboard.scalars({"event": "result", "connections": 7})) == []
