"""Rates found by a range test: where the loss was lowest, nothing else changed, and kept by the run that asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.models.mlp import links, mlp

import sparsecore
from sparsecore import RunConfig, train
from sparsecore.data import Dataset
from sparsecore.data.augmentation import Augmentation
from sparsecore.network import Network
from sparsecore.runs.kinds import ConfigError
from sparsecore.runs.trainer import Callback
from sparsecore.runtime.devices import set_threads
from sparsecore.topology.wiring import full
from sparsecore.training.optimizers import SGD, Adam, AdamW, Optimizer
from sparsecore.training.range_test import BELOW, RangeTestError, range_test

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0) * 2 + (X[:, 2] > 0)
SMALL: dict[str, Any] = {"model": "mlp", "dataset": "own.npz", "hidden": (16,), "epochs": 2, "lr": "auto"}
WORDS = ["mlp", "--hidden", "16", "--dataset", "own.npz", "--epochs", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x=X, y=Y)


def small(shape: tuple[int, ...], classes: int) -> Network:
    return mlp([full(link) for link in links(shape, classes=classes, hidden=(16,))], in_shape=shape, classes=classes)


def parts(**loss: Any) -> tuple[Network, Dataset]:
    data = Dataset.from_arrays(X, X @ RNG.standard_normal(6) if loss else Y, **loss)
    return small(data.shape, data.classes), data


@pytest.mark.parametrize("optimizer", [SGD(7.0, 0.9), SGD(0.1, clip_norm=1.0), Adam(), AdamW(3.0)])
def test_the_rate_is_a_tenth_of_that_with_the_lowest_loss(optimizer: Optimizer) -> None:
    network, data = parts()
    found = range_test(network, data, optimizer, batch_size=16)
    best = found.rates[int(np.argmin(found.losses))]
    assert found.lr == pytest.approx(best / BELOW, rel=0.05) and f"{found.lr:.2g}" == f"{found.lr:g}"
    assert len(found.rates) == len(found.losses) <= 60 and list(found.rates) == sorted(found.rates)
    assert min(found.losses) < 0.8 * found.losses[0] and np.isfinite(found.losses).all()


@pytest.mark.parametrize("make", [lambda: SGD(0.1, 0.9), Adam])
def test_nothing_that_it_is_given_changes_and_threads_do_not_matter(make: Any) -> None:
    network, data = parts()
    optimizer, before, kept = make(), network.params.copy(), network.version
    found = []
    for threads in (1, 2, None):
        set_threads(threads)
        found.append(range_test(network, data, optimizer, batch_size=32, seed=3))
    one = found[0]
    assert found == [one] * 3
    assert np.array_equal(network.params, before) and network.version == kept and network.normalisation is None
    assert not optimizer.columns and optimizer.lr == make().lr and optimizer.of_run is None
    assert range_test(network, data, optimizer, batch_size=32, seed=4).losses != one.losses


def test_an_optimizer_that_has_been_used_is_tried_as_if_new() -> None:
    network, data = parts()
    used, fresh = Adam(), range_test(network, data, Adam(), batch_size=16)
    used.columns = {"m": np.ones_like(network.params), "v": np.ones_like(network.params)}
    assert range_test(network, data, used, batch_size=16) == fresh and used.columns["m"][0] == 1


def test_numbers_and_images_have_rates_too_and_few_samples_are_taken_again() -> None:
    network, data = parts(loss="mse")
    assert 1e-3 < range_test(network, data, SGD(0.1, 0.9), batch_size=8).lr <= 0.5
    images = Dataset.from_arrays(RNG.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8), np.arange(40) % 2)
    network = small(images.shape, 2)
    plain, moved = (
        range_test(network, images, Adam(), batch_size=16, augment=how) for how in (None, Augmentation((1, 8, 8), 2))
    )
    assert plain.losses != moved.losses


@pytest.mark.parametrize(("spoil", "words"), [
    (0.0, "at which the loss falls, found none in 60 steps"), (np.nan, "expected a finite loss in the first step"),
])
def test_where_nothing_is_learned_it_says_so(spoil: float, words: str) -> None:
    network, data = parts()
    if spoil == 0:
        data = replace(data, train=replace(data.train, x=np.zeros_like(data.train.x)))
        data = replace(data, train=replace(data.train, y=np.arange(len(data.train), dtype=np.int32) % data.classes))
    else:
        network.params[:] = spoil
    with pytest.raises(RangeTestError, match=words) as caught:
        range_test(network, data, SGD(0.1), batch_size=64)
    assert "\n" not in str(caught.value)


class Stop(Callback):
    def stepped(self, loop: Any) -> None:
        if loop.steps_done == 5:
            loop.stop()


@pytest.mark.parametrize("how", [{}, {"optimizer": "adam"}, {"random": True, "sparsity": 0.5}])
def test_a_run_keeps_the_rate_that_was_found_and_goes_on_with_it(how: dict[str, Any]) -> None:
    config = RunConfig(**SMALL, **how)
    whole = sparsecore.run(config, out="whole")
    options = json.loads(Path("whole/config.json").read_text())["options"]
    assert isinstance(options["lr"], float) and options["lr_found"] is True
    assert sparsecore.run(config, out="part", callbacks=[Stop()]).state.result is None
    for again in (config, replace(config, lr=options["lr"]), None):
        gone_on = sparsecore.run(again, out="part", resume=True)
    assert np.array_equal(gone_on.network.params, whole.network.params)
    plain = sparsecore.run(replace(config, lr=options["lr"]))
    assert np.array_equal(plain.network.params, whole.network.params)
    other = f"lr: in part it was {options['lr']:g}, got 0.5"
    with pytest.raises(ConfigError, match=other):
        sparsecore.run(replace(config, lr=0.5), out="part", resume=True)


def test_the_command_says_the_rate_and_takes_auto_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*WORDS, "--lr", "auto", "--out", "run"]) == 0
    lr = json.loads(Path("run/config.json").read_text())["options"]["lr"]
    said = capsys.readouterr().out
    assert f"rate {lr:g}, found in " in said and f"rate {lr:g} (cosine)" in said and f"epochs, rate {lr:g}" in said
    assert train.main(["--lr", "auto", "--resume", "--out", "run"]) == 0
    assert train.main([*WORDS, "--lr", "0.1", "--out", "given"]) == 0
    assert train.main(["--lr", "auto", "--resume", "--out", "given"]) == 2
    assert "--lr: in given it was 0.1, got auto" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "words"), [
    ("fast", "--lr: expected a number above 0, or auto, such as 0.1 or auto, got 'fast'"),
    ("0", "--lr: expected a number above 0, or auto"), ("nan", "--lr: expected a number above 0, or auto"),
])
def test_what_is_no_rate_is_refused_on_one_line(word: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*WORDS, "--lr", word]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_run_that_finds_no_rate_says_so_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsecore.training.range_test.FALL", 1.0)
    assert train.main([*WORDS, "--lr", "auto"]) == 2
    said = capsys.readouterr().err
    assert "--lr auto: expected a rate from 0.0001 to 10 at which the loss falls, found none" in said
    assert said.count("\n") == 1
