"""A sweep makes each run once, goes on where it stopped, and says which settings are best; bad files are one line."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from sparsecore.data.fingerprint import fingerprint
from sparsecore.study.making import mpi
from sparsecore.study.making.outcome import Outcome, read_outcome, write
from sparsecore.study.making.sweep import SweepError, read_sweep, sweep_of
from sparsecore.study.sweep import main

ROOT = Path(__file__).resolve().parents[2]
RUN = {"model": "lenet300", "dataset": "mnist-subset", "epochs": 1, "random": True, "hidden": [60, 30]}
TEXT = """
seeds = 2
[run]
model = "lenet300"
dataset = "mnist-subset"
epochs = 1
random = true
hidden = [60, 30]
[grid]
sparsity = [0.5, 0.9]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


# ---------------------------------------------------------------------------------------------- what it is


def test_a_grid_has_every_combination_for_every_seed() -> None:
    sweep = sweep_of({"seeds": 3, "run": RUN, "grid": {"sparsity": [0.5, 0.9], "lr": [0.1, 0.2, 0.4]}})
    assert [point.given for point in sweep.points][:2] == [{"sparsity": 0.5, "lr": 0.1}, {"sparsity": 0.5, "lr": 0.2}]
    assert len(sweep.points) == 6 and len(sweep.runs) == 18 and sweep.names == ("sparsity", "lr")
    assert sweep.points[0].title == "sparsity=0.5 lr=0.1"
    assert {run.seed for run in sweep.runs} == {0, 1, 2} and sweep.runs[0].options["sparsity"] == 0.5
    assert len({run.key for run in sweep.runs}) == 18


