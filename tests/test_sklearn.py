"""The estimators are scikit-learn's in all that it checks, and sparse in what they store."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse

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


NOT_TO_THE_LAST_DIGIT = dict.fromkeys(
    (f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")),
    "wants a repeated sample to count as a weighted one to 1e-7, which the order of float32's sums does not allow",
)
"""`test_a_weight_is_a_repetition` has what float32 allows."""


@parametrize_with_checks(
    [SparseMLPClassifier(), SparseMLPRegressor()], expected_failed_checks=lambda estimator: NOT_TO_THE_LAST_DIGIT
)
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
        ({"prune": -0.1}, "prune must be"), ({"momentum": "a"}, "momentum must be at least 0 and below 1, got 'a'"),
        ({"learning_rate_init": None}, "learning_rate_init must be at least"), ({"topology": None}, "topology must be"),
        ({"max_iter": 0}, "max_iter must"), ({"batch_size": "all"}, "batch_size"),
        ({"hidden_layer_sizes": (0,)}, "positive sizes"), ({"topology": []}, r"layer 0 needs one of shape \(100, 64\)"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SparseMLPClassifier(**options).fit(*DIGITS[::2])


# ---------------------------------------------------------------------------------------------- what fit is told


def quick(kind=SparseMLPClassifier, **options):
    return kind(**{"hidden_layer_sizes": (30,), "max_iter": 12, "tol": 0, "random_state": 0} | options)


def numeric(samples=200, outputs=2):
    return make_regression(samples, 10, n_informative=5, n_targets=outputs, noise=1.0, random_state=0)


quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@quiet
@pytest.mark.parametrize("outputs", [0, 1, 3])
def test_a_weight_is_a_repetition(outputs):
    """In full batches, but for the order of sums; a weight of 0 is as if the sample were not there."""
    rng = np.random.default_rng(0)
    x, y = (DIGITS[0][:90], DIGITS[2][:90]) if outputs == 0 else numeric(90, outputs)
    weights = rng.integers(0, 4, 90)
    kind = SparseMLPClassifier if outputs == 0 else SparseMLPRegressor
    options = {"batch_size": 1000, "max_iter": 6}
    repeated = quick(kind, **options).fit(np.repeat(x, weights, axis=0), np.repeat(y, weights, axis=0))
    weighted = quick(kind, **options).fit(x, y, sample_weight=weights)
    present = quick(kind, **options).fit(x[weights > 0], y[weights > 0], sample_weight=weights[weights > 0])
    answers = [(each.predict_proba if outputs == 0 else each.predict)(x) for each in (repeated, weighted, present)]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(answers[2], answers[1])
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-4)
    plain = quick(kind, **options).fit(x, y)
    assert np.abs((plain.predict_proba if outputs == 0 else plain.predict)(x) - answers[1]).max() > 0.01


@quiet
def test_weights_that_are_all_the_same_change_no_bit():
    x, _, y, _ = DIGITS
    plain, weighted = quick().fit(x, y), quick().fit(x, y, sample_weight=np.full(len(y), 3.7))
    np.testing.assert_array_equal(plain.network_.params, weighted.network_.params)


@quiet
def test_class_weights():
    x, _, y, _ = DIGITS
    heavy = dict.fromkeys(range(10), 1.0) | {3: 50.0}
    plain, heavier = quick(max_iter=3).fit(x, y), quick(max_iter=3, class_weight=heavy).fit(x, y)
    assert np.mean(heavier.predict(x) == 3) > np.mean(plain.predict(x) == 3)
    same = quick(max_iter=3).fit(x, y, sample_weight=np.where(y == 3, 50.0, 1.0))
    np.testing.assert_array_equal(heavier.network_.params, same.network_.params)
    few = np.flatnonzero((y != 3) | (np.arange(len(y)) % 20 == 0))
    plain, balanced = quick().fit(x[few], y[few]), quick(class_weight="balanced").fit(x[few], y[few])
    assert np.mean(balanced.predict(x[y == 3]) == 3) >= np.mean(plain.predict(x[y == 3]) == 3)


@quiet
@pytest.mark.parametrize("make", [scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_samples_give_the_dense_ones_bits_and_are_never_dense(make, monkeypatch):
    x, x_test, y, _ = DIGITS
    x = np.where(x > 8, x, 0)
    dense_fit = quick().fit(x, y)
    whole = []

    def noted(toarray):
        def call(self, *arguments, **named):
            whole.append(self.shape)
            return toarray(self, *arguments, **named)

        return call

    for kind in (scipy.sparse.csr_array, scipy.sparse.csr_matrix):
        monkeypatch.setattr(kind, "toarray", noted(kind.toarray))
    monkeypatch.setattr("sparsecore.data.csr._NUMBERS", 64 * 100)
    sparse_fit = quick().fit(make(x), y)
    np.testing.assert_allclose(sparse_fit.network_.params, dense_fit.network_.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sparse_fit.predict_proba(make(x_test)), dense_fit.predict_proba(x_test), atol=1e-5)
    np.testing.assert_array_equal(sparse_fit.predict_proba(make(x_test)), sparse_fit.predict_proba(x_test))
    assert whole and max(rows for rows, _ in whole) <= 100


@quiet
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rows_that_are_not_in_order_and_of_other_kinds(index):
    """Columns unsorted and doubled, whole numbers, numbers and targets, weights: whatever CSR can hold."""
    x, y = numeric()
    x = np.where(np.abs(x) > 0.7, np.round(4 * x), 0)
    rows, columns = np.nonzero(x)
    order = np.random.default_rng(0).permutation(2 * len(rows))
    given = scipy.sparse.coo_array(
        (np.tile(x[rows, columns] / 2, 2)[order], (np.tile(rows, 2)[order], np.tile(columns, 2)[order])), x.shape
    )
    given = _unsorted(given, index)
    weights = np.random.default_rng(1).random(len(x))
    one = quick(SparseMLPRegressor).fit(given, y, sample_weight=weights)
    other = quick(SparseMLPRegressor).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(one.predict(given), other.predict(x), rtol=1e-3, atol=1e-2)
    assert one.predict(given[:3]).shape == (3, 2)


def _unsorted(coo, index):
    """A CSR array of entries as they come, with doubles and without order."""
    order = np.argsort(coo.row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(coo.row, minlength=coo.shape[0]))])
    made = scipy.sparse.csr_array(coo.shape)
    made.data, made.indices, made.indptr = coo.data[order], coo.col[order].astype(index), indptr.astype(index)
    assert not made.has_canonical_format
    return made


def test_broken_index_arrays_are_refused():
    x, y = numeric()
    broken = scipy.sparse.csr_array(x)
    broken.indices = broken.indices.copy()
    broken.indices[5] = 99
    with pytest.raises(ValueError, match="ind"):
        quick(SparseMLPRegressor).fit(broken, y)


@quiet
def test_fitting_in_parts():
    x, x_test, y, y_test = DIGITS
    model = quick()
    for k in range(20):
        assert model.partial_fit(x[k % 4 :: 4], y[k % 4 :: 4], classes=np.arange(10)) is model
    assert model.score(x_test, y_test) > 0.85 and model.n_iter_ == 20 == len(model.loss_curve_)
    again = quick()
    for k in range(10):
        again.partial_fit(x[k % 4 :: 4], y[k % 4 :: 4], classes=np.arange(10))
    again = pickle.loads(pickle.dumps(again))
    for k in range(10, 20):
        again.partial_fit(x[k % 4 :: 4], y[k % 4 :: 4])
    np.testing.assert_array_equal(again.network_.params, model.network_.params)
    before = model.network_.params.copy()
    with pytest.raises(ValueError, match="y must be of the classes before"):
        model.partial_fit(x[:5], y[:5] + 20)
    np.testing.assert_array_equal(model.network_.params, before)
    x, y = numeric()
    regressor = quick(SparseMLPRegressor, learning_rate_init=0.02)
    for k in range(120):
        regressor.partial_fit(x[k % 2 :: 2], y[k % 2 :: 2])
    assert regressor.score(x, y) > 0.9
    with pytest.raises(ValueError, match="y must have 2 columns, as before, got 3"):
        regressor.partial_fit(x, np.column_stack([y, y[:, 0]]))


def test_the_first_part_needs_the_classes():
    x, _, y, _ = DIGITS
    with pytest.raises(ValueError, match="the first call of partial_fit needs classes, all that there are"):
        quick().partial_fit(x, y)
    with pytest.raises(ValueError, match=r"y must be of the classes \[0 1\]"):
        quick().partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match="class_weight must be a dict for partial_fit, got 'balanced'"):
        quick(class_weight="balanced").partial_fit(x, y, classes=np.arange(10))


@quiet
@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
def test_early_stopping_keeps_the_best_network(kind):
    x, y = (DIGITS[0], DIGITS[2]) if kind is SparseMLPClassifier else numeric(400)
    model = quick(kind, early_stopping=True, n_iter_no_change=3, max_iter=100, tol=1e-4).fit(x, y)
    assert model.n_iter_ < 100 and len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == pytest.approx(max(model.validation_scores_))
    assert all(score < model.best_validation_score_ + 1e-4 for score in model.validation_scores_[-3:])
    from sklearn.model_selection import train_test_split as parted

    classes = kind is SparseMLPClassifier
    _, held = parted(np.arange(len(x)), test_size=0.1, random_state=model._seed, stratify=y if classes else None)
    scored = model.score(x[held], y[held])
    assert scored == pytest.approx(model.best_validation_score_, abs=1e-6 if classes else 0.02)
    assert quick(kind).fit(x, y).validation_scores_ is None


@quiet
def test_a_warm_start_goes_on():
    x, _, y, _ = DIGITS
    model = quick(warm_start=True, max_iter=2).fit(x, y)
    first, network = model.loss_, model.network_
    model.fit(x, y)
    assert model.loss_ < first and model.network_ is not network
    cold = quick(max_iter=2).fit(x, y)
    assert cold.fit(x, y).loss_ == pytest.approx(first)
    with pytest.raises(ValueError, match="y must be of the classes before"):
        model.fit(x, y % 3)
    with pytest.raises(ValueError, match="X has 5 features, but"):
        model.fit(x[:, :5], y)


@quiet
def test_verbose_is_a_line_an_epoch(capsys):
    x, _, y, _ = DIGITS
    quick(verbose=True, max_iter=2).fit(x, y)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "SparseMLPClassifier: epoch 1", "SparseMLPClassifier: epoch 2"
    ]  # fmt: skip
    quick(max_iter=2).fit(x, y)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "weights", "words"),
    [
        ({"n_iter_no_change": 0}, None, "n_iter_no_change must be at least 1, got 0"),
        ({"hidden_layer_sizes": (50.5,)}, None, r"hidden_layer_sizes must be positive sizes, got \(50.5,\)"),
        ({"hidden_layer_sizes": "50"}, None, "hidden_layer_sizes must be positive sizes, got '50'"),
        ({"sparsity": None}, None, "sparsity must be at least 0 and below 1, got None"),
        ({"batch_size": 1.5}, None, "batch_size must be 'auto' or positive, got 1.5"),
        ({"tol": None}, None, "tol must be a number, got None"),
        ({"max_iter": 2.5}, None, "max_iter must be at least 1, got 2.5"),
        ({"validation_fraction": 1.0}, None, "validation_fraction must be above 0 and below 1, got 1.0"),
        ({}, [1.0], r"sample_weight must be of shape \(1347,\), got \(1,\)"),
        ({}, np.zeros(1347), "sample_weight must be finite, at least 0, and not zero everywhere"),
        ({}, np.full(1347, -1.0), "sample_weight must be finite, at least 0"),
        ({}, np.full(1347, np.nan), "sample_weight must be finite, at least 0"),
        ({"class_weight": "heavy"}, None, "class_weight"),
    ],
)
def test_what_fit_is_told_wrongly_is_one_line(options, weights, words):
    x, _, y, _ = DIGITS
    with pytest.raises(ValueError, match=words):
        quick(**options).fit(x, y, sample_weight=weights)


def test_parts_are_not_pruned():
    x, _, y, _ = DIGITS
    with pytest.raises(ValueError, match="prune goes with fit, whose end is known, not with partial_fit"):
        quick(prune=0.5).partial_fit(x, y, classes=range(10))
