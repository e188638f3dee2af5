"""What a network, a layer or an estimator is asked with: taken for what it is, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from numpy.typing import NDArray

import sparsecore
from sparsecore.data import Dataset, Split, arrays, load
from sparsecore.data.batches import Batches
from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.operator import SparseOperator
from sparsecore.layers import SparseLinear
from sparsecore.network import Network
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import Labels, Targets
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
    path, moments = table(tmp_path), arrays.moments_of
    with monkeypatch.context() as earlier:
        earlier.setattr(arrays, "moments_of", lambda name, channels, table, split: moments(name, 1, False, split))
        whole = run_on(path)
        assert run_on(path, tmp_path / "run", [Stop()]).state.result is None
    again = sparsecore.run(out=tmp_path / "run", resume=True)
    assert again.network.normalisation == whole.network.normalisation
    assert np.array_equal(again.network.params, whole.network.params)
    pruned = run_on(path, start_from=str(tmp_path / "run"), hidden=None, prune="one-time", prune_to=(0.5,), epochs=1)
    assert pruned.network.normalisation == whole.network.normalisation


# ---------------------------------------------------------------------------------------------- 9: no real numbers

HIDDEN = np.ma.masked_array(np.ones((2, 3)), [[0, 0, 0], [0, 0, 1]])
NO_NUMBERS: dict[str, Any] = {
    "complex": np.ones((2, 3)) + 1j, "long double": np.ones((2, 3), np.longdouble), "hidden": HIDDEN,
    "objects": np.ones((2, 3), object), "text": np.ones((2, 3)).astype(str), "times": np.zeros((2, 3), "m8[s]"),
}  # fmt: skip


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_jax_takes_real_numbers_alone(which: str) -> None:
    jax = pytest.importorskip("jax")
    from sparsecore.interop.jax import as_function

    f = as_function(SparseLinear(full((2, 3))))
    shapes = {"x": (2, 3), "weight": (6,), "bias": (2,)}
    given = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    wanted = np.asarray(f(**given))

    def ask(values: Any) -> Array:
        return np.asarray(f(**given | {which: values}))

    size = int(np.prod(shapes[which]))
    for name, values in NO_NUMBERS.items():
        wrong = values.reshape(-1)[-size:].reshape(shapes[which])
        with pytest.raises((TypeError, ValueError), match=f"{which} (must hold real numbers, got|has hidden entries)"):
            ask(wrong)
        if name == "complex":
            with pytest.raises(TypeError, match=f"{which} must hold real numbers, got complex64"):
                jax.jit(lambda v: f(**given | {which: v}))(jax.numpy.asarray(wrong, np.complex64))
    with pytest.raises(ValueError, match=f"{which} must be numbers that float32 holds, got 1e\\+200"):
        ask(np.full(shapes[which], 1e200))
    for kind in ("<f8", ">f4", ">f8"):
        assert np.array_equal(ask(given[which].astype(kind)), wanted)
    if which == "x":
        for same in (given["x"].astype(int), given["x"] > 0, given["x"].astype(">i2"), given["x"].tolist()):
            assert np.array_equal(ask(same), wanted)


@pytest.mark.parametrize("kind", ["i1", "u1", ">i2", "<u2", ">i4", "<i8", ">u8"])
def test_labels_are_integers_of_any_kind(kind: str) -> None:
    found = Labels.pack(np.array([2, 0, 1]).astype(kind), 3)
    assert found.data[:3].tolist() == [2, 0, 1] and found.data.dtype == np.int32
    with pytest.raises(ValueError, match="labels must be at least 0 and below 2, got 2 at position 0"):
        Labels.pack(np.array([2, 0, 1]).astype(kind), 2)


@pytest.mark.parametrize(
    "labels, problem",
    [
        (np.array([0.0, 1.0]), "integers, got float64"), (np.array([0.5, 1]), "integers, got float64"),
        (np.array([0, 1]) + 0j, "integers, got complex128"), (np.array([False, True]), "integers, got bool"),
        (np.array([0, 1], object), "integers, got object"), (["0", "1"], "integers, got <U1"),
        (np.array([0, 1], "m8[s]"), r"integers, got timedelta64\[s\]"), ([[0], [1, 2]], "got ragged ones"),
        (np.ma.masked_array([0, 1], [False, True]), "labels has hidden entries"),
    ],
)  # fmt: skip
def test_labels_that_are_no_integers(labels: Any, problem: str) -> None:
    from sparsecore.gradcheck import gradcheck

    for ask in (
        lambda: Labels.pack(labels, 3),
        lambda: gradcheck(Network([SparseLinear(full((3, 4)))]), np.ones((2, 4)), labels=labels),
    ):
        with pytest.raises((TypeError, ValueError), match=problem) as refused:
            ask()
        assert "\n" not in str(refused.value)


# ---------------------------------------------------------------------------------------------- 22: lost on the way


def test_hidden_entries_are_no_connections() -> None:
    hidden = np.ma.masked_array(np.ones((2, 3)), [[0, 0, 1], [0, 0, 0]])
    row = hidden.reshape(-1)
    for use in (
        lambda: SparsityPattern.from_dense(hidden),
        lambda: full((2, 3)).select(row.astype(bool)),
        lambda: SparseLinear(full((2, 3))).prune(row.astype(bool)),
        lambda: SparsityPattern((2, 3), [0, 1, 2], np.ma.masked_array([0, 1], [0, 1])),
        lambda: SparsityPattern.from_coo((2, 3), np.ma.masked_array([0, 1], [0, 1]), [0, 1]),
    ):
        with pytest.raises(ValueError, match="has hidden entries, which have no value"):
            use()
    assert SparsityPattern.from_dense(np.ma.masked_array(np.eye(2)))[0].nnz == 2


def test_an_estimator_takes_no_hidden_entries_and_no_long_doubles() -> None:
    sklearn = pytest.importorskip("sparsecore.interop.sklearn")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    for kind, y in ((sklearn.SparseMLPClassifier, np.arange(60) % 3), (sklearn.SparseMLPRegressor, x[:, 0])):
        model = kind((8,), sparsity=0.5, max_iter=2, random_state=0).fit(np.ma.masked_array(x), y)
        hidden, wide = np.ma.masked_array(x, x > 2), x.astype(np.longdouble)
        for values, problem in ((hidden, "X has hidden entries"), (wide, "X must hold real numbers, got")):
            with pytest.raises((TypeError, ValueError), match=problem):
                model.fit(values, y)
            with pytest.raises((TypeError, ValueError), match=problem):
                model.predict(values)
        with pytest.raises(ValueError, match="y has hidden entries"):
            model.fit(x, np.ma.masked_array(y, y == y[0]))
        with pytest.raises(ValueError, match=r"X must be numbers that float32 holds, got .*e\+200"):
            model.predict(x * 1e200)
        with pytest.raises(ValueError, match="columns must hold numbers whose squares float64 holds, got"):
            model.fit(x * 1e200, y)


LARGE = np.full((2, 3), 1e200)
ZEROS = Split(np.zeros((2, 3), np.float32), np.zeros(2, np.int32))


@pytest.mark.parametrize(
    "use",
    [
        lambda: SparseLinear(full((2, 3))).forward(LARGE),
        lambda: SparseLinear(full((2, 3)), np.full(6, -1e200)),
        lambda: SparseLinear(full((2, 3)), None, np.full(2, 1e39)),
        lambda: Network([SparseLinear(full((2, 3)))]).logits(LARGE),
        lambda: Network([SparseLinear(full((2, 3)))]).predict(LARGE),
        lambda: setattr(Network([SparseLinear(full((2, 3)))]), "params", np.full(8, 1e200)),
        lambda: Network([SparseLinear(SparsityPattern.from_dense(np.eye(2, 3))[0])]).rewire({0: full((2, 3))}, 1e200),
        lambda: SparseOperator(scipy.sparse.csr_array(np.ones((2, 3), np.float32))) @ LARGE.T,
        lambda: Normalisation((3,), (0.0,), (1.0,))(LARGE),
        lambda: Targets.pack(LARGE, np.float32),
        lambda: Batches(ZEROS, (3,), (0.0,), (1.0,), cpu(), targets=LARGE),
    ],
)  # fmt: skip
def test_what_float32_cannot_hold_is_refused(use: Any) -> None:
    with pytest.raises(ValueError, match=r"must be numbers that float32 holds, got 1e\+(200|39)") as refused:
        use()
    assert "\n" not in str(refused.value)


def test_infinities_that_are_given_are_taken() -> None:
    layer = SparseLinear(full((2, 3)), np.ones(6))
    assert np.isinf(layer.forward(np.array([[np.inf, 0, 0]]))[0]).all()
    with pytest.raises(ValueError, match="got NaN as logits of sample 1"):
        Network([layer]).predict([[0, 0, 0], [np.inf, -np.inf, 0]])


@pytest.mark.parametrize(
    "words, threads", [("1", 1), ("1,1", 1), (" 1 , 4", 1), ("²", 0), ("²,1", 0), ("0", 0), ("-1", 0), ("x", 0),
                       ("", 0), ("99999", 0), ("१", 0)],
)  # fmt: skip
def test_the_threads_that_openmp_would_take(words: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsecore.runtime.devices import default_threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    everything = default_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", words)
    assert default_threads() == (threads or everything)


def test_names_of_weights_with_digits_that_are_no_numbers(tmp_path: Path) -> None:
    from sparsecore.prune.weights import read_weights

    np.savez(tmp_path / "a.npz", **{"²": np.ones((3, 4)), "³": np.ones((2, 3))})
    assert read_weights(tmp_path / "a.npz").layers[0].in_shape == (4,)
