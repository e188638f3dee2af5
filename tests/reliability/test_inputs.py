"""What a network, a layer or an estimator is asked with: taken for what it is, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sparsecore
from sparsecore.data import Dataset, Split, load, npz
from sparsecore.data.normalisation import Normalisation
from sparsecore.layers import SparseLinear
from sparsecore.network import Network
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import cpu
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.training.callbacks import Callback
from sparsecore.training.evaluation import Evaluation
from sparsecore.training.optimizers import SGD

Array = NDArray[Any]
full = SparsityPattern.full


# ---------------------------------------------------------------------------------------------- 7: how inputs were made


def digits(kind: Any, top: float = 255.0) -> Dataset:
    """Pixels of three classes that lie apart, as uint8 or as floats up to `top`."""
    rng = np.random.default_rng(0)
    y = np.arange(90, dtype=np.int32) % 3
    x = np.clip(rng.normal(100, 20, (90, 12)) + 120 * (np.arange(12) % 3 == y[:, None]), 0, 255).astype(np.uint8)
    x = x if kind == np.uint8 else (x * (top / 255)).astype(np.float32)
    unit = 255.0 if kind == np.uint8 else 1.0
    split = Split(x, y)
    return Dataset("some", "", split, split, (12,), 3, (float(x.mean() / unit),), (float(x.std() / unit),))


def trained(dataset: Dataset, dtype: Any = np.float32) -> Network:
    rng = np.random.default_rng(1)
    network = Network([SparseLinear(full((8, 12)), relu=True, rng=rng, dtype=dtype),
                       SparseLinear(full((3, 8)), rng=rng, dtype=dtype)])  # fmt: skip
    Trainer(network, dataset, SGD(0.1), epochs=20, batch_size=30).run()
    return network


def evaluated(network: Network, dataset: Dataset) -> float:
    """The mean loss, found as a training run finds it."""
    norm = network.normalisation
    assert norm is not None
    return Evaluation(network, dataset.test, norm, cpu())().mean_loss


def loss(logits: Array, y: Array) -> float:
    powers = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf).astype(np.float64))
    return float(-np.log(powers[np.arange(len(y)), y] / powers.sum(1)).mean())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_of_pixels_takes_integers_of_any_kind(dtype: Any, tmp_path: Path) -> None:
    data = digits(np.uint8)
    network, x = trained(data, dtype), data.test.x
    assert network.normalisation is not None and network.normalisation.dtype == "uint8"
    wanted = network.logits(x)
    assert loss(wanted, data.test.y) == pytest.approx(evaluated(network, data), rel=1e-4)
    sparsecore.save(network, tmp_path / "a.safetensors")
    for asked in (network, sparsecore.load(tmp_path / "a.safetensors")):
        for same in (
            x.astype(np.int64),
            x.astype(">u2"),
            x.tolist(),
            np.asfortranarray(x),
            x.astype(np.int16)[:, None],
        ):
            assert np.array_equal(asked.logits(same), wanted)
            assert np.array_equal(asked.normalisation(same, dtype), network.normalisation(x, dtype))  # type: ignore[misc]
        ready = network.normalisation(x, dtype)
        np.testing.assert_allclose(asked.logits(ready), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(asked.logits(ready, normalised=True), wanted, rtol=1e-4, atol=1e-5)
        for wrong in (x.astype(np.int64) - 200, x.astype(np.int32) * 2, x > 120, x.astype(np.float32), x * 1e3):
            for ask in (asked.logits, asked.predict):
                with pytest.raises(ValueError, match=r"normalisation: x must be pixels .* got"):
                    ask(wrong)
        with pytest.raises(TypeError, match="x must be pixels, which are integers, got float32"):
            asked.normalisation(x.astype(np.float32))  # type: ignore[misc]


@pytest.mark.parametrize("top", [1.0, 16.0, 255.0])
def test_a_network_of_numbers_normalises_them_as_training_does(top: float, tmp_path: Path) -> None:
    data = digits(np.float32, top)
    network, x = trained(data), data.test.x
    assert np.mean(network.predict(x) == data.test.y) > 0.99
    assert loss(network.logits(x), data.test.y) == pytest.approx(evaluated(network, data), rel=1e-4)
    sparsecore.save(network, tmp_path / "a.safetensors")
    for asked in (network, sparsecore.load(tmp_path / "a.safetensors")):
        for same in (x.astype(np.float64), x.tolist(), x.astype(">f4")):
            assert np.array_equal(asked.logits(same), network.logits(x))
        np.testing.assert_allclose(
            asked.logits(asked.normalisation(x), normalised=True), network.logits(x), rtol=1e-4  # type: ignore[misc]
        )  # fmt: skip
        with pytest.raises(TypeError, match="x must be numbers in float32, as the network was trained on, got pixels"):
            asked.predict(x.astype(np.uint8))
    if top == 255:
        assert np.array_equal(network.logits(x.astype(np.int64)), network.logits(np.floor(x)))


def test_numbers_are_rounded_as_training_rounds_them() -> None:
    data = digits(np.float32)
    network, x = trained(data, np.float64), data.test.x.astype(np.float64)
    assert np.array_equal(network.logits(x * (1 + 1e-9)), network.logits(x))


@pytest.mark.parametrize("kinds", [(np.uint8, np.float32), (np.float32, np.uint8)])
def test_data_of_another_kind_are_refused(kinds: Any) -> None:
    network = trained(digits(kinds[0]))
    with pytest.raises(ValueError, match=r"was trained on samples of .*, got"):
        evaluated(network, digits(kinds[1]))


def test_a_network_of_an_earlier_version_answers_as_it_did(tmp_path: Path) -> None:
    data = digits(np.uint8)
    network, x = trained(data), data.test.x
    norm = network.normalisation
    assert norm is not None
    network.normalisation = Normalisation(norm.shape, norm.mean, norm.std)
    sparsecore.save(network, tmp_path / "a.safetensors")
    old, floats = sparsecore.load(tmp_path / "a.safetensors"), norm(x)
    assert old.normalisation == network.normalisation
    assert np.array_equal(old.logits(floats * 3), network.logits(floats * 3, normalised=True))
    for same in (x, x.astype(np.int64)):  # which counted as normalised
        assert np.array_equal(old.logits(same), network.logits(floats, normalised=True))
    assert np.array_equal(old.normalisation(x / np.float32(255)), network.normalisation(x / np.float32(255)))  # type: ignore[misc]


def test_what_a_network_was_trained_on_is_one_of_two_kinds() -> None:
    with pytest.raises(ValueError, match="dtype must be uint8, float32 or None, got 'int64'"):
        Normalisation((3,), (0.0,), (1.0,), "int64")


# ---------------------------------------------------------------------------------------------- 7: tables


def table(tmp_path: Path, name: str = "table.npz") -> str:
    """Columns of scales that lie far apart; all of the classes is in the small ones."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=240)
    x = rng.standard_normal((240, 6)) + 3 * np.eye(3, 6)[y]
    x = np.column_stack([x * np.geomspace(1e-3, 1e3, 6) + [0, 5, 2000, 0, 0, 1e4], np.full(240, 0.1)])
    np.savez(tmp_path / name, x=x, y=y)
    return str(tmp_path / name)


