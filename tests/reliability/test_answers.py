"""Answers that would be wrong without a word: each kind once, where it is decided, by the right value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]


# ---------------------------------------------------------------------------------------------- scikit-learn


def blobs(seed: int = 0, samples: int = 120) -> tuple[Array, Array]:
    """Three classes that lie apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=samples)
    return rng.standard_normal((samples, 6)) + 4 * rng.standard_normal((3, 6))[y], y


def estimators() -> list[Any]:
    sklearn = pytest.importorskip("sparsecore.interop.sklearn")
    options = {"hidden_layer_sizes": (16,), "sparsity": 0.5, "max_iter": 8, "random_state": 0}
    return [sklearn.SparseMLPClassifier(**options), sklearn.SparseMLPRegressor(**options)]


@pytest.mark.parametrize("samples", [120, 5000])
@pytest.mark.parametrize("value", [0.1, -1e30, 1e-200, 7.0, 0.0])
def test_a_column_that_is_constant_up_to_rounding_is_not_blown_up(value: float, samples: int) -> None:
    """A sample that differs there by rounding is the same sample, and so is the answer."""
    x, y = blobs(samples=samples)
    model = estimators()[0].set_params(max_iter=3)
    column = np.full(samples, value)
    column[::7] = np.nextafter(value, np.inf) if value else 0.0
    with_constant = np.column_stack([x, column])
    model.fit(with_constant, y)
    assert model._scale[-1] == 1
    other = with_constant.copy()
    other[:, -1] = np.nextafter(value, -np.inf)
    np.testing.assert_allclose(model.predict_proba(other), model.predict_proba(with_constant), atol=1e-4)


def test_a_constant_target_is_not_blown_up() -> None:
    x, _ = blobs()
    model = estimators()[1].fit(x, np.column_stack([x[:, 0], np.full(len(x), 0.1)]))
    assert model._y_scale[1] == 1 and model.predict(x)[:, 1] == pytest.approx(0.1, abs=1)


