"""A user's own data from the command lines: trained on, evaluated, pruned and gone on with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsecore
from sparsecore import RunConfig, evaluate, train
from sparsecore.data import load
from sparsecore.prune.__main__ import main as prune
from sparsecore.runs.checkpoint import CheckpointError, save
from sparsecore.runs.checkpoint import load as load_network
from sparsecore.runs.trainer import Callback
from tests.test_data_arrays import X, Y, table

NAMES = np.array(["cat", "dog", "eel"])
COLUMNS = (*X.T[:3], NAMES[Y], X[:, 0] * 30 + X[:, 1] * 20 + 500)
HEADER = ["a", "b", "c", "kind", "cost"]
SMALL = ["mlp", "--hidden", "12,8", "--epochs", "4", "--batch-size", "10", "--threads", "1", "--quiet"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(Path("all.csv"), HEADER, *COLUMNS)
    table(Path("kinds.csv"), HEADER[:4], *COLUMNS[:4])
    table(Path("costs.csv"), [*HEADER[:3], HEADER[4]], *COLUMNS[:3], COLUMNS[4])


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert evaluate.main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_table_of_classes_is_trained_on_and_evaluated_by_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*SMALL, "--dataset", "kinds.csv", "--target", "kind", "--out", "run"]) == 0
    network = load_network("run")
    assert network.answers is not None and network.answers.names == tuple(NAMES)
    result = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert asked(capsys, "run")["test_accuracy"] == result["test_accuracy"]
    # the same samples, whose classes are in another order and of which one is missing
    data, kept = load("kinds.csv", target="kind"), Y != 0
    np.savez("some.npz", x=X[kept, :3], y=NAMES[Y[kept]], x_test=X[:30, :3][kept[:30]], y_test=NAMES[Y[:30][kept[:30]]])
    answers = network.predict(X[:30, :3][kept[:30]])
    assert data.names == tuple(NAMES)
    assert asked(capsys, "run", "--dataset", "some.npz")["test_accuracy"] == np.mean(answers == Y[:30][kept[:30]])
    np.savez("other.npz", x=X[:, :3], y=np.array(["cat", "cow"])[Y % 2])
    assert evaluate.main(["run", "--dataset", "other.npz"]) == 2
    assert "expected the network's classes, cat, dog, eel, got cow" in capsys.readouterr().err


def test_another_set_is_read_as_the_runs_own_was(capsys: pytest.CaptureFixture[str]) -> None:
    """The column and the loss are the run's, if not given: to evaluate, to go on from, and to prune by."""
    for source, target, loss in (("kinds.csv", "kind", []), ("costs.csv", "cost", ["--loss", "mse"])):
        run = f"run of {target}"
        assert train.main([*SMALL, "--dataset", source, "--target", target, *loss, "--out", run]) == 0
        Path("again.csv").write_bytes(Path(source).read_bytes())
        own, other = asked(capsys, run), asked(capsys, run, "--dataset", "again.csv")
        assert own["test_loss"] == other["test_loss"]
        for words in ([], ["--dataset", "again.csv"]):
            more = ["--from", run, *words, "--epochs", "1", "--batch-size", "10", "--quiet", "--no-curves"]
            assert train.main([*more, "--out", f"{run} {len(words)}"]) == 0
            config = json.loads(Path(f"{run} {len(words)}", "config.json").read_text())["options"]
            assert (config.get("target"), config.get("loss")) == (target, loss[-1] if loss else None)
        pruned = ["--by", "gradient", "--sparsity", "0.5", "--dataset", "again.csv", "--out", f"{target}.safetensors"]
        assert prune([run, *pruned]) == 0


@pytest.mark.parametrize(("cells", "names"), [
    (["1.000e+00", "0.0", "2."], ("0", "1", "2")), (["10.0", "-3", "1e2"], ("-3", "10", "100")),
    (["1.0", "2.5", "3.0"], ("1.0", "2.5", "3.0")), (["1", "2", "nan"], ("1", "2", "nan")),
    (["1.0", "inf", "2"], ("1.0", "2", "inf")), (["1e300", "1", "2"], ("1", "1e300", "2")),
    (["1.0", "one", "2"], ("1.0", "2", "one")), (["007", "7", "8"], ("007", "7", "8")),
    (["1_1", "11", "2"], ("11", "1_1", "2")), (["٣", "3", "2"], ("2", "3", "٣")),
])
def test_classes_written_as_floats_are_whole_numbers_where_all_are(cells: list[str], names: tuple[str, ...]) -> None:
    table(Path("kinds.csv"), ["a", "kind"], X[:, 0], np.array(cells)[Y])
    data = load("kinds.csv", target="kind")
    assert data.names == names and data.classes == 3


