"""Runs that prune: what they record, the same bits after an interruption, and training on what is left."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import train
from sparsecore.runs.checkpoint import read

DIGITS = ["lenet300", "--dataset", "mnist-subset"]  # 63 steps an epoch
GRADUAL = [*DIGITS, "--prune", "gradual", "--prune-to", "0.9"]
FROZEN = ["--lr", "1e-30", "--weight-decay", "0", "--momentum", "0", "--epochs", "1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, curves: bool = False) -> list[dict[str, Any]]:
    """Train; the run's metrics."""
    assert train.main([*arguments, "--quiet", *([] if curves else ["--no-curves"])]) == 0
    return [json.loads(line) for line in (Path(arguments[-1]) / "metrics.jsonl").read_text().splitlines()]


def prunings(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["event"] == "prune"]


def values(folder: str) -> tuple[Any, ...]:
    found = read(folder)
    assert found.velocity is not None
    patterns = [(p.indptr.tobytes(), p.indices.tobytes()) for p in found.network.patterns.values()]
    return found.network.params.tobytes(), found.velocity.tobytes(), patterns


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert train.main([*arguments, "--quiet"]) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


# -- what is recorded ------------------------------------------------------------------------------------------------


def test_a_gradual_run_and_what_it_records() -> None:
    records = run(*GRADUAL, "--epochs", "4", "--prune-every", "20", "--validation", "0.1", "--out", "r")
    found = prunings(records)
    assert [record["step"] for record in found] == [*range(11, 114, 20), 114]  # a twentieth of 228 steps, to half
    s = [record["sparsity"] for record in found]
    assert s == sorted(s) and s[0] == 0.0 and s[-1] == 0.9
    for record in found:
        wanted = 0.9 * (1 - (1 - (record["step"] - 11) / 103) ** 3)
        first, second = record["layers"]
        assert (first["layer"], first["name"]) == ("0", "SparseLinear(784→300)")
        assert first["connections"] == round((1 - wanted) * 235_200)
        assert second["connections"] == round((1 - wanted) * 30_000)
        assert record["connections"] == first["connections"] + second["connections"] + 1000
        assert 0 <= record["accuracy_after"] <= 1 and record["split"] == "validation"
        assert record["epoch"] == pytest.approx(record["step"] / 57)
    thresholds = [record["layers"][0]["threshold"] for record in found]
    assert thresholds[0] == 0 < thresholds[-1]
    result = records[-1]
    assert (result["connections"], result["sparsity"]) == (27_520, 0.9)
    assert result["global_sparsity"] == pytest.approx(1 - 27_520 / 266_200)
    assert result["test_accuracy"] > 0.8


def test_curves_have_the_three_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: drawn.append(self))
    records = run(*GRADUAL, "--epochs", "1", "--out", "r", curves=True)
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["threshold", "sparsity", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]
    threshold, sparsity, accuracy = ([line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes)
    layers = [(record["epoch"], record["layers"][0]) for record in prunings(records)]
    assert threshold[0] == [[epoch, layer["threshold"]] for epoch, layer in layers if layer["removed"]]
    assert len(threshold[0]) < len(layers)  # the first removes nothing, and has no threshold
    assert sparsity[0] == [[0, 0], *([epoch, layer["sparsity"]] for epoch, layer in layers), [1, 0.9]]
    assert [1, records[-1]["test_accuracy"]] in accuracy[1]


def test_sparsity_before_a_single_pruning_is_drawn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: drawn.append(self))
    start = ["lenet300", "--dataset", "mnist-subset", "--random", "--sparsity", "0.5", "--epochs", "2"]
    run(*start, "--prune", "one-time", "--prune-to", "0.75,1,0", "--prune-empty", "--out", "r", curves=True)
    first, emptied = (line.get_xydata().tolist() for line in drawn[0].axes[1].lines)
    assert first == [[0, 0.5], [1, 0.75], [2, 0.75]]
    assert emptied == [[1, 1], [2, 1]]  # of a layer that lost all nothing tells how many it had


def test_one_time_and_by_rounds() -> None:
    (once,) = prunings(run(*DIGITS, "--prune", "one-time", "--prune-to", "0.95", "--epochs", "2", "--out", "once"))
    assert (once["step"], once["sparsity"]) == (63, 0.95)
    rounds = prunings(
        run(*DIGITS, "--prune", "iterative", "--prune-to", "0.9,0.8,0.5", "--prune-start", "10", "--prune-end", "50",
            "--prune-every", "10", "--epochs", "1", "--out", "rounds")
    )  # fmt: skip
    assert [record["step"] for record in rounds] == [10, 20, 30, 40, 50]
    assert [layer["connections"] for layer in rounds[-1]["layers"]] == [23_520, 6_000, 500]
    first, second = (record["layers"][0]["connections"] for record in rounds[:2])
    assert first / 235_200 == pytest.approx(0.1**0.2, abs=1e-4) and second / first == pytest.approx(0.1**0.2, abs=1e-4)