def test_small_deviations_that_are_no_rounding_are_scaled() -> None:
    x, y = blobs()
    tiny = 1 + 1e-9 * np.arange(len(x))
    assert estimators()[0].fit(np.column_stack([x, tiny]), y)._scale[-1] == pytest.approx(tiny.std())


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("at", ["before the first step", "in the second epoch", "of bad data", "diverged"])
def test_after_a_failed_refit_an_estimator_answers_as_before(
    which: int, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsecore.training.step import Step

    model = estimators()[which]
    (x, y), (fresh, _) = blobs(), blobs(1)
    model.fit(x, y)
    before, kept = model.predict(x), dict(vars(model))
    wider = np.column_stack([1000 * fresh, fresh])
    expected: type[BaseException] = KeyboardInterrupt
    if at == "of bad data":
        wider[3, 3], expected = np.nan, ValueError
    elif at == "diverged":
        model.set_params(learning_rate_init=1e30)
        kept, expected = dict(vars(model)), ValueError
    else:
        left = [0 if at == "before the first step" else 2]
        run = Step.run

        def interrupted(self: Step, start: int, batch: int) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            run(self, start, batch)

        monkeypatch.setattr(Step, "run", interrupted)
    with pytest.raises(expected), np.errstate(all="ignore"):
        model.fit(wider, y)
    monkeypatch.undo()
    assert np.array_equal(model.predict(x), before)
    assert vars(model).keys() == kept.keys() and all(vars(model)[name] is kept[name] for name in kept)


@pytest.mark.parametrize("which", [0, 1])
def test_an_estimator_whose_only_fit_failed_is_not_fitted(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.exceptions import NotFittedError

    from sparsecore.training.step import Step

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    model = estimators()[which]
    x, y = blobs()
    with monkeypatch.context() as patched:
        patched.setattr(Step, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y)
    with pytest.raises(NotFittedError):
        model.predict(x)
    assert not hasattr(model, "n_features_in_") and not hasattr(model, "network_")


# ---------------------------------------------------------------------------------------------- steps of prunings


def pruned_at(*words: str, steps: int = 100) -> list[int]:
    """The steps that a command's iterative pruning comes after."""
    from sparsecore.commands.pruning import Pruning
    from sparsecore.runs.config import RunConfig

    options = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    config = RunConfig(model="lenet300", dataset="digits", prune="iterative", prune_to=(0.9,), **options)
    schedule = Pruning(config, steps).schedule
    due = [step for step in range(2 * steps) if schedule.due(step)]
    assert due == schedule.steps()
    left = [1.0, *(1 - schedule.sparsity(step, 0.9) for step in due)]
    fractions = np.divide(left[1:], left[:-1])
    np.testing.assert_allclose(fractions, 0.1 ** (1 / len(due)))  # every round takes the same fraction of what is left
    assert schedule.sparsity(due[-1], 0.9) == 0.9
    return due


def test_iterative_pruning_comes_at_the_steps_that_were_asked_for() -> None:
    whole = ("prune_start", "0", "prune_end", "100")
    assert pruned_at(*whole, "prune_every", "40") == [0, 40, 80, 100]
    assert pruned_at(*whole, "prune_every", "25") == [0, 25, 50, 75, 100]
    assert pruned_at(*whole, "prune_every", "1000") == [0, 100]
    assert pruned_at("prune_start", "0", "prune_end", "0", "prune_every", "3") == [0]
    assert pruned_at("prune_start", "7", "prune_end", "60", "prune_every", "20") == [7, 27, 47, 60]
    assert pruned_at("prune_start", "0", "prune_end", "103", steps=103) == [0, 25, 51, 77, 103]  # five rounds
    assert pruned_at("prune_start", "3", "prune_end", "5") == [3, 4, 5]  # as many as there are steps
    assert pruned_at("prune_end", "100", "prune_every", "40") == [20, 60, 100]  # no start was asked for
    assert pruned_at(steps=252) == [26, 51, 76, 101, 126]  # as runs of earlier versions have it that go on


@pytest.mark.parametrize("start", [0, 3, 17])
@pytest.mark.parametrize("end", [17, 50, 99, 100])
@pytest.mark.parametrize("every", [None, 1, 7, 40, 200])
def test_any_start_stride_and_end_are_kept(start: int, end: int, every: int | None) -> None:
    words = ["prune_start", str(start), "prune_end", str(end)] + (["prune_every", str(every)] if every else [])
    found = pruned_at(*words)
    assert found[0] == start and found[-1] == end and (every is not None or len(found) == min(5, 1 + end - start))
    assert every is None or set(np.diff(found[:-1])) <= {every}


# ---------------------------------------------------------------------------------------------- lanes past the batch


def overflowing(kind: str, dtype: Any) -> Any:
    """A network whose second layer makes Inf, in float32, of a sample of zeros, and of no sample whose first number is
    1000."""
    from sparsecore.layers import Flatten, MaxPool2d, ReLU, Residual, Sequential, SparseConv2d, SparseLinear
    from sparsecore.network import Network
    from sparsecore.storage.pattern import SparsityPattern

    rng, full = np.random.default_rng(0), SparsityPattern.full
    first, second = rng.standard_normal((6, 8)), rng.standard_normal((8, 6))
    first[0], first[:, 0], second[:, 0] = 0, 0, 1e18  # whose square is still a number
    first[0, 0], bias = -2e18, np.array([1e21, 1, 1, 1, 1, 1.0])
    head = SparseLinear(full((3, 8)), rng.standard_normal(24), dtype=dtype)
    options: Any = {"relu": True, "dtype": dtype}
    if kind == "convolutions":
        return Network([
            SparseConv2d(full((6, 8)), (8, 2, 2), 1, weight=first.ravel(), bias=bias, **options),
            SparseConv2d(full((8, 6)), (6, 2, 2), 1, weight=second.ravel(), **options),
            MaxPool2d((8, 2, 2), 2), Flatten((8, 1, 1)), head,
        ])  # fmt: skip
    if kind == "coo":
        options["format"] = "coo"
    below = [SparseLinear(full((6, 8)), first.ravel(), bias, **options)]
    above = [SparseLinear(full((8, 6)), second.ravel(), **options)]
    if kind == "residual":
        return Network([Residual(Sequential([*below, *above])), head])
    if kind == "relu":
        below.append(ReLU((6,)))
    return Network([*below, *above, head])


KINDS = ("linear", "coo", "relu", "residual", "convolutions")


def gradients(network: Any, batch: int, how: str) -> Array:
    """The gradients of a batch, by a step or by hand; or its curvatures."""
    from sparsecore.data import Split
    from sparsecore.data.batches import Batches
    from sparsecore.prune.saliency import curvature
    from sparsecore.runtime.devices import cpu
    from sparsecore.runtime.workspace import Workspace
    from sparsecore.training.losses import CrossEntropy
    from sparsecore.training.optimizers import SGD
    from sparsecore.training.step import Step

    shape = network.layers[0].in_shape
    x = np.random.default_rng(1).random((40, *shape), np.float32)
    x[:, 0] = 1000
    split = Split(x.reshape(40, -1), np.arange(40, dtype=np.int32) % 3)
    batches = Batches(split, shape, [0.0], [1.0], cpu(), network.dtype)
    if how == "curvature":
        found = curvature(network, batches, samples=batch)
        return np.concatenate([found[path] for path in network.patterns])
    if how == "step":
        step = Step(network, batches, SGD(0.0))
        step.run(0, batch)
        return np.array(step.grads)
    workspace = Workspace()
    batches.seek(0, batch)
    given, labels = batches.pack(workspace)
    z, caches = network.forward(given, workspace)
    network.backward(CrossEntropy()(z, labels, workspace), caches, workspace)
    return np.concatenate([
        workspace.at(row.path.rpartition(".")[0]).find(row.path.rpartition(".")[2]) for row in network.table.rows
    ])  # fmt: skip


@pytest.mark.parametrize("batch", [1, 5, 17, 33])
@pytest.mark.parametrize("how", ["step", "by hand", "curvature"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_overflows_past_the_batch_reaches_no_gradient(kind: str, how: str, batch: int) -> None:
    with np.errstate(over="ignore"):
        found = gradients(overflowing(kind, np.float32), batch, how)
    right = gradients(overflowing(kind, np.float64), batch, how)  # in which nothing overflows
    assert np.isfinite(right).all() and right.any()
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch", [16, 32])
def test_a_step_without_such_lanes_clears_none(batch: int) -> None:
    from sparsecore.layers import SparseLinear
    from sparsecore.network import Network
    from sparsecore.runtime.tiles import LANES, Tiles
    from sparsecore.runtime.workspace import Workspace
    from sparsecore.storage.pattern import SparsityPattern
    from tests.small import Counting

    network = Network([SparseLinear(SparsityPattern.full((4, 4)))])
    kernels = Counting()
    network.forward(Tiles(np.zeros((batch // LANES, 4, LANES), np.float32), batch), Workspace(kernels=kernels))
    assert kernels.calls == ["spmm"]


# ---------------------------------------------------------------------------------------------- shapes


COLOURS, LAST = (3, 8, 8), (8, 8, 3)


def images_network(*, flat: bool = False, normalised: bool = True) -> Any:
    """A network of images; a flat one knows their shape by its normalisation."""
    from sparsecore.data.normalisation import Normalisation
    from sparsecore.layers import SparseConv2d, SparseLinear
    from sparsecore.network import Network
    from sparsecore.storage.pattern import SparsityPattern

    rng, full = np.random.default_rng(0), SparsityPattern.full
    first = SparseLinear(full((4, 192)), rng=rng) if flat else SparseConv2d(full((2, 27)), COLOURS, 3, rng=rng)
    norm = Normalisation(COLOURS, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)) if normalised else None
    return Network([first, SparseLinear(full((3, int(np.prod(first.out_shape)))), rng=rng)], normalisation=norm)


def dataset_of(shape: tuple[int, ...]) -> Any:
    from sparsecore.data import Dataset, Split

    rng = np.random.default_rng(3)
    x, y = rng.integers(256, size=(30, int(np.prod(shape))), dtype=np.uint8), np.arange(30, dtype=np.int32) % 3
    return Dataset("some", "", Split(x, y), Split(x, y), shape, 3, (0.5,), (0.3,))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_images_in_another_order_are_refused_by_whoever_is_asked(flat: bool, kind: Any) -> None:
    network = images_network(flat=flat)
    x = np.random.default_rng(1).integers(0, 2, (5, *COLOURS)).astype(kind)
    wanted = network.logits(x)
    for same in (x.reshape(5, -1), x.reshape(5, -1).tolist() if kind != np.uint8 else x, x[:, :, None], x[..., None]):
        assert np.array_equal(network.logits(same), wanted)
    for wrong in (x.transpose(0, 2, 3, 1), x.reshape(5, *LAST), x.reshape(5, 8, 24), x.reshape(5, 2, 96)):
        for ask in (network.logits, network.predict, network.normalisation):
            with pytest.raises(ValueError, match=r"must be samples of 3×8×8, got") as refused:
                ask(wrong)
            assert "\n" not in str(refused.value)


def test_a_flat_network_that_knows_no_images_takes_them_in_any_shape() -> None:
    network = images_network(flat=True, normalised=False)
    x = np.random.default_rng(1).random((5, *COLOURS), np.float32)
    assert np.array_equal(network.logits(x), network.logits(x.reshape(5, -1)))


@pytest.mark.parametrize("flat", [False, True])
def test_data_of_images_in_another_order_are_refused(flat: bool) -> None:
    from sparsecore.data.normalisation import Normalisation
    from sparsecore.runtime.devices import cpu
    from sparsecore.training.evaluation import Evaluation, check_fit

    network = images_network(flat=flat)
    for shape in (COLOURS, (192,)):
        check_fit(network, dataset_of(shape))
    with pytest.raises(ValueError, match=r"^some: Network\(.*\) takes samples of 3×8×8, got 8×8×3, .* transpose them$"):
        check_fit(network, dataset_of(LAST))
    if not flat:
        with pytest.raises(ValueError, match="takes samples of 3×8×8, got 8×8×3"):
            Evaluation(network, dataset_of(LAST).test, Normalisation(LAST, (0.0,), (1.0,)), cpu())


def test_augmentation_tiles_and_checkpoints_of_images_in_another_order_are_refused(tmp_path: Any) -> None:
    from sparsecore.data.augmentation import Augmentation
    from sparsecore.data.batches import Batches
    from sparsecore.data.normalisation import Normalisation
    from sparsecore.runs.checkpoint import CheckpointError, load, save
    from sparsecore.runtime.devices import cpu
    from sparsecore.runtime.tiles import LANES, Tiles

    network, data = images_network(), dataset_of(COLOURS)
    for shape in (COLOURS, (192,)):
        Batches(data.train, shape, [0.0], [1.0], cpu(), augment=Augmentation(COLOURS, 1))
    with pytest.raises(ValueError, match="samples of 3×8×8 cannot be augmented as images of 8×8×3"):
        Batches(data.train, COLOURS, [0.0], [1.0], cpu(), augment=Augmentation(LAST, 1))
    for shape in (COLOURS, (192,)):
        network.layers[0].forward(Tiles(np.zeros((1, *shape, LANES), np.float32), 5))
    with pytest.raises(ValueError, match="x must be of 3×8×8, got 8×8×3"):
        network.layers[0].forward(Tiles(np.zeros((1, *LAST, LANES), np.float32), 5))
    network.normalisation = Normalisation(LAST, (0.0,), (1.0,))
    save(network, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="its parts do not fit: normalisation of shape"):
        load(tmp_path / "a.safetensors")


# ---------------------------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize(
    "value, where, problem",
    [
        (np.nan, "weight", "parameters are not finite in SparseLinear(784→12)"),
        (np.inf, "bias", "parameters are not finite in SparseLinear(784→12)"),
        (3e38, "weight", "outputs are too large for float32"),
    ],
)
def test_a_network_that_is_not_finite_has_no_accuracy(
    value: float, where: str, problem: str, json: bool, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import sparsecore
    from sparsecore import evaluate
    from sparsecore.layers import SparseLinear
    from sparsecore.storage.pattern import SparsityPattern

    rng, full = np.random.default_rng(0), SparsityPattern.full
    layers = [SparseLinear(full((12, 784)), rng=rng, relu=True), SparseLinear(full((10, 12)), rng=rng)]
    count = 1 if where == "bias" else 784
    layers[0].params[where][:count], layers[0].params[where][count : 2 * count] = value, -value
    sparsecore.save(sparsecore.Network(layers), tmp_path / "a.safetensors")
    words = [str(tmp_path / "a.safetensors"), "--dataset", "mnist-subset", *(["--json"] if json else [])]
    with np.errstate(all="ignore"):
        assert evaluate.main(words) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1
    assert problem in said.err and "cannot be evaluated" in said.err and "%" not in said.err


def test_a_large_loss_is_not_a_line_of_digits(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import sparsecore
    from sparsecore import evaluate
    from sparsecore.layers import SparseLinear
    from sparsecore.storage.pattern import SparsityPattern

    layer = SparseLinear(SparsityPattern.full((10, 784)), rng=np.random.default_rng(0), dtype=np.float64)
    layer.params["weight"] *= 1e290
    sparsecore.save(sparsecore.Network([layer]), tmp_path / "a.safetensors")
    assert evaluate.main([str(tmp_path / "a.safetensors"), "--dataset", "mnist-subset"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "test accuracy" in each]
    assert len(line) < 150 and "e+29" in line and "nan" not in line


def test_figures_are_as_ever_and_never_a_line_of_digits() -> None:
    from sparsecore.commands.report import result_line
    from sparsecore.errors import figure

    for value in (0.0, 0.12345, 2.302585, 1e6, 123456789.0, float("nan"), float("inf")):
        assert figure(value, ".4f") == f"{value:.4f}" and figure(value, ".2%") == f"{value:.2%}"
    assert figure(1e300, ".4f") == figure(1e300, ".2%") == "1e+300" and figure(-1.5e200, ".2f") == "-1.5e+200"
    numbers = ("test_accuracy", "sparsity", "global_sparsity", "train_seconds", "step_ms")
    record = dict.fromkeys(numbers, 1e300) | {"connections": 10**300, "epochs": 1}
    assert len(result_line(record | dict.fromkeys(("model", "dataset", "device"), "some"))) < 250


# ---------------------------------------------------------------------------------------------- two names for one thing


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("name", ["00.weight", "0.Weight", "0..weight", " 0.weight", "+0.weight", "0.0.weight"])
def test_a_second_spelling_of_a_parameter_is_refused(name: str, version: str, tmp_path: Any) -> None:
    from pathlib import Path

    from safetensors import safe_open
    from safetensors.numpy import save_file

    import sparsecore
    from sparsecore.runs.checkpoint import CheckpointError, _checksum
    from tests.small import network

    source = Path(__file__).parents[1] / "fixtures" / "format1" / "plain.safetensors"
    if version == "2":
        source = tmp_path / "source.safetensors"
        sparsecore.save(network(), source)
    with safe_open(source, framework="numpy") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118
    assert header["version"] == version
    sparsecore.load(source)
    tensors[name] = tensors["0.weight"] + 1
    del header["sha256"]
    save_file(tensors, tmp_path / "two.safetensors", header | {"sha256": _checksum(tensors, header)})
    with pytest.raises(CheckpointError, match="its parts do not fit"):
        sparsecore.load(tmp_path / "two.safetensors")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    "extra", [{"00.weight": (4, 4)}, {"0.biases": (4,)}, {"00.bias": (4,)}, {"0.kernel": (4, 4)}]
)
def test_two_arrays_of_weights_for_one_use_are_refused(extra: dict[str, Any], suffix: str, tmp_path: Any) -> None:
    from safetensors.numpy import save_file

    from sparsecore.prune.weights import WeightsError, read_weights

    plain = {"0.weight": (4, 4), "0.bias": (4,), "1.weight": (4, 4), "1.bias": (4,)}
    path = tmp_path / f"weights{suffix}"

    def write(shapes: dict[str, Any]) -> None:
        arrays = {name: np.full(shape, k + 1, np.float32) for k, (name, shape) in enumerate(shapes.items())}
        np.savez(path, **arrays) if suffix == ".npz" else save_file(arrays, path)

    write(plain)
    read_weights(path)
    write(plain | extra)
    with pytest.raises(WeightsError, match=r"expected one array for each use, got \S+ and \S+ for the same") as refused:
        read_weights(path)
    assert next(iter(extra)) in str(refused.value)


def test_an_archive_that_holds_a_name_twice_is_refused(tmp_path: Any) -> None:
    import io
    import zipfile

    from sparsecore.prune.weights import WeightsError, read_weights

    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for k in range(2):
            content = io.BytesIO()
            np.save(content, np.full((4, 4), k, np.float32))
            with pytest.warns(UserWarning, match="Duplicate") if k else pytest.MonkeyPatch.context():
                archive.writestr("0.weight.npy", content.getvalue())
    with pytest.raises(WeightsError, match=r"expected one array of a name, got 0\.weight twice"):
        read_weights(tmp_path / "twice.npz")