def test_classes_written_as_floats_are_those_written_as_whole_numbers() -> None:
    np.savetxt("floats.csv", np.column_stack([X[:, 0], Y * 5 - 5]), delimiter=",")
    np.savetxt("whole.csv", np.column_stack([X[:, 0], Y * 5 - 5]), delimiter=",", fmt=["%.18e", "%d"])
    floats, whole = (load(f"{name}.csv", target="2") for name in ("floats", "whole"))
    assert floats.names == whole.names == ("-5", "0", "5")
    assert np.array_equal(floats.train.x, whole.train.x) and np.array_equal(floats.train.y, whole.train.y)


def test_numbers_are_told_in_their_own_units(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--epochs", "40", "--dataset", "costs.csv", "--target", "cost", "--loss", "mse"]
    assert train.main([*words, "--validation", "0.2", "--out", "run"]) == 0
    assert "test R²" in capsys.readouterr().out
    *_, last, result = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    assert {"train_r2", "validation_r2", "test_r2", "test_loss"} <= last.keys() and "test_accuracy" not in result
    assert result["test_r2"] > 0.5
    network, data = load_network("run"), load("costs.csv", target="cost", loss="mse")
    assert network.answers is not None and data.test.targets is not None
    told = network.logits(data.test.x) * network.answers.std + network.answers.mean
    wanted = data.test.targets
    found = asked(capsys, "run")
    assert found["test_rmse"] == pytest.approx(np.sqrt(np.mean((told - wanted) ** 2)), rel=1e-4)
    r2 = 1 - np.sum((told - wanted) ** 2) / np.sum((wanted - wanted.mean()) ** 2)
    assert found["test_r2"] == pytest.approx(r2, abs=1e-4) and found["test_r2"] == pytest.approx(result["test_r2"])


@pytest.mark.parametrize("by", ["magnitude", "gradient", "curvature"])
def test_a_network_that_tells_numbers_is_pruned(by: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--dataset", "costs.csv", "--target", "cost", "--loss", "mse"]
    assert train.main([*words, "--prune", "one-time", "--prune-to", "0.5", "--prune-by", by, "--no-curves",
                       "--out", "run"]) == 0  # fmt: skip
    pruned = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines() if '"prune"' in line]
    assert len(pruned) == 1 and {"r2_before", "r2_after"} <= pruned[0].keys()
    assert prune(["run", "--by", by, "--sparsity", "0.7", "--out", "less.safetensors"]) == 0
    assert evaluate.main(["less.safetensors"]) == 0
    assert "test R²" in capsys.readouterr().out


class Stop(Callback):
    def stepped(self, loop: Any) -> None:
        if loop.steps_done == 7:
            loop.stop()


@pytest.mark.parametrize("loss", [None, "mse"])
def test_a_run_on_a_table_goes_on_to_the_same_bits(loss: str | None) -> None:
    name, target = ("costs.csv", "cost") if loss else ("kinds.csv", "kind")
    config = RunConfig(
        model="mlp", hidden=(12, 8), epochs=4, batch_size=10, dataset=name, target=target, loss=loss,  # type: ignore[arg-type]
    )  # fmt: skip
    whole = sparsecore.run(config)
    assert sparsecore.run(config, out="run", callbacks=[Stop()]).state.result is None
    again = sparsecore.run(out="run", resume=True)
    assert np.array_equal(again.network.params, whole.network.params)
    assert again.network.answers == whole.network.answers


@pytest.mark.parametrize(("words", "said"), [
    (["--dataset", "kinds.csv"], "expected a column to be told, one of a, b, c, kind, got no --target"),
    (["--dataset", "all.csv", "--target", "cost"], "column 'kind': expected a finite number, got 'cat'"),
    (["--dataset", "kinds.csv", "--target", "kind", "--loss", "hinge"], "expected a loss, one of cross-entropy, mse"),
    (["--dataset", "kinds.csv", "--target", "kind", "--loss", "mse"], "column 'kind': expected a finite number"),
    (["--dataset", "mnist-subset", "--loss", "mse"], "is of images and their classes, got loss mse"),
    (["--dataset", "nowhere"], "expected a data set, one of"),
])
def test_what_cannot_be_is_said_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_answers_that_do_not_fit_their_network_are_refused(tmp_path: Path) -> None:
    from sparsecore.data.answers import Answers

    about: dict[str, Any] = {"dataset": "kinds.csv", "target": "kind", "hidden": (4,), "epochs": 1, "batch_size": 10}
    done = sparsecore.run(RunConfig(model="mlp", **about))
    done.network.answers = Answers(("a", "b"))
    save(done.network, "bad.safetensors")
    with pytest.raises(CheckpointError, match="answers of 2 outputs after"):
        load_network("bad.safetensors")
