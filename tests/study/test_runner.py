"""Making runs: once, in order, over processes, through failures, signals and kills."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sparsecore.study import studies
from sparsecore.study.__main__ import main
from sparsecore.study.making.archive import read_archives
from sparsecore.study.making.cost import seconds_of
from sparsecore.study.making.outcome import read_outcome, write
from sparsecore.study.making.run import Run, prune, train
from sparsecore.study.making.runner import board_of
from sparsecore.study.making.scale import quick
from sparsecore.study.reporting.study import Study
from tests.study.given import DENSE, PRUNED, RECIPE, RETRAINED, outcome, study_of

pytest.importorskip("matplotlib")


def test_runs_that_are_elsewhere_are_not_made_again_but_where_their_network_is_needed(tmp_path: Path) -> None:
    there = {run.key: outcome(0.9) for run in (DENSE, RETRAINED)}
    board = board_of([DENSE, RETRAINED], tmp_path, there)
    assert not board.waiting and set(board.finished) == set(there)
    board = board_of([DENSE, PRUNED, RETRAINED], tmp_path, there)
    assert set(board.waiting) == {DENSE, PRUNED} and set(board.finished) == {RETRAINED.key}
    (tmp_path / DENSE.key).mkdir()
    write(tmp_path / DENSE.key, outcome(0.9))
    assert board_of([DENSE, PRUNED, RETRAINED], tmp_path, there).waiting == [PRUNED]


def test_runs_that_were_begun_come_first_and_then_the_longest(tmp_path: Path) -> None:
    first, second, third = (quick().nets[0].dense(epochs=epochs) for epochs in (9, 5, 1))
    assert board_of([second, third, first], tmp_path).waiting == [first, second, third]
    (tmp_path / third.key).mkdir()
    (tmp_path / third.key / "metrics.jsonl").touch()
    assert board_of([second, third, first], tmp_path).waiting == [third, first, second]


def use(monkeypatch: pytest.MonkeyPatch, study: Study) -> None:
    """Let the command know this study alone."""
    monkeypatch.setattr(studies, "STUDIES", {study.name: study})


SCRIPT = """
import sys
from tests.study.test_runner import long_runs, main, studies, study_of
studies.STUDIES = {"small": study_of(*long_runs())}
sys.exit(main(["--quick", "--out", sys.argv[1], "--workers", "2"]))
"""


def long_runs() -> list[Run]:
    """Two that take seconds, so that they can be killed under way, and one that comes after."""
    longer = [train("lenet300", "mnist-subset", RECIPE | {"epochs": 12, "lr": lr}, dense=True) for lr in (0.1, 0.05)]
    return [*longer, prune(longer[0], sparsity="0.9")]


def begin(out: Path) -> subprocess.Popen[str]:
    """A study of `long_runs` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)], cwd=Path(__file__).parents[2], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_epochs(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until runs have come so far."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if sum(path.read_text().count("\n") for path in out.glob("runs/*/metrics.jsonl")) >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the runs did not begin")


class Quick(NamedTuple):
    """`--quick` as a user runs it: stopped by a signal on its way, then to its end; what it said, and what it took.

    `seconds` are those of two cores that do nothing else: half of what all processes had of one.
    """

    out: Path
    refused: str
    stopped: tuple[int, str, str]
    finished: tuple[int, str, str]
    seconds: float


@pytest.fixture(scope="module")
def quickly(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    out, begun = tmp_path_factory.mktemp("quick") / "out", os.times()
    command = [sys.executable, "-m", "sparsecore.study", "--quick", "--workers", "2", "--out", str(out)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
    while len(list(out.glob("runs/*/outcome.json"))) < 6 and process.poll() is None:
        time.sleep(0.02)
    refused = subprocess.run([*command, "where"], **pipes).stderr
    process.terminate()
    said = process.communicate(timeout=120)
    again = subprocess.run(command, **pipes)
    ended = os.times()
    seconds = (ended.children_user - begun.children_user + ended.children_system - begun.children_system) / 2
    return Quick(out, refused, (process.returncode, *said), (again.returncode, again.stdout, again.stderr), seconds)


def test_quick_runs_take_less_than_three_minutes(quickly: Quick) -> None:
    status, out, error = quickly.finished
    assert (status, error) == (0, "")
    assert quickly.seconds < 180
    for name in ("report.html", "results.md", "runs.csv", "runs.jsonl"):
        assert str(quickly.out / name) in out and (quickly.out / name).stat().st_size > 5000


def test_a_signal_stops_it_in_order_and_nothing_is_lost(quickly: Quick) -> None:
    status, out, error = quickly.stopped
    assert status == 143 and error.count("\n") == 1 and "stopped; about" in error
    assert "results.md" in out, "what there is is reported"
    made = int(re.search(r"^(\d+) runs made in", out, re.MULTILINE)[1])  # type: ignore[index]
    left, there = map(int, re.search(r"^(\d+) runs to make, (\d+) more are there", quickly.finished[1]).groups())  # type: ignore[union-attr]
    assert made == there >= 6 and left + there == len(list(quickly.out.glob("runs/*")))


def test_two_studies_do_not_work_in_one_folder(quickly: Quick) -> None:
    assert "another study is at work there" in quickly.refused and quickly.refused.count("\n") == 1


def test_quick_runs_learn_and_none_but_the_slides_own_lose_classes(quickly: Quick) -> None:
    net = quick().nets[0]
    found = read_archives([quickly.out / "runs.jsonl"]).outcomes
    assert len(found) == len({run.key for study in studies.STUDIES.values() for point in study.points(quick())
                              for seed in range(study.seeds) for run in (*point.run.seeded(seed).sources(),
                                                                         point.run.seeded(seed))})  # fmt: skip
    runs = [net.dense(), net.one_time(90), net.retrained(net.one_time(90)), net.iterative(90), net.radix((10, 10))]
    dense, pruned, retrained, iterative, radix = (found[run.seeded(0).key] for run in runs)
    assert all(each.accuracy > 0.92 and sum(each.support) == sum(each.answers) == 2000
               for each in (dense, retrained, iterative, radix))  # fmt: skip
    assert pruned.connections == retrained.connections == iterative.connections == radix.connections == 27_520
    assert pruned.train_accuracy is None and pruned.accuracy < retrained.accuracy
    with (quickly.out / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["study"] for row in rows} == set(studies.STUDIES)
    lost = {row["command"] for row in rows if row["dead_classes"]}
    assert all("--relu-logits" in each or "sparsecore.prune" in each for each in lost)


def test_runs_are_made_once_and_reported_from_their_file_elsewhere(
    quickly: Quick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (quickly.out / "runs").rglob("*")}
    here = ["where", "--quick", "--out", str(quickly.out)]
    assert main([*here, "--dry-run"]) == 0
    there = ["where", "--quick", "--out", str(tmp_path / "other"), "--from", str(quickly.out / "runs.jsonl")]
    for command in (here, there):
        assert main(command) == 0
        assert "0 runs to make, 6 more are there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (quickly.out / "runs").rglob("*")} == before
    assert not list((tmp_path / "other" / "runs").iterdir())
    for name in ("runs.csv", "runs.jsonl", "results/where.png"):
        assert (tmp_path / "other" / name).read_bytes() == (quickly.out / name).read_bytes()


def test_a_failure_is_named_and_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = train("lenet300", "mnist-subset", RECIPE | {"lr": 1e30}, dense=True)
    use(monkeypatch, study_of(wild, prune(prune(wild, sparsity="0.9"), sparsity="0.95"), DENSE))
    assert main(["--quick", "--out", str(tmp_path), "--workers", "1"]) == 1
    out, error = capsys.readouterr()
    lines = error.splitlines()
    assert len(lines) == 3 and "Traceback" not in error
    assert f"digits, runs, 0, seed 0 ({tmp_path / 'runs' / wild.seeded(0).key})" in lines[0] and "diverged" in lines[0]
    assert all("its source failed" in line for line in lines[1:])
    assert "FAILED" in out and "diverged" in (tmp_path / "results.md").read_text()
    assert read_outcome(tmp_path / "runs" / DENSE.seeded(0).key) is not None


def test_workers_of_several_threads_make_the_same_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, study_of(DENSE))
    folders = []
    for threads in ("1", "2"):
        out = tmp_path / threads
        assert main(["--quick", "--out", str(out), "--workers", "1", "--threads", threads]) == 0
        folders.append(out / "runs" / DENSE.seeded(0).key)
        assert json.loads((folders[-1] / "config.json").read_text())["options"]["threads"] == int(threads)
    assert weights(folders[0] / "model.safetensors") == weights(folders[1] / "model.safetensors")
    capsys.readouterr()
    assert main(["--quick", "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err


def test_killed_at_any_time_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert begin(whole).wait(120) == 0
    out = tmp_path / "killed"
    for epochs in (3, 9):
        process = begin(out)
        wait_for_epochs(out, epochs, process)
        os.kill(process.pid, signal.SIGKILL)  # the study alone: its workers notice, save and leave
        process.communicate()
        with (out / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits until the last worker has saved
        assert not [log for log in (out / "runs").glob("*/log.txt") if "Traceback" in log.read_text()]
    process = begin(out)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    for run in long_runs():
        key = run.seeded(0).key
        there, wanted = read_outcome(out / "runs" / key), read_outcome(whole / "runs" / key)
        assert there is not None and wanted is not None
        assert (there.accuracy, there.answers) == (wanted.accuracy, wanted.answers)
        models = [(place / "runs" / key / "model.safetensors") for place in (out, whole)]
        assert weights(models[0]) == weights(models[1])


def weights(path: Path) -> bytes:
    from sparsecore.runs.checkpoint import read

    return bytes(read(path).network.params.tobytes())


def test_runs_are_told_the_seconds_that_they_had_of_a_core(tmp_path: Path) -> None:
    """As on a machine that others use: half of the time of each step is theirs."""
    job = {"kind": "train", "folder": str(tmp_path), "arguments": DENSE.arguments(tmp_path)}
    command = [sys.executable, "-c", WAITING.format(job=job)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True)
    found = read_outcome(tmp_path)
    assert found is not None and float(done.stdout) > 1
    assert 0 < found.train_seconds < found.seconds
    assert found.train_seconds < float(done.stdout)


WAITING = """
import time
from sparsecore.study.making.worker import made
from sparsecore.training.step import Step

waited, run = 0.0, Step.run

def waits(*given):
    global waited
    begin = time.monotonic()
    time.sleep(0.02)
    waited += time.monotonic() - begin
    run(*given)

Step.run = waits
made({job!r})
print(waited)
"""


def test_a_worker_that_is_killed_fails_its_run_alone(tmp_path: Path) -> None:
    process = begin(tmp_path)
    wait_for_epochs(tmp_path, 3, process)
    listed = subprocess.run(["ps", "-wwo", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    if listed.returncode:
        process.terminate()
        process.communicate()
        pytest.skip("ps cannot list a process's children here")
    listing = listed.stdout.splitlines()
    worker = next(int(line.split()[0]) for line in listing if "sparsecore.study.making.worker" in line)
    os.kill(worker, signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "its process was ended by signal 9" in error
    assert begin(tmp_path).wait(120) == 0, "the same command makes it good"


def test_sources_come_first_and_long_chains_early(tmp_path: Path) -> None:
    board = board_of([run.seeded(0) for run in (RETRAINED, DENSE, PRUNED)], tmp_path)
    assert len(board.waiting) == 3
    first = board.ready()
    assert first == DENSE.seeded(0) and board.ready() is None
    board.finished[first.key] = outcome(0.9)
    assert board.ready() == PRUNED.seeded(0) and board.ready() is None
    lengths = [seconds_of(each) for each in sorted(board.waiting, key=seconds_of)]
    assert all(a <= b for a, b in pairwise(lengths))


@pytest.mark.parametrize("arguments", [["bogus"], ["--quick", "--dataset", "mnist"], ["--seeds", "0"]])
def test_commands_that_cannot_be_followed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error


def test_packages_that_are_missing_are_said_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sparsecore.study.__main__.find_spec", lambda name: None)
    assert main(["--quick", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "needs matplotlib and jinja2" in error and "sparsecore[plot]" in error and error.count("\n") == 1


@pytest.mark.parametrize("option", [["--out", "file"], ["--out", "o", "--results", "file/results.md"]])
def test_a_place_that_cannot_be_written_is_said_before_any_run(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["where", "--quick", *option]) == 2
    error = capsys.readouterr().err
    assert "choose another --out or --results" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("o/runs/*"))


def test_a_missing_data_set_is_said_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSECORE_DATA_DIR", str(tmp_path / "empty"))
    assert main(["--dataset", "cifar10", "--out", str(tmp_path / "out")]) == 2
    assert "python -m sparsecore.data fetch cifar10" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