def test_thresholds_and_quality() -> None:
    (at,) = prunings(run(*DIGITS, "--prune", "one-time", "--prune-threshold", "0.05", "--epochs", "2", "--out", "a"))
    weights = [layer.params["weight"] for layer in read("a").network.layers]
    assert all(layer["threshold"] == 0.05 for layer in at["layers"]) and 0 < at["sparsity"] < 1
    assert len(weights[2]) == 1000
    rounds = prunings(run(*DIGITS, "--prune", "iterative", "--prune-quality", "0.5", "--epochs", "2", "--out", "b"))
    sparsities = [record["sparsity"] for record in rounds]
    assert len(rounds) == 5 and sparsities == sorted(sparsities) and sparsities[0] > 0.2


@pytest.mark.parametrize("by", ["magnitude", "gradient", "curvature"])
def test_rankings_over_all_sparse_layers_together(by: str) -> None:
    options = ["--prune", "one-time", "--prune-to", "0.9", "--prune-global", "--prune-by", by, "--epochs", "2"]
    (record,) = prunings(run(*DIGITS, *options, "--out", "r"))
    left = [layer["connections"] for layer in record["layers"]]
    assert sum(left) == 26_520 and left[0] != 23_520
    assert read("r").network.patterns[2].is_full


def test_a_sparse_start_goes_on_from_its_own_sparsity() -> None:
    options = ["lenet300", "--dataset", "mnist-subset", "--radix", "10,10", "--prune", "gradual", "--prune-to", "0.95"]
    found = prunings(run(*options, "--epochs", "1", "--out", "r"))
    assert found[0]["sparsity"] == 0.9 and found[-1]["sparsity"] == 0.95


def test_pruning_before_the_first_step() -> None:
    options = ["--prune", "one-time", "--prune-to", "0.9", "--prune-by", "gradient", "--prune-start", "0"]
    records = run(*DIGITS, *options, "--epochs", "1", "--out", "r")
    assert records[0]["event"] == "prune" and records[0]["step"] == 0 and len(prunings(records)) == 1


def test_a_run_that_prunes_has_a_recipe_of_its_own() -> None:
    run(*DIGITS, "--epochs", "1", "--out", "plain")
    run(*GRADUAL, "--epochs", "1", "--out", "pruned")
    plain, pruned = (json.loads(Path(name, "config.json").read_text())["options"] for name in ("plain", "pruned"))
    assert (plain["lr"], pruned["lr"]) == (0.1, 0.15)
    assert pruned["warm_up"] == 0.5  # of one epoch; the recipe's is a whole one


