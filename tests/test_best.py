"""The best epoch by the validation split: kept beside the last, asked for by --best, the same after a resume."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsecore
from sparsecore import RunConfig, evaluate
from sparsecore.inspect.__main__ import main as inspect
from sparsecore.runs.checkpoint import CheckpointError, read
from sparsecore.runs.config import ConfigError
from sparsecore.runs.folder import RunFolderError
from sparsecore.runs.recorder import Recorder
from sparsecore.runs.trainer import Callback
from sparsecore.training.best import NAME, Best, best_of
from sparsecore.training.state import RunState

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 8)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] * X[:, 2] + RNG.standard_normal(300) > 0).astype(int)  # noise enough to be overfitted
CONFIG: dict[str, Any] = {"model": "mlp", "hidden": (40,), "dataset": "data.npz", "epochs": 12, "batch_size": 32,
                          "lr": 0.2, "validation": 0.3, "threads": 1, "save_every": 1e6}  # fmt: skip


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=X, y=Y)


def epochs(folder: str) -> list[dict[str, Any]]:
    return [each for each in map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
            if each["event"] == "epoch"]  # fmt: skip


def winner(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The first of the best: by accuracy, then by loss."""
    return max(records, key=lambda each: (each["validation_accuracy"], -each["validation_loss"], -each["epoch"]))


class KeepEach(Callback):
    """Every epoch's parameters."""

    def __init__(self) -> None:
        self.params: dict[int, Any] = {}

    def started(self, trainer: Any) -> None:
        self.trainer = trainer

    def recorded(self, record: dict[str, Any]) -> None:
        if record["event"] == "epoch":
            self.params[record["epoch"]] = self.trainer.network.params.copy()


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, loop: Any) -> None:
        if loop.steps_done == self.step:
            loop.stop()


def test_the_best_epoch_is_kept_beside_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    each = KeepEach()
    done = sparsecore.run(RunConfig(**CONFIG), out="run", callbacks=[each])
    best, last = read("run", best=True), read("run")
    wanted = winner(epochs("run"))
    assert wanted["epoch"] < 12, "the last epoch must not be the best, or this test shows nothing"
    assert best.state[NAME]["epoch"] == wanted["epoch"] and done.state.result is not None
    assert done.state.result[NAME] == best_of(done.state) == best.state[NAME]
    assert np.array_equal(best.network.params, each.params[wanted["epoch"]])
    assert np.array_equal(last.network.params, each.params[12])
    assert best.network.normalisation == last.network.normalisation
    at_end = done.state.result["test_accuracy"]
    for words, accuracy in ((["run", "--best"], wanted["test_accuracy"]), (["run"], at_end)):
        assert evaluate.main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["test_accuracy"] == accuracy
    assert inspect(["run", "--best", "--json"]) == 0
    assert sparsecore.run(RunConfig(model="mlp", start_from="run/best.safetensors", epochs=1, batch_size=32))


def test_the_bits_of_a_run_do_not_depend_on_what_is_kept() -> None:
    kept = sparsecore.run(RunConfig(**CONFIG), out="run")
    assert np.array_equal(kept.network.params, sparsecore.run(RunConfig(**CONFIG)).network.params)
    patient = sparsecore.run(RunConfig(**CONFIG, patience=100))
    assert np.array_equal(kept.network.params, patient.network.params)


@pytest.mark.parametrize("step", [3, 20, 36, 55])
def test_the_best_survives_a_resume(step: int) -> None:
    sparsecore.run(RunConfig(**CONFIG), out="whole")
    assert sparsecore.run(RunConfig(**CONFIG), out="run", callbacks=[StopAt(step)]).state.result is None
    sparsecore.run(out="run", resume=True)
    one, other = read("whole", best=True), read("run", best=True)
    assert one.state[NAME] == other.state[NAME] and np.array_equal(one.network.params, other.network.params)
    assert np.array_equal(read("whole").network.params, read("run").network.params)


def test_a_run_that_is_cut_off_before_its_checkpoint_goes_on_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    sparsecore.run(RunConfig(**CONFIG), out="whole")
    save, saved = Recorder.save, []

    def cut(self: Recorder, *args: Any) -> None:
        saved.append(self)
        if len(saved) == 3:  # the third best epoch's network is written, and its checkpoint is not
            raise KeyboardInterrupt
        save(self, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Recorder, "save", cut)
        sparsecore.run(RunConfig(**CONFIG), out="run")
    ahead, behind = read("run", best=True).state[NAME]["epoch"], best_of(read("run"))
    assert behind is not None and ahead > behind["epoch"]
    seen = []

    class Look(Callback):
        def started(self, trainer: Any) -> None:
            seen.append(read("run", best=True).state[NAME]["epoch"])

    from sparsecore.commands.training import run

    run(out="run", resume=True, callbacks=[Look()])
    assert seen == [behind["epoch"]]
    assert read("whole", best=True).state[NAME] == read("run", best=True).state[NAME]


