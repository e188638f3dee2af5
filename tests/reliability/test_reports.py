"""Reports and records delete what is theirs alone, say whose result it is, and fail before the work, not after it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import _package, train
from sparsecore.commands import options
from sparsecore.commands.build import build
from sparsecore.commands.recipes import resolved
from sparsecore.data import Dataset, load
from sparsecore.layers import SparseLinear
from sparsecore.network import Network
from sparsecore.prune import __main__ as prune
from sparsecore.runs.checkpoint import read, save
from sparsecore.runs.config import RunConfig
from sparsecore.runs.trainer import Callback, Trainer
from sparsecore.study import studies
from sparsecore.study.__main__ import main
from sparsecore.study.making import outcome as outcomes
from sparsecore.study.making import worker
from sparsecore.study.making.archive import read_archives
from sparsecore.study.reporting.figures import Drawing, by_sparsity, over_time
from sparsecore.study.reporting.markdown import write_markdown
from sparsecore.topology import dense
from sparsecore.training.optimizers import SGD
from tests.reliability.runs import network, trainer
from tests.study.given import DENSE, made_up, outcome, study_of

pytest.importorskip("matplotlib")


# -- a report deletes only what it wrote itself -----------------------------------------------------------------------


def test_a_report_deletes_the_pictures_of_the_one_before_and_no_others(tmp_path: Path) -> None:
    page, folder = tmp_path / "results.md", tmp_path / "results"
    folder.mkdir()
    for name in ("mine.png", "photo of me.png"):
        (folder / name).write_bytes(b"mine")
    whole = made_up()
    write_markdown(whole, page)
    assert (folder / "second.png").exists()
    page.write_text(page.read_text().replace("## Made up", "![mine](results/mine.png)\n\n## Made up"))
    section = replace(whole.sections[0], drawings=whole.sections[0].drawings[:1])
    write_markdown(replace(whole, sections=[section]), page)
    assert sorted(each.name for each in folder.iterdir()) == ["made-up.png", "mine.png", "overview.png",
                                                              "photo of me.png"]  # fmt: skip


@pytest.mark.parametrize("names", ["../mine.png", "../../mine.png second.png", "/tmp/mine.png", "mine.txt"])
def test_a_page_of_somebody_else_has_nothing_deleted(tmp_path: Path, names: str) -> None:
    page, folder = tmp_path / "results.md", tmp_path / "results"
    folder.mkdir()
    for place in (tmp_path / "mine.png", folder / "mine.png", folder / "mine.txt"):
        place.write_bytes(b"mine")
    page.write_text(
        f"# Results of the study\n\n![mine](results/mine.png)\n<!-- pictures written with this page: {names} -->\n"
    )
    write_markdown(made_up(), page)
    assert all(each.exists() for each in (tmp_path / "mine.png", folder / "mine.png", folder / "mine.txt"))


def test_a_run_that_is_made_again_deletes_its_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.safetensors", "model.safetensors.previous", "model.safetensors.mine"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr("sparsecore.prune.__main__.main", lambda arguments: 0)
    assert worker._command({"kind": "prune", "arguments": []}, tmp_path) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors.mine"]


# -- what fails after hours of work is tried first --------------------------------------------------------------------

ELSEWHERE = {"run": DENSE.seeded(0).key, "command": str(DENSE)} | asdict(outcome(0.9))


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A study of one run, in a folder of its own; `--from there.jsonl` has that run."""
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text(json.dumps(ELSEWHERE) + "\n")

    def figures(results: Any) -> list[Drawing]:
        return [Drawing("small", "A caption.", by_sparsity(results))]

    def use(**changes: Any) -> None:
        monkeypatch.setattr(studies, "STUDIES", {"small": replace(study_of(DENSE), **{"figures": figures} | changes)})

    use()
    return use


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that cannot be followed says, on one line and before any run."""
    assert main(["--quick", "--workers", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not list(Path().glob("*/runs/*"))
    return error


@pytest.mark.parametrize(
    "results", ["folder.md", "folder", "name", "out/report.html", "out/runs.csv", "out/runs.jsonl", "there.jsonl/a.md"]
)
def test_a_page_that_cannot_be_written_is_refused_before_any_run(
    study: Any, results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.md").mkdir()
    Path("folder").mkdir()
    assert "choose another" in (said := refused(capsys, "--out", "out", "--results", results)) or "results.md" in said


@pytest.mark.parametrize(
    "arguments", ["--out out --from out/runs.jsonl", "--out here --results a.md --from ./here/../a.md"]
)
def test_runs_that_are_read_are_not_written_over(
    study: Any, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may be another study's, which a report of this one does not have."""
    source = arguments.split()[-1]
    for place in (Path("here"), Path("out")):
        place.mkdir()
    Path(source).write_text(Path("there.jsonl").read_text())
    assert f"--from: {source} would be written over: copy it" in refused(capsys, *arguments.split())
    assert Path(source).read_text() == Path("there.jsonl").read_text()


