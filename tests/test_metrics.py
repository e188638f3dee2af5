"""Lines of metrics: kept whole, cut where a checkpoint ends, and never in the way of memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from sparsecore.runs.checkpoint import read
from sparsecore.runs.folder import RunFolderError
from sparsecore.runs.metrics import Mark, Metrics
from sparsecore.runs.trainer import Callback, Trainer
from tests.reliability.runs import StopAt, trainer

LINES = [{"event": "epoch", "epoch": k, "loss": 0.1 + 0.2 * k} for k in range(4)]


@pytest.fixture(params=["file", "memory"])
def metrics(request: pytest.FixtureRequest, tmp_path: Path) -> Metrics:
    found = Metrics(tmp_path / "metrics.jsonl" if request.param == "file" else None)
    found.cut(Mark.after(b""))
    return found


def test_lines_are_read_again(metrics: Metrics) -> None:
    assert list(metrics) == []
    for line in LINES:
        metrics.append(line)
    assert list(metrics) == list(metrics) == LINES
    if metrics.path is not None:
        assert [json.loads(line) for line in metrics.path.read_text().splitlines()] == LINES


def test_cut_at_a_mark(metrics: Metrics) -> None:
    marks = [metrics.mark()]
    for line in LINES:
        metrics.append(line)
        marks.append(metrics.mark())
    for count in (4, 3, 1, 0):
        metrics.cut(marks[count])
        assert list(metrics) == LINES[:count]
        assert metrics.mark() == marks[count]
    metrics.append(LINES[0])
    assert metrics.mark() == marks[1]


def test_no_lines_at_all_are_no_error(metrics: Metrics) -> None:
    metrics.cut(Mark(1000, "ab"))
    assert list(metrics) == [] and metrics.mark() == Mark.after(b"")


@pytest.mark.parametrize("length", [10**30, 60, 20])
def test_other_lines_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "epoch"}\n{"event": "epoch"}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: altered since .* of sha256 ab, got .*; put it back"):
        Metrics(path).cut(Mark(length, "ab"))
    assert path.read_text() == '{"event": "epoch"}\n{"event": "epoch"}\n'


@pytest.mark.parametrize("line", ["", "3", "[]", "{}", '{"event": "epo', "[" * 100_000, "\xff"])
def test_foreign_lines(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "epoch"}\n' + line + "\n", encoding="latin-1")
    with pytest.raises(RunFolderError, match=r"line 2: expected a record of metrics, got .{,70}$"):
        list(Metrics(path))


def test_a_path_that_cannot_be_used(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for call in (lambda: metrics.cut(Mark.after(b"")), lambda: metrics.append(LINES[0]), lambda: list(metrics)):
        with pytest.raises(RunFolderError, match="cannot be used"):
            call()
    assert not list(tmp_path.iterdir())


def test_metrics_of_another_run(tmp_path: Path) -> None:
    """Before a step is taken, and with all files as they were."""
    stopped = trainer("csr", out=tmp_path, callbacks=[StopAt(6)])
    stopped.run()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("epoch", "epoca"))
    before, saved = path.read_bytes(), read(tmp_path)
    options = {"epochs": 2, "batch_size": 27, "seed": 5}
    resumed = Trainer(saved.network, stopped.dataset, stopped.optimizer, out=tmp_path, **options)
    resumed.restore(saved)
    with pytest.raises(RunFolderError, match="altered since the checkpoint was written"):
        resumed.run()
    assert resumed.done == 6 and path.read_bytes() == before
    path.unlink()
    resumed.run()
    assert [record["event"] for record in resumed.metrics] == ["epoch", "result"]


def test_memory_does_not_grow_with_epochs(tmp_path: Path) -> None:
    """A dictionary an epoch, kept and put into every checkpoint, took 600 bytes, and 1,900 while it was saved."""
    peaks: list[int] = []

    class Watch(Callback):
        def recorded(self, record: dict[str, object]) -> None:
            if record["event"] == "epoch" and record["epoch"] in (100, 200, 400):  # type: ignore[operator]
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        trainer("csr", out=tmp_path, epochs=401, save_epochs=5, callbacks=[Watch()]).run()
    finally:
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 200 < 100