def run_on(path: str, out: Path | None = None, callbacks: Any = (), **others: Any) -> Trainer:
    options: dict[str, Any] = {"model": "lenet300", "hidden": (16, 8), "epochs": 6} | others
    return sparsecore.run(sparsecore.RunConfig(dataset=path, seed=3, **options), out=out, callbacks=callbacks)


def test_a_table_is_standardised_column_by_column(tmp_path: Path) -> None:
    path = table(tmp_path)
    data = load(path)
    x = data.train.x.astype(np.float64)
    assert data.mean == pytest.approx(x.mean(0), rel=1e-6) and data.std[:6] == pytest.approx(x.std(0)[:6], rel=1e-6)
    assert data.std[6] == 1, "a constant column is shifted alone"
    trainer = run_on(path, epochs=20)
    result = trainer.state.result
    assert result is not None and result["test_accuracy"] > 0.9
    assert np.mean(trainer.network.predict(data.test.x) == data.test.y) == result["test_accuracy"]


def test_wine(tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_wine(return_X_y=True)
    np.savez(tmp_path / "wine.npz", x=x, y=y)
    result = run_on(str(tmp_path / "wine.npz"), hidden=None, epochs=20).state.result
    assert result is not None and result["test_accuracy"] > 0.9  # 0.69 by one mean for all columns


def test_pixels_and_constant_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.integers(256, size=(40, 6)).astype(np.uint8), y=np.arange(40) % 2)
    assert len(load(tmp_path / "a.npz").mean) == 1, "flat images have one mean"
    np.savez(tmp_path / "a.npz", x=np.full((40, 6), 0.1), y=np.arange(40) % 2)
    with pytest.raises(ValueError, match="expected values that differ"):
        load(tmp_path / "a.npz")


class Stop(Callback):
    def stepped(self, loop: Any) -> None:
        if loop.steps_done == 5:
            loop.stop()


def test_a_run_of_an_earlier_version_goes_on_with_its_one_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, moments = table(tmp_path), npz._moments
    with monkeypatch.context() as earlier:
        earlier.setattr(npz, "_moments", lambda path, x, channels, table: moments(path, x, 1, False))
        whole = run_on(path)
        assert run_on(path, tmp_path / "run", [Stop()]).state.result is None
    again = sparsecore.run(out=tmp_path / "run", resume=True)
    assert again.network.normalisation == whole.network.normalisation
    assert np.array_equal(again.network.params, whole.network.params)
    pruned = run_on(path, start_from=str(tmp_path / "run"), hidden=None, prune="one-time", prune_to=(0.5,), epochs=1)
    assert pruned.network.normalisation == whole.network.normalisation
