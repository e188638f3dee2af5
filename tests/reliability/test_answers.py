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