def test_a_study_without_runs_on_a_data_set_is_refused(
    study: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study(points=lambda scale: [])
    assert "small: has no runs on the embedded digits" in refused(capsys, "small", "--out", "out")


def test_an_old_report_that_is_a_folder_is_refused_before_any_run(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/runs.csv").mkdir(parents=True)
    assert "expected a file to write to, got a folder" in refused(capsys, "--out", "out")


@pytest.mark.parametrize("part", ["write_page", "write_markdown"])
def test_a_report_is_drawn_and_written_on_trial(
    study: Any, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparsecore.study.reporting import trial

    def fails(*arguments: Any) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(trial, part, fails)
    assert "out: a report cannot be written there (Read-only file system)" in refused(capsys, "--out", "out")


def test_rows_are_written_before_pictures(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def figures(results: Any) -> list[Drawing]:
        raise ValueError("no picture")

    study(figures=figures)
    assert main(["--quick", "--from", "there.jsonl", "--out", "out"]) == 2
    assert capsys.readouterr().err == "python -m sparsecore.study: no picture\n"
    assert read_archives([Path("out/runs.jsonl")]).outcomes == {ELSEWHERE["run"]: outcome(0.9)}
    assert len(list(csv.DictReader(Path("out/runs.csv").read_text(encoding="utf-8").splitlines()))) == 1


def test_names_that_are_no_text_and_have_brackets_are_written(study: Any) -> None:
    out = os.fsdecode(b"my \xff (results)[1]")
    assert main(["--quick", "--from", "there.jsonl", "--out", "out", "--results", f"{out}.md"]) == 0
    text = Path(f"{out}.md").read_text(encoding="utf-8")
    assert "![A caption.](my%20%FF%20%28results%29%5B1%5D/small.png)" in text
    assert (Path(out) / "small.png").stat().st_size > 1000
    assert r"--results 'my \udcff (results)[1].md'" in text, "as a shell takes it, as far as it is text"
    assert r"my \udcff (results)" in Path("out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("flag", "name"), [("--json", ""), ("--plot", "nowhere/plot.png")])
def test_what_a_benchmark_writes_is_tried_before_it_measures(tmp_path: Path, flag: str, name: str) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "scaling", flag, str(tmp_path / name)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{flag}: expected a file in a folder that is there, got {tmp_path / name}\n"


# -- what comes from files that others wrote --------------------------------------------------------------------------

PRUNED_LINE = {"event": "prune", "epoch": 0.5, "step": 3, "accuracy_before": 0.5, "accuracy_after": 0.25,
               "layers": [{"name": "a", "sparsity": 0.5, "threshold": 0.1, "removed": 2}]}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": float("nan")}, {"accuracy": 1e300}, {"accuracy": -1}, {"accuracy": "0.9"}, {"accuracy": True},
        {"accuracy": 10**400}, {"train_accuracy": float("inf")}, {"seconds": float("nan")}, {"train_seconds": -1.0},
        {"connections": 1.5}, {"epochs": None}, {"answers": [1] * 9}, {"answers": [float("nan")] * 10},
        {"support": "0123456789"}, {"support": [0] * 10}, {"more": 1}, {"course": 3}, {"course": [3]},
        {"course": [{"event": "epoch"}]}, {"course": [{"event": "epoch", "epoch": float("nan")}]},
        {"course": [PRUNED_LINE | {"layers": 3}]}, {"course": [PRUNED_LINE | {"step": "3"}]},
        {"course": [PRUNED_LINE | {"accuracy_after": float("nan")}]}, {"course": [{"event": "result"}]},
        {"course": [PRUNED_LINE | {"layers": [PRUNED_LINE["layers"][0] | {"sparsity": None}]}]},  # type: ignore[index]
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_foreign_outcome_that_is_none_is_refused_by_its_line(
    study: Any, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.jsonl").write_text(json.dumps(ELSEWHERE) + "\n" + json.dumps(ELSEWHERE | change) + "\n")
    said = refused(capsys, "--from", "there.jsonl", "--out", "out")
    assert "there.jsonl, line 2: expected a run as a study writes it to runs.jsonl" in said
    assert not Path("out").exists()


HOSTILE = '<script>alert(1)</script><img src=x>![a](http://b/c.png)[d](javascript:e)\n# f `g` \udcff\x1b[2J $\\frac$'


def test_what_a_foreign_file_says_is_text_wherever_it_is_shown(study: Any) -> None:
    layer = PRUNED_LINE["layers"][0] | {"name": HOSTILE}  # type: ignore[index]
    course = [{"event": "epoch", "epoch": 1, "test_accuracy": 0.5}, PRUNED_LINE | {"layers": [layer]}]
    foreign = {"version": HOSTILE, "commit": HOSTILE, "machine": HOSTILE, "course": course}
    Path("there.jsonl").write_text(json.dumps(ELSEWHERE | foreign) + "\n")
    study(over_time=True, figures=lambda found: [Drawing("time", "Over time.", over_time(found, [("a", DENSE)]))])
    assert main(["--quick", "--from", "there.jsonl", "--out", "out"]) == 0
    page, text = Path("out/report.html").read_text("utf-8"), Path("out/results.md").read_text("utf-8")
    assert "<script" not in page and "<img" not in page and page.count("&lt;script&gt;") >= 3
    assert "\x1b" not in page + text and "\n# f" not in text
    assert r"\<script\>alert(1)\</script\>\<img src=x\>\!\[a\](http://b/c.png)\[d\](javascript:e) # f \`g\`" in text


# -- whose result it is -----------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *names, *words]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that has the package's file in it and does not track it yet; nothing has been read yet."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    monkeypatch.delenv("GIT_DIR", raising=False)
    package = tmp_path / "checkout" / "sparsecore"
    package.mkdir(parents=True)
    (package / "_package.py").touch()
    (tmp_path / "checkout" / "other.txt").touch()
    git(package.parent, "init")
    git(package.parent, "add", "other.txt")
    git(package, "commit", "-m", "one")
    monkeypatch.setattr(_package, "__file__", str(package / "_package.py"))
    monkeypatch.setattr(_package, "_read", {})
    return package


def test_a_repository_that_does_not_track_the_package_is_not_its_own(checkout: Path) -> None:
    assert _package.source() == {"version": _package.VERSION, "commit": "unknown"}


def test_the_commit_is_read_once_and_from_no_repository_of_the_environment(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "two")
    ours = git(checkout, "rev-parse", "--short=10", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init")
    git(other, "commit", "--allow-empty", "-m", "theirs")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert _package.source()["commit"] == ours
    git(checkout, "commit", "--allow-empty", "-m", "later")
    assert _package.source()["commit"] == ours, "what was loaded, not what the checkout is now"
    (checkout / "_package.py").write_text("changed")
    monkeypatch.setattr(_package, "_read", {})
    assert _package.source()["commit"] == git(checkout, "rev-parse", "--short=10", "HEAD") + "+"


def test_a_command_reads_the_commit_before_it_imports_the_rest() -> None:
    code = """
import sys
from sparsecore import _package, train
_package._commit = lambda: print("sparsecore.network" in sys.modules, "numpy" in sys.modules) or "abc"
train.main(["no-such-model"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def by(version: str, commit: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(_package, "_read", found := {"version": version, "commit": commit})
    return dict(found)


def test_a_run_keeps_every_version_that_made_it_and_says_where_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def begin(stop: int, checkpoint: Any = None) -> Trainer:
        made = Trainer(network("csr") if checkpoint is None else checkpoint.network, trainer("csr").dataset,
                       trainer("csr").optimizer, epochs=2, batch_size=27, seed=5, out=out,
                       config=_package.source())  # fmt: skip
        made.callbacks.append(Stop(stop))
        return made

    first, second = by("1", "abc", monkeypatch), {"version": "2", "commit": "def"}
    begin(3).run()
    assert read(out).state["source"] == first
    by(**second, monkeypatch=monkeypatch)
    resumed = begin(6, found := read(out))
    with pytest.warns(UserWarning, match=r"made by version 1, commit abc of sparsecore and goes on by version 2, com"):
        resumed.restore(found)
    resumed.run()
    state = read(out).state
    assert state["source"] == second
    assert state["changes"] == [{"epoch": 0, "batch": 3, "version": ["1", "2"], "commit": ["abc", "def"]}]
    assert state["config"] == first == json.loads((out / "config.json").read_text())
    by("2", "ghi", monkeypatch)
    resumed = begin(99, found := read(out))
    with pytest.warns(UserWarning, match=r"by commit def of sparsecore and goes on by commit ghi"):
        resumed.restore(found)
    resumed.run()
    state = read(out).state
    assert outcomes._made_by(state, "version") == "1 then 2"
    assert outcomes._made_by(state, "commit") == "abc then def then ghi"
    assert resumed.network.params.tobytes() == ran_at_once().tobytes()


class Stop(Callback):
    """Stops a run after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, trainer: Any) -> None:
        if trainer.steps_done == self.step:
            trainer.stop()


def ran_at_once() -> Any:
    made = Trainer(network("csr"), trainer("csr").dataset, trainer("csr").optimizer, epochs=2, batch_size=27, seed=5)
    made.run()
    return made.network.params


def test_the_same_version_goes_on_without_a_word(tmp_path: Path) -> None:
    made = trainer("csr", out=tmp_path / "run")
    made.callbacks.append(Stop(3))
    made.run()
    found = read(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(found.network, made.dataset, trainer("csr").optimizer, epochs=2, batch_size=27, seed=5,
                out=tmp_path / "run").restore(found)  # fmt: skip
    assert read(tmp_path / "run").state["changes"] == []


def test_a_worker_keeps_the_flags_and_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("queue.py", "numpy.py", "numba.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the current folder')")
    (tmp_path / "sparsecore").mkdir()
    (tmp_path / "sparsecore" / "__init__.py").write_text("raise SystemExit('another package')")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text("""
from pathlib import Path
from sparsecore.study.making.runner import Maker, board_of
maker = Maker(board_of([], Path("x")), Path("x"), workers=1)
worker = maker._hire()
print(*worker.args[1 : worker.args.index("-c")])
worker.stdin.close()
print(worker.wait())
""")
    flags = ["-O", "-X", "utf8", "-W", "ignore::FutureWarning"]
    command = [sys.executable, *flags, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    args, status = done.stdout.splitlines()
    assert done.stderr == ""
    assert args.replace("-B ", "") == "-O -Wignore::FutureWarning -X utf8 -P"
    assert status == "-15", "it got as far as to hear that there is no work"


# -- what is held out stays out ---------------------------------------------------------------------------------------


def outlying(path: Path) -> Dataset:
    """A file's data, with values a thousand times as large in all the samples that seed 0 holds out."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 6)).astype(np.float32), np.arange(200) % 2
    test = {"x_test": x[:20], "y_test": y[:20]}
    np.savez(path, x=x, y=y, **test)
    _, held_out = load(path).holdout(0.2, 0)
    x[(x[:, None] == held_out.x).all(axis=2).any(axis=1)] *= 1000
    np.savez(path, x=x, y=y, **test)
    return load(path)


@pytest.mark.parametrize("way", ["command", "trainer"])
def test_held_out_samples_do_not_normalise(tmp_path: Path, way: str) -> None:
    path = tmp_path / "mine.npz"
    data = outlying(path)
    if way == "command":
        whole = resolved(RunConfig(model="lenet300", dataset=str(path), epochs=1, warm_up=0.0))
        trainers = [build(replace(whole, validation=fraction)) for fraction in (0.0, 0.2)]
    else:
        trainers = [Trainer(small(), data, SGD(0.1), epochs=1, validation=fraction) for fraction in (0.0, 0.2)]
    without, held = (made.network.normalisation for made in trainers)
    assert without is not None and held is not None
    assert without.std == data.std and without.mean == data.mean and data.std[0] > 100
    assert 0.9 < held.std[0] < 1.1


def test_what_everybody_uses_for_a_set_stays(tmp_path: Path) -> None:
    data = load("mnist-subset")
    train, held_out = data.without(0.1, 0)
    assert (train.mean, train.std) == (data.mean, data.std)
    assert len(train.train) + len(held_out) == len(data.train)


def small() -> Network:
    rng = np.random.default_rng(0)
    return Network([SparseLinear(dense(2, 6), rng=rng)])


# -- JSON that strict readers take ------------------------------------------------------------------------------------


def strictly(text: str) -> Any:
    """As JavaScript, Go, jq and databases read JSON."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def outlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that train on a file whose test samples are so large that a network's outputs overflow."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 6)).astype(np.float32), np.arange(60) % 3
    np.savez("mine.npz", x=x, y=y, x_test=np.sign(x) * np.float32(1e38), y_test=y)
    words = ["lenet300", "--dataset", "mine.npz", "--epochs", "1", "--warm-up", "0", "--out", "run", "--no-curves"]
    return [*words, "--batch-size", "30"]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["lines", "quiet"])
def test_a_loss_that_is_no_number_is_null_and_said(
    outlier: list[str], quiet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*outlier, *quiet]) == 0
    said = capsys.readouterr().out.splitlines()
    told = [line for line in said if "test loss is not finite" in line]
    assert [line.split()[0] for line in told] == ([] if quiet else ["epoch"]) + ["lenet300"]
    lines = [strictly(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["test_loss"] for line in lines] == [None, None]
    assert read("run").state["run"]["result"]["test_loss"] is None
    assert train.main([*outlier, "--resume"]) == 0
    assert "test loss is not finite" in capsys.readouterr().out


def test_every_record_is_written_strictly() -> None:
    from sparsecore.runs.metrics import Metrics

    metrics = Metrics()
    metrics.append({"event": "a", "b": [float("nan"), {"c": (float("inf"), 1.5, None, "NaN")}], "d": np.float64("nan")})
    assert strictly(metrics._text().decode()) == {"event": "a", "b": [None, {"c": [None, 1.5, None, "NaN"]}], "d": None}
    assert next(iter(metrics))["d"] is None


def test_curves_are_drawn_of_what_is_null(tmp_path: Path) -> None:
    from sparsecore.runs.curves import draw

    line = {"event": "epoch", "train_loss": 1.0, "test_loss": None, "train_accuracy": 0.5}
    lines = [line | {"epoch": k} for k in (1, 2)]
    assert draw(lines, tmp_path) is not None


# -- what a command line says -----------------------------------------------------------------------------------------


def test_the_home_folder_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Any) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    shutil.move("there.jsonl", home)
    assert main(["--quick", "--from=~/there.jsonl", "--out=~/out", "--results", "~/page.md"]) == 0
    assert (home / "out" / "runs.jsonl").exists() and (home / "page.md").exists()
    line = options.read(["--out=~/run", "--from=~/a.safetensors", "--data-dir", "~/data", "--dataset=~/mine.npz"])
    assert line.out == str(home / "run")
    assert line.fields == {"start_from": str(home / "a.safetensors"), "data_dir": str(home / "data"),
                           "dataset": str(home / "mine.npz")}  # fmt: skip
    save(network("csr"), home / "net.safetensors")
    words = ["~/net.safetensors", "--sparsity", "0.5", "--out=~/pruned.safetensors"]
    assert prune.main(words) == 0 and (home / "pruned.safetensors").exists()
    assert not (tmp_path / "~").exists()
    assert options.read(["--out=./~", "--dataset=a~b.npz"])[:2] == ({"dataset": "a~b.npz"}, "./~")


def test_what_cannot_be_read_is_not_called_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", "the data")

    monkeypatch.setattr("sparsecore.commands.build.load", fails)
    assert train.main(["lenet300", "--dataset", "mnist-subset"]) == 1
    assert capsys.readouterr().err == "python -m sparsecore.train: the data: Permission denied\n"


def test_more_epochs_are_another_run_that_goes_on_from_this_one(
    outlier: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*outlier, "--quiet"]) == 0
    capsys.readouterr()
    assert train.main(["--resume", "--out", "run", "--epochs", "80"]) == 2
    assert capsys.readouterr().err == (
        "python -m sparsecore.train: --epochs: in run it was 1, got 80; leave it out, or start another run, which may "
        "go on from this one's network; try --from run\n"
    )


# -- images whose channels come last ----------------------------------------------------------------------------------


def test_a_command_says_that_it_transposes_and_asking_still_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 3, 9, 8), np.uint8), np.arange(60) % 3
    for name, images in ("first", x), ("last", x.transpose(0, 2, 3, 1)):
        np.savez(f"{name}.npz", x=images, y=y)
    words = ["lenet300", "--epochs", "1", "--warm-up", "0", "--batch-size", "24", "--no-curves"]
    for name in "first", "last":
        assert train.main([*words, "--dataset", f"{name}.npz", "--out", name]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "taken as" in line]
    assert said == ["last.npz: 48 train, 12 test (held out), 9×8×3 taken as 3×9×8"]
    network = read("last").network
    assert network.params.tobytes() == read("first").network.params.tobytes()
    with pytest.raises(ValueError, match="9×8×3"):
        network.predict(x.transpose(0, 2, 3, 1))
    assert network.predict(x.reshape(60, -1)).shape == (60,), "features are taken as they are"
