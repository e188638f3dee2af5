"""Recipes for data that none was made for: what they become, that they do not die, and what is said when one does."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.models.catalogue import MODELS

import sparsecore
from bench.own_sets import rectangles
from sparsecore import RunConfig, train
from sparsecore.commands.recipes import CLIP_NORM, SMALLEST_BATCH, STEPS, fitted, resolved
from sparsecore.commands.trouble import has_collapsed, remedies
from sparsecore.runs.config import from_saved, saved
from sparsecore.runs.kinds import ConfigError
from sparsecore.runs.trainer import Callback

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = RNG.standard_normal((90, 13)) * 10.0 ** RNG.integers(-2, 5, 13), np.arange(90) % 3
    np.savez("wine.npz", x=x + (y[:, None] == np.arange(13) % 3) * 2 * x.std(axis=0), y=y)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dataset", ["mnist", "mnist-subset", "fashion-mnist", "cifar10"])
def test_recipes_on_the_data_they_were_made_for_are_as_they_were(model: str, dataset: str) -> None:
    found = resolved(RunConfig(model=model, dataset=dataset))
    recipe = vars(MODELS[model].recipe_for(dataset, "dense"))
    assert found.clip_norm is None and {name: getattr(found, name) for name in recipe} == recipe


@pytest.mark.parametrize("samples", [3, 17, 40, 90, 120, 129, 257, 500, 1023, 1024, 5000, 60_000])
@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_batches_and_epochs_follow_from_the_samples(model: str, samples: int) -> None:
    found = fitted(resolved(RunConfig(model=model, dataset="mine.npz")), samples)
    recipe = MODELS[model].recipe
    assert found.batch_size is not None and found.epochs is not None and found.warm_up == recipe.warm_up
    assert min(samples, SMALLEST_BATCH) <= found.batch_size <= min(samples, recipe.batch_size + 1)
    assert samples % found.batch_size != 1 or samples < 2
    steps = -(-samples // found.batch_size)
    assert found.epochs == max(recipe.epochs, -(-STEPS // steps))
    assert samples < 8 * SMALLEST_BATCH or steps >= 8
    assert found.clip_norm == CLIP_NORM
    if samples >= 8 * recipe.batch_size and steps * recipe.epochs >= STEPS:
        assert (found.epochs, found.batch_size) == (recipe.epochs, recipe.batch_size)


@pytest.mark.parametrize("said", [
    {"epochs": 3}, {"batch_size": 20}, {"clip_norm": "none"}, {"clip_norm": 5.0}, {"warm_up": 2.0},
    {"augment": "2,flip"}, {"epochs": 1, "batch_size": 7},
])
def test_what_is_said_stays(said: dict[str, Any]) -> None:
    found = fitted(resolved(RunConfig(model="lenet5", dataset="mine.npz", **said)), 500)
    assert {name: getattr(found, name) for name in said} == said
    assert None not in (found.epochs, found.batch_size, found.warm_up)


def test_images_of_ones_own_are_not_mirrored_and_adam_is_not_clipped() -> None:
    assert resolved(RunConfig(model="resnet20", dataset="mine.npz")).augment == "4"
    assert resolved(RunConfig(model="resnet20", dataset="cifar10")).augment == "4,flip"
    assert resolved(RunConfig(model="mlp", dataset="mine.npz", optimizer="adam")).clip_norm is None


def test_a_run_of_an_earlier_version_was_not_clipped_and_is_not() -> None:
    now = fitted(resolved(RunConfig(model="mlp", dataset="wine.npz")), 72)
    record = saved(now, "0")
    assert from_saved(record) == now
    del record["options"]["clip_norm"]
    assert resolved(from_saved(record)).clip_norm == "none"


class Stop(Callback):
    def stepped(self, loop: Any) -> None:
        if loop.steps_done == 9:
            loop.stop()


def test_a_small_table_is_learned_by_the_default_recipe_and_gone_on_with() -> None:
    config = RunConfig(model="mlp", dataset="wine.npz", hidden=(64, 32), threads=1)
    whole = sparsecore.run(config)
    assert whole.state.result is not None and whole.state.result["test_accuracy"] >= 0.85
    assert sparsecore.run(config, out="run", callbacks=[Stop()]).state.result is None
    options = json.loads(Path("run/config.json").read_text())["options"]
    assert {"epochs", "batch_size", "warm_up", "clip_norm"} <= options.keys()
    again = sparsecore.run(config, out="run", resume=True)
    assert np.array_equal(again.network.params, whole.network.params)
    with pytest.raises(ConfigError, match="epochs: in run it was"):
        sparsecore.run(RunConfig(model="mlp", dataset="wine.npz", hidden=(64, 32), epochs=2), out="run", resume=True)


def test_a_run_says_what_its_recipe_became(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["mlp", "--hidden", "8", "--dataset", "wine.npz", "--epochs", "2"]) == 0
    assert "data of your own: batches of 16, 2 epochs, rate 0.1, gradients of norm at most 1" in capsys.readouterr().out


@pytest.mark.parametrize(("best", "now", "chance", "collapsed"), [
    (1.0, 0.25, 0.25, True), (1.0, 0.3, 0.25, True), (0.99, 0.5, 0.5, True), (0.2, 0.01, 0.01, False),
    (0.4, 0.01, 0.01, True), (0.9, 0.6, 0.1, False), (0.3, 0.25, 0.25, False), (0.0, 0.1, 0.1, False),
    (1.0, 1.0, 1.0, False),
])
def test_a_collapse_is_a_fall_to_chance_from_far_above(best: float, now: float, chance: float, collapsed: bool) -> None:
    assert has_collapsed(best, now, chance) == collapsed


def test_what_is_tried_already_is_not_proposed() -> None:
    run = RunConfig(model="lenet5", lr=0.03, augment="1", relu_logits=True)
    assert remedies(run) == "try --lr 0.003 (now 0.03), --clip-norm 1, no --relu-logits or --augment none"
    assert remedies(RunConfig(model="mlp", lr=0.1, clip_norm=1.0)) == "try --lr 0.01 (now 0.1)"


def test_lost_classes_and_a_collapse_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["mlp", "--hidden", "16", "--dataset", "wine.npz", "--epochs", "3", "--threads", "1"]
    assert train.main([*words, "--relu-logits", "--lr", "3", "--clip-norm", "none", "--momentum", "0.5"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lost ")]
    assert len(lines) == 1 and " of 3 classes, which the network hardly ever answers: " in lines[0]
    assert "try --lr 0.3 (now 3), --clip-norm 1 or no --relu-logits" in lines[0]
    assert train.main([*words, "--epochs", "10"]) == 0
    said = capsys.readouterr().out
    assert "lost" not in said and "collapsed" not in said


# -- rectangles in four colours, on which unclipped runs at larger rates lose classes ----------------------------------


@pytest.fixture
def coloured() -> dict[str, Any]:
    x, y = rectangles()
    np.savez("coloured.npz", x=x, y=y)
    return {"model": "lenet5", "dataset": "coloured.npz", "threads": 1}


def test_rectangles_are_told_by_the_default_recipe_in_a_part_of_its_epochs(coloured: dict[str, Any]) -> None:
    found = sparsecore.run(RunConfig(**coloured, epochs=8, batch_size=32, evaluate_every=8)).state.result
    assert found is not None and found["test_accuracy"] >= 0.99


def test_a_run_on_rectangles_that_loses_classes_says_so(
    coloured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = "lenet5 --dataset coloured.npz --lr 0.1 --clip-norm none --batch-size 128 --epochs 5 --seed 2 --threads 1"
    assert train.main(words.split()) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("lost "))
    assert re.match(r"lost [23] of 4 classes, which the network hardly ever answers: ", line)
    assert "; try --lr 0.01 (now 0.1), --clip-norm 1 or --augment none" in line


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", [{}, {"expander": "fixed", "sparsity": 0.9}], ids=["dense", "sparse"])
def test_rectangles_are_told_by_the_default_recipe(how: dict[str, Any], seed: int, coloured: dict[str, Any]) -> None:
    trainer = sparsecore.run(RunConfig(**coloured, **how, seed=seed))
    assert trainer.state.result is not None and trainer.state.result["test_accuracy"] >= 0.99
