"""What is kept of runs in files: written and read again, refused when it is not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsecore.study.__main__ import main
from sparsecore.study.making.archive import Archive, course_of, read_archives, write_archive
from sparsecore.study.making.outcome import read_outcome, write
from tests.study.given import DENSE, RETRAINED, outcome


def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    for name, problem in ("nowhere", "(No such file"), ("empty", "holds no runs"), ("", "got a folder"):
        assert main(["--from", str(tmp_path / name), "--dry-run"]) == 2
        error = capsys.readouterr().err
        assert problem in error and "runs.jsonl" in error and error.count("\n") == 1


def test_outcomes_in_a_file_are_those_that_were_written(tmp_path: Path) -> None:
    runs = [RETRAINED.seeded(seed) for seed in (0, 1, 1)]
    layer = {"name": "a 1→2", "sparsity": 0.5, "threshold": 0.1, "removed": 2}
    course = [{"event": "prune", "epoch": 0.5, "step": 3, "accuracy_before": 0.5, "accuracy_after": 0.25,
               "layers": [layer]}]  # fmt: skip
    outcomes = {run.key: outcome(0.9 + 0.01 * k, lost=[k]) for k, run in enumerate(runs)} | {"another": outcome(0.1)}
    write_archive(tmp_path / "all.jsonl", runs, Archive(outcomes, {runs[0].key: course}))
    read = read_archives([tmp_path / "all.jsonl"])
    assert read == ({run.key: outcomes[run.key] for run in runs}, {runs[0].key: course})
    write_archive(tmp_path / "one.jsonl", runs[:1], Archive(outcomes, {}))
    both = read_archives([tmp_path / "one.jsonl", tmp_path / "all.jsonl"])
    assert both == read, "files add up"
    assert str(runs[0]) in (tmp_path / "all.jsonl").read_text().replace('\\"', '"')


@pytest.mark.parametrize("line", ["", "{", "[]", '{"run": "a", "command": "b"}', '"text"', "\0"])
def test_a_file_that_holds_no_outcomes_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    write_archive(path, [DENSE], Archive({DENSE.key: outcome(0.9)}, {}))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"runs.jsonl, line 2: expected a run"):
        read_archives([path])
    assert main(["--from", str(path), "--dry-run"]) == 2


def test_courses_keep_what_is_drawn(tmp_path: Path) -> None:
    layer = {"layer": 0, "name": "a", "threshold": 0.123456789, "removed": 3, "connections": 9, "sparsity": 0.25}
    lines = [{"event": "epoch", "epoch": 1, "train_loss": 2.0, "test_accuracy": 0.5}, {"event": "result"},
             {"event": "prune", "epoch": 0.5, "step": 7, "accuracy_before": 0.5, "accuracy_after": 0.25,
              "layers": [layer]}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = course_of(tmp_path)
    assert first == {"event": "epoch", "epoch": 1, "test_accuracy": 0.5}
    assert second["layers"] == [{"name": "a", "sparsity": 0.25, "threshold": 0.123457, "removed": 3}]
    assert course_of(tmp_path / "nowhere") == []


def test_an_outcome_that_is_not_whole_counts_as_none(tmp_path: Path) -> None:
    write(tmp_path, outcome(0.97))
    assert read_outcome(tmp_path) == outcome(0.97)
    whole = (tmp_path / "outcome.json").read_text()
    for broken in (whole[:50], "", "[]", json.dumps({"accuracy": 1})):
        (tmp_path / "outcome.json").write_text(broken)
        assert read_outcome(tmp_path) is None