@pytest.mark.parametrize(("patience", "every"), [(1, 3), (3, 5), (7, 5)])
def test_patience_ends_a_run_where_it_has_looked(patience: int, every: int) -> None:
    sparsecore.run(RunConfig(**CONFIG | {"epochs": 60}, patience=patience, evaluate_every=every), out="run")
    found = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert found["event"] == "result" and {"test_accuracy", "test_loss", "validation_accuracy"} <= found.keys()
    looked = [each for each in epochs("run") if "validation_loss" in each]
    last, best = looked[-1]["epoch"], winner(looked)["epoch"]
    assert last == found["epochs"] == epochs("run")[-1]["epoch"] < 60 and last % every == 0
    assert last - best >= patience > last - every - best, "no sooner, and at the first look after it has waited"


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_patience_ends_a_run_and_a_resume_ends_it_alike(patience: int) -> None:
    whole = sparsecore.run(RunConfig(**CONFIG), out="whole")
    expected, records = None, epochs("whole")
    for k in range(1, 13):
        if k - winner(records[:k])["epoch"] >= patience:
            expected = k
            break
    assert expected is not None, "the run must end early, or this test shows nothing"
    short = sparsecore.run(RunConfig(**CONFIG, patience=patience), out="short")
    assert short.state.epoch == expected and short.state.result is not None
    assert short.state.result["epochs"] == expected == len(epochs("short"))
    assert short.run() == short.state.result
    assert sparsecore.run(RunConfig(**CONFIG, patience=patience), out="cut", callbacks=[StopAt(expected * 6 - 8)])
    again = sparsecore.run(out="cut", resume=True)
    assert again.state.epoch == expected and np.array_equal(again.network.params, short.network.params)
    assert sparsecore.run(out="cut", resume=True).state.epoch == expected
    assert whole.state.epoch == 12


def test_of_a_run_that_prunes_only_what_has_fewest_connections_is_best() -> None:
    done = sparsecore.run(
        RunConfig(**CONFIG, prune="gradual", prune_to=0.8, prune_start=5, prune_end=40, prune_every=5), out="run"
    )
    found = read("run", best=True)
    assert found.network.connections == done.network.connections
    assert found.state[NAME]["epoch"] >= 40 // -(-168 // 32)


def record(epoch: int, accuracy: float | None, loss: float | None = 0.5) -> dict[str, Any]:
    return {"event": "epoch", "epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}


class Sized:
    def __init__(self, connections: int) -> None:
        self.connections = connections


def test_what_is_better() -> None:
    best, state = Best(), RunState()
    steps: list[tuple[Any, int, bool]] = [
        (record(1, 0.5), 10, True), (record(2, 0.5), 10, False), (record(3, 0.5, 0.4), 10, True),
        (record(4, 0.4, 0.1), 10, False), (record(5, 0.6, None), 10, True), (record(6, None, 0.1), 10, False),
        (record(7, float("nan")), 10, False), ({"epoch": 8, "train_loss": 0.1}, 5, False), (record(9, 0.1), 9, True),
        (record(10, 0.9), 10, False), (record(11, 0.2), 9, True),
    ]  # fmt: skip
    for line, connections, better in steps:
        network: Any = Sized(connections)
        assert best.look(line, network, state) == better, line
    assert best_of(state)["epoch"] == 11  # type: ignore[index]


def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"patience: needs validation, .* try validation=0\.1"):
        RunConfig(**(CONFIG | {"validation": 0.0}), patience=3)
    with pytest.raises(ConfigError, match="patience: not with prune, whose steps are counted from the run's end"):
        RunConfig(**CONFIG, patience=3, prune="one-time", prune_to=0.5)
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        Best(0)
    sparsecore.run(RunConfig(**(CONFIG | {"validation": 0.0, "epochs": 1})), out="run")
    assert evaluate.main(["run", "--best"]) == 2
    assert "best.safetensors: no such file; a run with a validation split" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="the best epoch is asked of a run's folder, got a file"):
        read("run/model.safetensors", best=True)
    Path("mine").mkdir()
    Path("mine/best.safetensors").write_bytes(b"somebody's")
    with pytest.raises(RunFolderError, match="there is a run in it"):
        sparsecore.run(RunConfig(**CONFIG), out="mine")
    assert Path("mine/best.safetensors").read_bytes() == b"somebody's"
