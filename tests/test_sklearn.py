"""The estimators are scikit-learn's in all that it checks, and sparse in what they store."""

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'sparsecore[sklearn]'")

from sklearn.base import clone
from sklearn.datasets import load_digits, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecore.interop.sklearn import SparseMLPClassifier, SparseMLPRegressor
from sparsecore.layers.initial import initial_values
from sparsecore.topology import dense, fit_radix_net

DIGITS = train_test_split(*load_digits(return_X_y=True), random_state=0)


@parametrize_with_checks([SparseMLPClassifier(), SparseMLPRegressor()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def least(reference):
    """What must be reached beside another model's test accuracy: all but two standard errors of such a difference."""
    return reference - 2 * np.sqrt(2 * reference * (1 - reference) / len(DIGITS[1]))


def masked_score(patterns, epochs):
    """scikit-learn's own perceptron, dense but for a mask that is put on after every step of plain momentum.

    It starts from values of the engine's distribution: the default one is smaller, which alone is worth a point here.
    """
    x, x_test, y, y_test = DIGITS
    scaler, rng = StandardScaler().fit(x), np.random.default_rng(0)
    x = scaler.transform(x)
    sizes = [pattern.shape[0] for pattern in patterns]
    model = MLPClassifier(sizes, solver="sgd", learning_rate_init=0.05, nesterovs_momentum=False, random_state=0)
    patterns = [*patterns, dense(10, sizes[-1])]
    masks = [pattern.to_scipy(np.ones(pattern.nnz)).toarray().T for pattern in patterns]
    model.partial_fit(x[:1], y[:1], classes=np.unique(y))
    model.coefs_ = [pattern.to_scipy(initial_values(pattern, rng, np.float64)).toarray().T for pattern in patterns]
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), 11):
            model.partial_fit(x[rows], y[rows])
            model.coefs_ = [w * mask for w, mask in zip(model.coefs_, masks, strict=True)]
    return model.score(scaler.transform(x_test), y_test)


@pytest.mark.parametrize("topology", ["expander", "explicit", "random", "dense"])
def test_digits_are_learned_as_well_as_under_a_mask(topology):
    x, x_test, y, y_test = DIGITS
    model = SparseMLPClassifier((100, 50), topology=topology, max_iter=40, random_state=0).fit(x, y)
    reference = masked_score([layer.pattern for layer in model.network_.layers[:2]], 40)
    assert model.score(x_test, y_test) > least(reference)
    assert [w.shape for w in model.coefs_] == [(100, 64), (50, 100), (10, 50)]
    expected = 0 if topology == "dense" else 0.9
    assert model.network_.sparsity == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(model.predict_proba(x_test).sum(axis=1), 1)


def test_pruning_ends_at_the_sparsity_that_was_asked_for():
    x, x_test, y, y_test = DIGITS
    model = SparseMLPClassifier((100,), topology="dense", prune=0.95, max_iter=60, random_state=0).fit(x, y)
    assert model.coefs_[0].nnz == round(0.05 * 6400)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(x, y)
    assert model.score(x_test, y_test) > least(linear.score(x_test, y_test))


def test_patterns_as_topology():
    x, _, y, _ = DIGITS
    patterns = fit_radix_net([[5, 5]], (64, 50, 25)).patterns
    model = clone(SparseMLPClassifier((50, 25), topology=patterns, max_iter=12, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    assert [layer.pattern for layer in model.network_.layers[:2]] == list(patterns)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_are_learned(outputs):
    x, y = make_regression(500, 10, n_informative=5, n_targets=outputs, noise=1.0, random_state=0)
    model = SparseMLPRegressor((60,), sparsity=0.5, random_state=0).fit(x[:400], 1000 + y[:400])
    assert model.score(x[400:], 1000 + y[400:]) > 0.95
    assert model.predict(x).shape == y.shape


def test_the_regressors_gradient_is_that_of_its_loss():
    """One step of plain descent from the same values, by hand in float64."""
    from sparsecore.data import Split
    from sparsecore.data.batches import Batches
    from sparsecore.runtime.devices import cpu
    from sparsecore.training.losses import SquaredError
    from sparsecore.training.optimizers import SGD
    from sparsecore.training.step import Step

    from .small import matrix_of, network, numbers

    net, x, t = network((8, 6, 5, 3)), numbers((21, 8), dtype=np.float32), numbers((21, 3), 1)
    store = Batches(Split(x, np.zeros(21, np.int32)), (8,), [0.0], [1.0], cpu(), targets=t)
    store.shuffle(0, 0)
    weights, biases = [matrix_of(each) for each in net.layers], [each.bias.astype(float) for each in net.layers]
    stored = [matrix_of(each) != 0 for each in net.layers]
    step = Step(net, store, SGD(0.1), loss=SquaredError())
    step.run(2, 19)
    rows = store.order[2:21]
    h = [x[rows].astype(float)]
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        z = h[-1] @ w.T + b
        h.append(np.maximum(z, 0) if k < 2 else z)
    assert step.totals().mean_loss == pytest.approx(0.5 * np.sum((h[-1] - t[rows]) ** 2) / 19, rel=1e-5)
    dy = (h[-1] - t[rows]) / 19
    for k in (2, 1, 0):
        np.testing.assert_allclose(matrix_of(net.layers[k]), weights[k] - 0.1 * (dy.T @ h[k]) * stored[k], atol=1e-5)
        np.testing.assert_allclose(net.layers[k].bias, biases[k] - 0.1 * dy.sum(0), atol=1e-5)
        dy = (dy @ weights[k]) * (h[k] > 0)


def test_pipeline_grid_search_and_pickle():
    x, x_test, y, _ = DIGITS
    pipeline = make_pipeline(StandardScaler(), SparseMLPClassifier((40,), max_iter=15, random_state=0))
    grid = {"sparsemlpclassifier__sparsity": [0.5, 0.9], "sparsemlpclassifier__prune": [None, 0.95]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(pipeline, grid, cv=2).fit(x, y)
    assert search.best_score_ > 0.85
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict_proba(x_test), search.predict_proba(x_test))


def test_the_same_seed_gives_the_same_bits():
    x, _, y, _ = DIGITS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first, second, other = (SparseMLPClassifier(max_iter=11, random_state=k).fit(x, y) for k in (1, 1, 2))
    np.testing.assert_array_equal(first.network_.params, second.network_.params)
    assert not np.array_equal(first.network_.params, other.network_.params)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "sparsity must be at least 0 and below 1, got 1.0"), ({"topology": "ring"}, "one of exp"),
        ({"prune": -0.1}, "prune must be"), ({"max_iter": 0}, "max_iter must"), ({"batch_size": "all"}, "batch_size"),
        ({"hidden_layer_sizes": (0,)}, "positive sizes"), ({"topology": []}, r"layer 0 needs one of shape \(100, 64\)"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SparseMLPClassifier(**options).fit(*DIGITS[::2])