def test_runs_on_a_users_own_data_are_others_where_the_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same name, in a file or in a folder, and whatever the folder that it is called from."""
    monkeypatch.chdir(tmp_path)
    Path("photos/cat").mkdir(parents=True)
    files = Path("t.csv"), Path("photos/cat/a.png")

    def keys(number: int) -> set[str]:
        run = {"model": "lenet300", "epochs": 1}
        sweep = sweep_of({"run": run, "grid": {"dataset": ["t.csv", "photos"]}})
        assert len({run.key for run in sweep.runs}) == number
        return {run.key for run in sweep.runs}

    for file in files:
        file.write_text("a,b\n1,2\n")
    first = keys(2)
    os.utime(files[0])
    assert keys(2) == first
    files[0].write_text("a,b\n1,3\n")
    second = keys(2)
    assert len(second & first) == 1
    files[1].rename("photos/cat/b.png")
    assert len(keys(2) & first) == 0
    before = keys(2)
    for file in ("x.npy", "runs/s/x.npy", "runs/s/picture.png", "photos/notes.txt"):  # a sweep may write where data are
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(b"1")
    assert keys(2) == before and fingerprint(".") == fingerprint(str(tmp_path)) != ""
    whole = fingerprint(".")
    Path("runs/s/another.npy").write_bytes(b"1")
    assert fingerprint(".") == whole
    monkeypatch.setattr("sparsecore.data.fingerprint.WHOLE", 1)  # a large file is told by its size and its time
    third = keys(2)
    os.utime(files[0], ns=(1, 1))
    assert len(keys(2) & third) == 1
    assert {run.data for run in sweep_of({"run": RUN, "grid": {"sparsity": [0.5]}}).runs} == {""}


def test_draws_are_within_their_ends_and_stay_when_there_are_more() -> None:
    rules = {
        "lr": {"from": 0.01, "to": 0.3, "log": True}, "sparsity": {"from": 0.5, "to": 0.98}, "batch_size": [32, 64],
        "warm_up": {"from": 0, "to": 1}, "augment": ["none", "1"],
    }  # fmt: skip
    few, many = (sweep_of({"draws": k, "seed": 4, "run": RUN, "random": rules}).points for k in (5, 400))
    assert [point.given for point in many[:5]] == [point.given for point in few]
    found = {name: [point.given[name] for point in many] for name in rules}
    assert min(found["lr"]) >= 0.01 and max(found["lr"]) <= 0.3
    assert 0.4 < sum(lr < (0.01 * 0.3) ** 0.5 for lr in found["lr"]) / 400 < 0.6, "evenly in the logarithm"
    assert 0.4 < sum(sparsity < 0.74 for sparsity in found["sparsity"]) / 400 < 0.6
    assert set(found["batch_size"]) == {32, 64} and set(found["warm_up"]) == {0, 1}
    other = sweep_of({"draws": 5, "seed": 5, "run": RUN, "random": rules}).points
    assert [point.given for point in other] != [point.given for point in few]


def test_the_data_set_is_the_recipes_if_none_is_named() -> None:
    sweep = sweep_of({"run": {"model": "lenet300"}, "grid": {"lr": [0.1]}})
    assert sweep.runs[0].dataset == "mnist"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "expected a table grid or random with what varies, got none"),
        ({"gird": {}}, "gird: expected one of run, grid, random, seeds, draws, seed; did you mean grid?"),
        ({"grid": 3}, "grid: expected a table, got 3"),
        ({"run": RUN, "grid": {"sparsty": [1]}}, "grid.sparsty: no such field of a run; did you mean sparsity?"),
        ({"run": RUN, "grid": {"loss": ["mse"]}}, "loss: expected it in run, the same for all"),
        ({"run": RUN, "draws": 1, "random": {"loss": ["mse"]}}, "loss: expected it in run, the same for all"),
        ({"run": RUN, "grid": {"lr": 0.1}}, "lr: expected a list of values, got 0.1"),
        ({"run": RUN, "grid": {"lr": []}}, "lr: expected a list of values, got []"),
        ({"run": RUN, "grid": {"epochs": [1]}}, "epochs: expected it to be in run, or to vary, got both"),
        ({"run": RUN, "grid": {"lr": [0.1]}, "random": {"lr": [0.1]}, "draws": 1}, "lr: expected it in grid or"),
        ({"run": RUN, "random": {"lr": [0.1]}}, "random: expected a table of that name and draws, how many of"),
        ({"run": RUN, "grid": {"lr": [0.1]}, "draws": 3}, "random: expected a table of that name and draws"),
        ({"run": RUN, "draws": 0, "random": {"lr": [1]}}, "draws: expected a whole number from 1 to 100000, got 0"),
        ({"run": RUN, "seeds": "2", "grid": {"lr": [1]}}, "seeds: expected a whole number from 1 to 256, got '2'"),
        ({"run": RUN, "seeds": True, "grid": {"lr": [1]}}, "seeds: expected a whole number from 1 to 256, got True"),
        ({"run": RUN, "draws": 1, "random": {"lr": {"from": 1}}}, "lr: expected a list, or ends such as { from"),
        ({"run": RUN, "draws": 1, "random": {"lr": {"from": 2, "to": 1}}}, "lr: expected from < to, got from 2 to 1"),
        ({"run": RUN, "draws": 1, "random": {"lr": {"from": 0, "to": 1, "log": True}}}, "lr: expected 0 < from < to"),
        ({"run": RUN, "grid": {"sparsity": [0.5, 1.5]}}, "expected a fraction removed, at least 0 and below 1"),
        ({"run": RUN, "grid": {"sparsity": [0.5, 1.5]}}, "(sparsity = 1.5)"),
        ({"run": RUN | {"model": "lenet9", "sparsity": 0.5}, "grid": {"lr": [0.1]}}, "expected a model, one of"),
        ({"run": RUN | {"seed": 3, "sparsity": 0.5}, "grid": {"lr": [0.1]}}, "seed: expected seeds, how many to make"),
        ({"run": RUN, "seeds": 256, "grid": {"lr": [0.1] * 400}}, "expected at most 100,000 runs, got 102,400"),
    ],
)  # fmt: skip
def test_what_is_no_sweep_is_one_line(found: Any, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        sweep_of(found)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read (No such file"), (b"[run", "expected TOML, could not"), (b"\xff", "expected TOML, could")],
)
def test_a_file_that_is_none_is_one_line(content: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    if content is not None:
        (tmp_path / "a.toml").write_bytes(content)
    assert main([str(tmp_path / "a.toml")]) == 2
    said = capsys.readouterr().err
    assert f"python -m sparsecore.sweep: {tmp_path}/a.toml: {message}" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: FILE"),
        (["small.toml", "--workers", "0"], "expected a whole number from 1 to 256, or mpi, such as 2, got '0'"),
        (["small.toml", "--workers", "mpi"], "--workers mpi: needs mpi4py, not installed here: pip install"),
        (["small.toml", "--out", "small.toml"], "small.toml: cannot be made a folder"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_followed(
    words: list[str], message: str, file: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpi, "find_spec", lambda name: None)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


# ---------------------------------------------------------------------------------------------- what it does


def table(out: Path) -> list[dict[str, str]]:
    with (out / "sweep.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_runs_are_made_once_and_the_table_is_best_first(file: Path, capsys: Any) -> None:
    assert main([str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 runs to make, 0 are there"
    assert not Path("runs").exists()
    assert main([str(file), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "4 runs to make, 0 are there, in runs/small" in said and "4/4" in said
    rows = table(Path("runs/small"))
    accuracies = [float(row["accuracy"]) for row in rows]
    assert {row["sparsity"] for row in rows} == {"0.5", "0.9"} and accuracies == sorted(accuracies, reverse=True)
    assert [row["runs"] for row in rows] == ["2", "2"] and all(0.2 < each < 1 for each in accuracies)
    folders = sorted(path.name for path in Path("runs/small/runs").iterdir())
    assert folders == sorted(run.key for run in read_sweep(file).runs)
    outcomes = [json.loads((Path("runs/small/runs") / name / "outcome.json").read_text()) for name in folders]
    assert sum(accuracies) == pytest.approx(sum(each["accuracy"] for each in outcomes) / 2)

    file.write_text(TEXT.replace("0.9]", "0.9, 0.95]").replace("seeds = 2", "seeds = 1"))
    assert main([str(file)]) == 0
    assert "1 runs to make, 2 are there" in capsys.readouterr().out
    assert len(table(Path("runs/small"))) == 3


def test_a_stopped_sweep_goes_on_with_the_same_bits(file: Path) -> None:
    file.write_text(TEXT.replace("epochs = 1", "epochs = 40").replace("seeds = 2", "seeds = 1").replace(", 0.9]", "]"))
    command = [sys.executable, "-m", "sparsecore.sweep", str(file), "--workers", "1"]
    (run,) = read_sweep(file).runs
    began = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = Path("runs/small/runs") / run.key / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count('"epoch"') > 3) and time.monotonic() < until:
        time.sleep(0.05)
    began.send_signal(signal.SIGINT)
    assert began.stderr is not None
    said = began.stderr.read()
    assert began.wait() == 130 and "stopped; 1 runs are left; the same command goes on" in said
    assert main([str(file)]) == 0
    assert main([str(file), "--out", "whole"]) == 0
    one, other = ((Path(out) / "runs" / run.key / "model.safetensors") for out in ("runs/small", "whole"))
    from sparsecore.runs.checkpoint import load

    assert load(one).params.tobytes() == load(other).params.tobytes()


def test_a_run_that_fails_is_named_and_stops_no_other(file: Path, capsys: Any) -> None:
    text = TEXT.replace("sparsity = [0.5, 0.9]", "sparsity = [0.5]\nlr = [0.1, 1e30]")
    file.write_text(text.replace("seeds = 2", "seeds = 1"))
    assert main([str(file), "--workers", "1"]) == 1
    found = capsys.readouterr()
    assert re.search(r"failed: sparsity=0.5 lr=1e\+30 seed 0 \(runs/small/runs/\w+\): .*diverged", found.err)
    assert [row["lr"] for row in table(Path("runs/small"))] == ["0.1"]


def test_mpi_makes_the_same_runs(file: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for mpi4py's pool, which has the interface of Python's own."""
    file.write_text(TEXT.replace("seeds = 2", "seeds = 1"))
    jobs: list[dict[str, Any]] = []

    def made(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append(job)
        code = "import sys, json; from sparsecore.study.making.worker import made"
        code += "; json.dump(made(json.load(sys.stdin)), sys.stdout)"
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(job), capture_output=True, text=True, check=True
        )  # fmt: skip
        return dict(json.loads(done.stdout))

    futures = types.ModuleType("mpi4py.futures")
    futures.MPIPoolExecutor = lambda: ThreadPoolExecutor(2)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpi4py", types.ModuleType("mpi4py"))
    monkeypatch.setitem(sys.modules, "mpi4py.futures", futures)
    monkeypatch.setattr(mpi, "find_spec", lambda name: name)
    monkeypatch.setattr(mpi, "made", made)
    assert main([str(file), "--workers", "mpi", "--out", "spread"]) == 0
    assert main([str(file), "--workers", "2", "--out", "here"]) == 0
    assert len(jobs) == 2

    def rows(out: str) -> list[dict[str, str]]:
        return [{name: text for name, text in row.items() if name != "seconds"} for row in table(Path(out))]

    assert rows("spread") == rows("here")
    assert main([str(file), "--workers", "mpi", "--out", "spread"]) == 0
    assert len(jobs) == 2, "what is there is not made again"