# -- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewind", "at"),
    [("", 0), ("", 1), ("", 20), ("", 31), ("", 32), ("", 63), ("initial", 50), ("5", 20), ("5", 50), ("fresh", 31)],
)
def test_stopped_anywhere_a_run_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, rewind: str, at: int) -> None:
    """Prunings at 16, 24 and 32 of 126 steps, then perhaps a rewinding: saved and loaded at any step between."""
    from sparsecore.runs.trainer import Trainer

    schedule = ["--prune-start", "16", "--prune-end", "32", "--prune-every", "8", "--epochs", "2", "--threads", "1"]
    options = [*GRADUAL, *schedule, *(["--rewind", rewind] if rewind else [])]
    whole = run(*options, "--out", "whole")
    lr, counted = Trainer._lr, []

    def stopping(self: Trainer, batch: int) -> float:
        if self.folder is not None:
            counted.append(batch)
            if len(counted) == at + 1:
                self.stop()
        return lr(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_lr", stopping)
        train.main([*options, "--out", "cut", "--quiet"])
    assert read("cut").state["run"]["metrics"][0] == 0 or at > 15
    again = run("--resume", "--out", "cut")
    assert values("cut") == values("whole")
    for mine, other in zip(prunings(again), prunings(whole), strict=True):
        assert mine == other


def test_pruning_does_not_count_its_evaluations_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsecore.training.evaluation import Evaluation

    slow = Evaluation.__call__

    def sleeping(self: Evaluation) -> Any:
        time.sleep(0.2)
        return slow(self)

    monkeypatch.setattr(Evaluation, "__call__", sleeping)
    records = run(*GRADUAL, "--epochs", "1", "--prune-every", "5", "--out", "r")
    assert 2 * 0.2 * len(prunings(records)) > 2 > records[-1]["train_seconds"] > 0


# -- training on the structure ---------------------------------------------------------------------------------------


def test_initial_values_of_the_run_that_a_file_comes_from() -> None:
    pruned = run(*DIGITS, "--seed", "3", "--prune", "one-time", "--prune-to", "0.9", "--epochs", "2", "--out", "a")
    assert pruned[-1]["sparsity"] == 0.9
    run("--from", "a", "--rewind", "initial", *FROZEN, "--out", "b")
    net, start = read("b").network, initial_network(seed=3)
    assert net.patterns == read("a").network.patterns
    for k, pattern in net.patterns.items():
        matrix = start.layers[k].to_scipy().toarray()
        assert np.array_equal(net.layers[k].params["weight"], matrix[pattern.rows, pattern.indices])


def initial_network(seed: int = 0) -> Any:
    from sparsecore.models.lenet300 import lenet300

    return lenet300(seed=seed)


def test_values_after_k_steps_are_those_that_the_run_had() -> None:
    """--rewind 20 of a network's file: the very values of that run at step 20, which a run of 20 steps shows."""
    common = [*DIGITS, "--schedule", "constant", "--batch-size", "100", "--lr", "0.1", "--weight-decay", "1e-4"]
    run(*common, "--prune", "one-time", "--prune-to", "0.9", "--prune-start", "80", "--epochs", "1", "--out", "pruned")
    run("--from", "pruned", "--rewind", "20", *FROZEN, "--out", "back")

    from sparsecore.runs.trainer import Trainer

    lr, seen = Trainer._lr, []

    def watching(self: Trainer, batch: int) -> float:
        if batch == 20:
            seen.append([np.array(layer.to_scipy().toarray()) for layer in self.network.layers])  # type: ignore[attr-defined]
        return lr(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_lr", watching)
        run(*common, "--epochs", "1", "--out", "dense")
    net = read("back").network
    for k, pattern in net.patterns.items():
        assert np.array_equal(net.layers[k].params["weight"], seen[0][k][pattern.rows, pattern.indices])


def test_from_keeps_the_values_unless_it_is_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    run(*GRADUAL, "--epochs", "2", "--out", "a")
    before = read("a").network
    run("--from", "a", *FROZEN, "--out", "b")
    assert read("b").network.params.tobytes() == before.params.tobytes()
    run("--from", "a", *FROZEN, "--rewind", "fresh", "--seed", "5", "--out", "c")
    fresh = read("c").network
    assert fresh.patterns == before.patterns
    assert np.std(fresh.layers[0].params["weight"]) == pytest.approx(np.sqrt(2 / 78.4), rel=0.1)
    config = json.loads(Path("c/config.json").read_text())
    assert config["options"]["dataset"] == "mnist-subset" and config["model"] == "lenet300"
    assert Path(config["options"]["start_from"]) == Path("a").absolute()
    # And again on top: pruned further from the file's network, with the values of that run.
    options = ["--prune", "one-time", "--prune-to", "0.95", "--rewind", "initial", "--epochs", "2"]
    found = prunings(run("--from", "c", *options, "--out", "d"))
    assert found[-1]["sparsity"] == 0.95


def test_the_schedule_starts_anew_after_going_back() -> None:
    records = run(*DIGITS, "--prune", "one-time", "--prune-to", "0.9", "--prune-start", "126", "--rewind", "initial",
                  "--epochs", "4", "--schedule", "step:1:0.1", "--lr", "0.1", "--warm-up", "0.5",
                  "--out", "r")  # fmt: skip
    rates = [record["lr"] for record in records if record["event"] == "epoch"]
    assert rates == pytest.approx([0.1, 0.01, 0.1, 0.01])


# -- refused ---------------------------------------------------------------------------------------------------------


WRONG = [
    (["--prune", "sometimes", "--prune-to", "0.9"], "--prune"),
    (["--prune", "gradual"], "needs one of --prune-to, --prune-threshold and --prune-quality, got none"),
    (["--prune", "gradual", "--prune-to", "1.2"], "sparsities from 0 to 1"),
    (["--prune", "gradual", "--prune-to", "nan"], "sparsities from 0 to 1"),
    (["--prune", "gradual", "--prune-to", "0"], "sparsities from 0 to 1"),
    (
        ["--prune", "gradual", "--prune-to", "0.9,0.9"],
        "expected one sparsity, or one for each of SparseLinear(784→300)",
    ),
    (["--prune", "gradual", "--prune-threshold", "0.1"], "--prune-threshold: not with --prune gradual"),
    (["--prune", "one-time", "--prune-to", "0.9", "--prune-threshold", "1"], "got --prune-to, --prune-threshold"),
    (
        ["--prune", "one-time", "--prune-threshold", "0.1", "--prune-global"],
        "--prune-global: goes with --prune-to only",
    ),
    (["--prune", "one-time", "--prune-threshold", "-1"], "a number above 0"),
    (["--prune", "one-time", "--prune-to", "0.9", "--prune-every", "7"], "--prune-every: not with --prune one-time"),
    (["--prune", "gradual", "--prune-to", "0.9", "--prune-every", "0"], "from 1"),
    (["--prune", "gradual", "--prune-to", "0.9", "--prune-end", "9999"], "within the run's 126 steps"),
    (["--prune", "gradual", "--prune-to", "0.9", "--prune-start", "90", "--prune-end", "80"], "must be in order"),
    (["--prune", "iterative", "--prune-to", "0.9", "--prune-exponent", "2"], "goes with --prune gradual only"),
    (["--prune", "gradual", "--prune-to", "0.9,0.9,0", "--prune-global"], "takes one sparsity for all layers"),
    (["--prune", "gradual", "--prune-to", "0.9", "--rewind", "soon"], "initial, fresh, or a number of steps"),
    (["--prune", "gradual", "--prune-to", "0.9", "--rewind", "100"], "before the last pruning, at 63, got 100"),
    (["--prune", "one-time", "--prune-to", "0.9", "--rewind", "initial", "--prune-start", "126"], "leaves no steps"),
    (["--prune-to", "0.9"], "--prune-to: goes with --prune"),
    (["--rewind", "initial"], "--rewind: goes with --prune, or with --from"),
    (["--from", "nowhere"], "nowhere: no such file"),
    (["--from", "x", "--radix", "10,10"], "--radix: not with --from"),
]


@pytest.mark.parametrize(("options", "problem"), WRONG)
def test_wrong_options(capsys: pytest.CaptureFixture[str], options: list[str], problem: str) -> None:
    Path("x").write_bytes(b"")
    if "x" in options:
        run(*DIGITS, "--epochs", "1", "--out", "trained")
        options = ["trained" if word == "x" else word for word in options]
    assert problem in refusal(capsys, *DIGITS, "--epochs", "2", *options, "--out", "r")
    assert not Path("r").exists()


def test_a_layer_that_would_be_pruned_to_nothing_is_found_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*DIGITS, "--prune", "one-time", "--prune-to", "0.9,1,0", "--epochs", "2"]
    told = refusal(capsys, *options, "--out", "r")
    assert "--prune-to: with 1 all connections would go of layer 1, SparseLinear(300→100)" in told
    for more in ([], ["--prune-global"]):
        told = refusal(capsys, *DIGITS, "--prune", "one-time", "--prune-to", "0.999999", *more, "--out", "r")
        assert "--prune-to: with 0.999999 all" in told and "--prune-empty" in told
    assert not Path("r").exists()
    records = run(*options, "--prune-empty", "--out", "r")
    assert prunings(records)[0]["layers"][1]["connections"] == 0


def test_filters_of_several_sizes_are_not_ranked_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lenet5", "--dataset", "mnist-subset", "--hidden", "2,3,8", "--prune", "one-time", "--prune-to", "0.5",
             "--granularity", "channel", "--prune-global", "--epochs", "1"]  # fmt: skip
    said = "--prune-global: ranks what is of one size, and with --granularity channel filters"
    assert said in refusal(capsys, *words)


def test_a_pruning_before_the_first_step_takes_no_time_off_the_training() -> None:
    words = [*DIGITS, "--prune", "one-time", "--prune-start", "0", "--prune-to", "0.5", "--epochs", "1"]
    found = run(*words, "--batch-size", "8000", "--out", "first")[-1]
    assert found["train_seconds"] > 0 and found["step_ms"] > 0


def test_a_run_goes_on_as_the_model_that_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    run(*DIGITS, "--epochs", "1", "--out", "one")
    assert "--from: holds lenet300, got mlp as the model: leave it out" in refusal(capsys, "mlp", "--from", "one")
    run("lenet300", "--from", "one", "--epochs", "1", "--out", "two")


def test_a_file_that_does_not_tell_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    from sparsecore.runs.checkpoint import save

    save(initial_network(), "alone.safetensors")
    assert "expected a model" in refusal(capsys, "--from", "alone.safetensors")
    told = refusal(capsys, *DIGITS, "--from", "alone.safetensors", "--rewind", "initial")
    assert "does not tell how its network was trained; try --rewind fresh" in told
    run(*DIGITS, "--from", "alone.safetensors", "--epochs", "1", "--out", "r")