def test_the_best_points_are_compared_on_a_page(file: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the room's own comparison: one run of each point under its title, best first."""

    class Run(NamedTuple):
        name: str

    pages: list[Any] = []
    module = types.ModuleType("sparsecore.commands.compare")
    module.run_in = Run  # type: ignore[attr-defined]
    module.write_page = lambda runs, page: pages.append((runs, page))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sparsecore.commands.compare", module)
    assert main([str(file), "--workers", "2"]) == 0
    ((runs, page),) = pages
    assert page == Path("runs/small/compare.html") and capsys.readouterr().out.splitlines()[-1] == str(page)
    assert [run.name for run in runs] == [f"sparsity={row['sparsity']}" for row in table(Path("runs/small"))]


def test_a_job_leaves_the_streams_of_its_process_alone(tmp_path: Path) -> None:
    job = {"kind": "train", "folder": str(tmp_path / "run"), "arguments": ["--", "nothing"], "data_dir": None}
    code = f"from sparsecore.study.making.worker import made; import json; print(json.dumps(made({job!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"status": 2, "why": "python -m sparsecore.train: expected a model')
    assert done.stderr == ""


NUMBERS = """
[run]
model = "mlp"
dataset = "houses.csv"
target = "price"
loss = "mse"
epochs = 8
hidden = [8]
[grid]
lr = [1e-6, 0.05]
"""


@pytest.fixture
def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    np.savetxt("houses.csv", np.column_stack([x, x @ [3, -2, 1] + 7]), delimiter=",", header="a,b,c,price", comments="")
    path = tmp_path / "numbers.toml"
    path.write_text(NUMBERS)
    return path


def test_runs_that_tell_numbers_are_compared_by_r2_the_highest_first(houses: Path, capsys: Any) -> None:
    assert main([str(houses), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "R² of the test split, the highest first" in said and re.search(r"lr=0.05 seed \d  R² 0\.[89]\d{3}  ", said)
    rows = table(Path("runs/numbers"))
    assert [row["lr"] for row in rows] == ["0.05", "1e-06"] and list(rows[0])[:4] == ["lr", "r2", "deviation", "runs"]
    assert float(rows[0]["r2"]) > 0.8 > 0.1 > float(rows[1]["r2"]) and rows[0]["lost"] == "0"
    for run in read_sweep(houses).runs:
        folder = Path("runs/numbers/runs") / run.key
        result = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        outcome = read_outcome(folder)
        assert outcome is not None and outcome.r2 == result["test_r2"] == outcome.score and outcome.dead == ()
    if find_spec("matplotlib") and find_spec("jinja2"):
        page = Path("runs/numbers/compare.html").read_text(encoding="utf-8")
        assert "test R²" in page and "test accuracy" not in page
    assert main([str(houses), "--workers", "2"]) == 0 and "0 runs to make, 2 are there" in capsys.readouterr().out


def test_a_table_without_its_target_is_said_before_any_run(houses: Path, capsys: Any) -> None:
    houses.write_text(NUMBERS.replace('target = "price"', ""))
    assert main([str(houses)]) == 2
    said = capsys.readouterr().err
    assert "expected a column to be told, one of a, b, c, price, got no --target" in said and said.count("\n") == 1


@pytest.mark.parametrize(("change", "good"), [
    ({}, True), ({"r2": -3e4}, True), ({"r2": 1.1}, False), ({"r2": None}, False), ({"r2": float("nan")}, False),
    ({"answers": [1], "support": [1]}, False),
])
def test_an_outcome_of_numbers_is_read_as_it_was_written(change: dict[str, Any], good: bool, tmp_path: Path) -> None:
    about: Any = {
        "accuracy": 0.0, "train_accuracy": None, "connections": 3, "sparsity": 0.0, "global_sparsity": 0.0, "epochs": 1,
        "train_seconds": 1.0, "step_ms": 1.0, "seconds": 1.0, "answers": (), "support": (), "version": "1",
        "commit": "a", "machine": "b", "r2": 0.1 + 0.2,
    }  # fmt: skip
    write(tmp_path, Outcome(**about))
    assert read_outcome(tmp_path) == Outcome(**about)
    (tmp_path / "outcome.json").write_text(json.dumps(json.loads((tmp_path / "outcome.json").read_text()) | change))
    assert (read_outcome(tmp_path) is not None) == good


def test_the_pages_files_are_sweeps() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.DOTALL)
    import tomllib

    sizes = [len(sweep_of(tomllib.loads(block)).runs) for block in blocks]
    assert sizes == [18, 20]
