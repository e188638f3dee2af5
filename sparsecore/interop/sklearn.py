"""scikit-learn: multilayer perceptrons that are sparse while they are fitted, as a classifier and a regressor.

Needs scikit-learn: pip install 'sparsecore[sklearn]'.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ..data import Split
from ..data.batches import Batches
from ..data.csr import CsrBatches, canonical, dense_rows
from ..data.normalisation import scales
from ..layers.linear import SparseLinear
from ..network import Network
from ..prune import gradual, to_sparsity
from ..runtime.arrays import narrowed, real_numbers, unhidden
from ..runtime.devices import cpu
from ..runtime.recording import shallow
from ..runtime.tiles import LANES
from ..storage.pattern import SparsityPattern
from ..topology import dense, expander, uniform_random
from ..training.epoch import steps_of_epoch
from ..training.losses import CrossEntropy, Loss, SquaredError
from ..training.optimizers import SGD
from ..training.schedules import Schedule, cosine
from ..training.step import Step
from ..training.weighted import Weighted


class _SparseMLP(BaseEstimator):
    """What both estimators share; `SparseMLPClassifier` says what the parameters are."""

    network_: Network

    def __init__(
        self, hidden_layer_sizes: Any = (100,), *, sparsity: float = 0.9, topology: Any = "expander",
        prune: float | None = None, alpha: float = 1e-4, batch_size: int | str = "auto",
        learning_rate_init: float = 0.05, momentum: float = 0.9, max_iter: int = 200, tol: float = 1e-4,
        random_state: Any = None, early_stopping: bool = False, validation_fraction: float = 0.1,
        n_iter_no_change: int = 10, warm_start: bool = False, verbose: bool = False,
    ) -> None:  # fmt: skip
        self.hidden_layer_sizes = hidden_layer_sizes
        self.sparsity = sparsity
        self.topology = topology
        self.prune = prune
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.momentum = momentum
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.verbose = verbose

    @property
    def coefs_(self) -> list[Any]:
        """The layers' weights, of standardised inputs: CSR arrays (neurons, inputs) that share the network's values."""
        return [layer.to_scipy() for layer in self.network_.layers if isinstance(layer, SparseLinear)]

    @property
    def intercepts_(self) -> list[Any]:
        """The layers' biases."""
        return [layer.params["bias"] for layer in self.network_.layers]

    def _learn(self, x: Any, y: Any, weights: Any, *, part: bool = False, classes: Any = None) -> None:
        """Fit this very estimator, of which a failure may leave anything; with `part`, for one more epoch."""
        raise NotImplementedError

    def _replaced(self, x: Any, y: Any, weights: Any, **how: Any) -> Self:
        """Fit a twin and then become it: after whatever ends it earlier, the estimator is what it was before."""
        twin = shallow(self)
        twin._check_parameters()
        twin._learn(self._plain(x, "X"), self._plain(y, "y"), weights, **how)
        self.__dict__ = vars(twin)
        return self

    def _goes_on(self, part: bool) -> bool:
        """Whether fitting begins with the network that is there."""
        return hasattr(self, "network_") and (part or self.warm_start)

    def _fit(self, x: Any, targets: Any, outputs: int, weights: Any, part: bool) -> None:
        """Standardise, wire, and train until the loss no longer falls; `targets` are classes or rows of floats."""
        going_on = self._goes_on(part)
        if part and self.prune is not None:
            raise ValueError(f"{type(self).__name__}: prune goes with fit, whose end is known, not with partial_fit")
        if not going_on:
            self._mean, self._scale = _moments(x, weights)
        if not (part and going_on):
            self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            self._optimizer = SGD(self.learning_rate_init, self.momentum, self.alpha, clip_norm=10.0)
            self.loss_curve_: list[float] = []
        seed, optimizer = self._seed, self._optimizer
        if going_on:
            self.network_, self._optimizer = network, optimizer = copy.deepcopy((self.network_, optimizer))
            self.loss_curve_ = list(self.loss_curve_)
        else:
            network = self._network(x.shape[1], outputs, np.random.default_rng(seed))
        held = None
        if self.early_stopping and not part:
            x, held_x, targets, held_y, weights, held_weights = self._parted(x, targets, weights, seed)
            held = partial(self._score_on, held_x, held_y, held_weights)
        batches, loss = self._batches(x, targets, weights)
        self.network_ = network
        step = Step(network, batches, optimizer, loss=loss)
        if part:
            self._train_part(step, seed)
        else:
            self._train(step, seed, held)

    def _batches(self, x: Any, targets: Any, weights: Any) -> tuple[Batches, Loss]:
        """Standardised samples in batches, and the loss that goes with what they have."""
        classes = targets.ndim == 1
        labels = targets.astype(np.int32) if classes else np.zeros(x.shape[0], np.int32)
        wanted: Any = None if classes else targets
        loss: Loss = CrossEntropy() if classes else SquaredError()
        if weights is not None:
            wanted = np.column_stack([targets, weights / weights.mean()])
            loss = Weighted(classes=classes)
        if not isinstance(x, np.ndarray):
            return CsrBatches(x, labels, self._mean, self._scale, targets=wanted), loss
        split = Split(self._standardised(x), labels)
        return Batches(split, (x.shape[1],), [0.0], [1.0], cpu(), targets=wanted), loss

    def _parted(self, x: Any, targets: Any, weights: Any, seed: int) -> tuple[Any, ...]:
        """Samples, targets and weights, each in what is fitted to and what is held out."""
        classes = targets.ndim == 1
        train, held = train_test_split(
            np.arange(x.shape[0]), test_size=self.validation_fraction, random_state=seed,
            stratify=targets if classes else None,
        )  # fmt: skip
        of_weights = (None, None) if weights is None else (weights[train], weights[held])
        return x[train], x[held], targets[train], targets[held], *of_weights

    def _score_on(self, x: Any, targets: Any, weights: Any) -> float:
        """Accuracy, or the coefficient of determination of standardised targets."""
        found = self._logits(x)
        if targets.ndim == 1:
            return float(accuracy_score(targets, found.argmax(axis=1), sample_weight=weights))
        return float(r2_score(targets, found, sample_weight=weights)) if len(targets) > 1 else 0.0

    def _train(self, step: Step, seed: int, held: Any = None) -> None:
        """Epochs until nothing gets better; `held`, if given, tells how good the network is on what is held out."""
        samples = len(step.batches)
        batch = min(samples, 128 if self.batch_size == "auto" else int(self.batch_size))
        steps = -(-samples // batch)
        total = steps * self.max_iter
        initial = step.network.sparsity
        pruning = None if self.prune is None else gradual(total // 10, -(-total // 2), max(total // 50, 1))
        rate = cosine(total, 0.01)
        self.loss_curve_ = []
        self.validation_scores_: list[float] | None = None if held is None else []
        steps_done = idle = 0
        best, kept = np.inf, None
        for epoch in range(self.max_iter):
            step.batches.shuffle(seed, epoch)
            before = epoch * steps
            for number in steps_of_epoch(step, batch, lr=partial(self._lr, rate, before)):
                steps_done = before + number
                if pruning is not None and pruning.due(steps_done):
                    goal = pruning.sparsity(steps_done, float(self.prune or 0), initial)
                    to_sparsity(step.network, goal, optimizer=step.optimizer)
            lost = self._noted(step)
            if held is not None and self.validation_scores_ is not None:
                self.validation_scores_.append(held())
                self._say(f"validation score: {self.validation_scores_[-1]:.6f}")
                lost = -self.validation_scores_[-1]
            if pruning is not None and steps_done < pruning.end:
                continue
            idle = 0 if lost < best - self.tol else idle + 1
            if held is not None and lost < best:
                kept = step.network.params.copy()
            best = min(best, lost)
            if idle >= self.n_iter_no_change:
                self._say(f"no better by {self.tol:g} for {idle} epochs: ended")
                break
        else:
            if held is None and self.max_iter > self.n_iter_no_change and idle == 0 and best > self.tol:
                warnings.warn(
                    f"{type(self).__name__}: the loss was still falling after max_iter={self.max_iter} epochs",
                    ConvergenceWarning, stacklevel=3,
                )  # fmt: skip
        if kept is not None:
            step.network.params[...] = kept
            self.best_validation_score_ = -best
        self.n_iter_ = len(self.loss_curve_)
        self.loss_ = self.loss_curve_[-1]

    def _train_part(self, step: Step, seed: int) -> None:
        """One epoch at the rate that was given."""
        samples = len(step.batches)
        batch = min(samples, 128 if self.batch_size == "auto" else int(self.batch_size))
        step.batches.shuffle(seed, len(self.loss_curve_))
        for _ in steps_of_epoch(step, batch, lr=lambda number: self.learning_rate_init):
            pass
        self.loss_ = self._noted(step)
        self.n_iter_ = len(self.loss_curve_)

    def _noted(self, step: Step) -> float:
        """The mean loss of the epoch that has just ended, kept and said."""
        loss = step.totals().mean_loss
        self.loss_curve_.append(loss)
        if not np.isfinite(loss):
            raise ValueError(
                f"{type(self).__name__}: training diverged in epoch {len(self.loss_curve_)}: lower learning_rate_init, "
                f"now {self.learning_rate_init}"
            )
        self._say(f"epoch {len(self.loss_curve_)}, loss {loss:.8f}")
        return loss

    def _say(self, line: str) -> None:
        if self.verbose:
            print(f"{type(self).__name__}: {line}")

    def _lr(self, rate: Schedule, before: int, step: int) -> float:
        return self.learning_rate_init * rate(before + step)

    def _network(self, inputs: int, outputs: int, rng: np.random.Generator) -> Network:
        sizes = [inputs, *np.atleast_1d(np.asarray(self.hidden_layer_sizes, int)).tolist()]
        patterns = [self._pattern(k, out, into, rng) for k, (into, out) in enumerate(pairwise(sizes))]
        head = SparseLinear(dense(outputs, sizes[-1]), rng=rng)
        head.params["weight"] *= np.float32(0.5**0.5)  # no ReLU follows
        hidden = [SparseLinear(pattern, relu=True, rng=rng) for pattern in patterns]
        return Network([*hidden, head], sparse=range(len(hidden)))

    def _pattern(self, layer: int, out: int, into: int, rng: np.random.Generator) -> SparsityPattern:
        if not isinstance(self.topology, str):
            pattern = list(self.topology)[layer] if layer < len(self.topology) else None
            if not isinstance(pattern, SparsityPattern) or pattern.shape != (out, into):
                raise ValueError(
                    f"topology must be a name, or a SparsityPattern for each hidden layer; layer {layer} needs one of "
                    f"shape {(out, into)}, got {pattern!r}"
                )
            return pattern
        if self.topology == "dense":
            return dense(out, into)
        if self.topology == "random":
            return uniform_random(out, into, self.sparsity, rng)
        return expander(out, into, self.sparsity, "fixed" if self.topology == "expander" else "explicit", rng)

    def _check_parameters(self) -> None:
        for name, (good, wanted) in _GOOD.items():
            value = getattr(self, name)
            try:
                taken = bool(good(value))
            except (TypeError, ValueError):  # as words, and what has no truth, make of comparisons
                taken = False
            if not taken:
                raise ValueError(f"{type(self).__name__}: {name} must be {wanted}, got {value!r}")

    def _standardised(self, x: Any) -> Any:
        return np.ascontiguousarray(narrowed((x - self._mean) / self._scale, np.float32, type(self).__name__, "X"))

    def _weights(self, given: Any, samples: int) -> Any:
        """A weight for each sample in float64, or None."""
        if given is None:
            return None
        name = type(self).__name__
        weights = np.asarray(real_numbers(self._plain(given, "sample_weight"), name, "sample_weight"), np.float64)
        weights = np.full(samples, weights[()]) if weights.ndim == 0 else weights
        if weights.shape != (samples,):
            raise ValueError(f"{name}: sample_weight must be of shape {(samples,)}, got {weights.shape}")
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError(f"{name}: sample_weight must be finite, at least 0, and not zero everywhere")
        return weights

    def _validated(self, *given: Any, **how: Any) -> Any:
        """What scikit-learn makes of X, or of X and y; it lets dates pass for numbers."""
        found = validate_data(self, *given, accept_sparse="csr", **how)
        x = found if len(given) == 1 else found[0]
        real_numbers(x if isinstance(x, np.ndarray) else x.data, type(self).__name__, "X")
        if isinstance(x, np.ndarray):
            return found
        return canonical(x) if len(given) == 1 else (canonical(x), found[1])

    def _plain(self, given: Any, name: str) -> Any:
        """What scikit-learn would take for other numbers is refused: hidden entries, and more than float64 holds."""
        given = unhidden(given, f"{type(self).__name__}: {name}")
        real = isinstance(given, np.ndarray) and given.dtype.kind == "f"
        return real_numbers(given, type(self).__name__, name) if real else given

    def _outputs(self, x: Any) -> Any:
        check_is_fitted(self)
        return self._logits(self._validated(self._plain(x, "X"), reset=False))

    def _logits(self, x: Any) -> Any:
        """What the network gives for samples, sparse or not."""
        if not isinstance(x, np.ndarray):
            found = np.concatenate([self._logits(rows) for _, rows in dense_rows(x)] or [self._logits(x.toarray())])
            return found
        x, samples = self._standardised(x), len(x)
        if 0 < samples < LANES:  # scikit-learn wants the same bits of a sample, however many are asked: those of a tile
            x = np.concatenate([x, np.zeros((LANES - samples, x.shape[1]), x.dtype)])
        return np.asarray(self.network_.logits(x)[:samples], np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _whole(value: Any) -> bool:
    """Whether all are whole numbers of at least 1."""
    numbers = np.asarray(value)
    return numbers.dtype.kind in "iuf" and bool(((numbers >= 1) & (numbers < np.inf) & (numbers % 1 == 0)).all())


TOPOLOGIES = ("expander", "explicit", "random", "dense")

_GOOD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hidden_layer_sizes": (lambda value: np.size(value) == 0 or _whole(value), "positive sizes"),
    "sparsity": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "prune": (lambda value: value is None or 0 <= value < 1, "None, or at least 0 and below 1"),
    "alpha": (lambda value: value >= 0, "at least 0"),
    "learning_rate_init": (lambda value: 0 <= value < np.inf, "at least 0 and finite"),
    "momentum": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "batch_size": (lambda value: (isinstance(value, str) and value == "auto") or _whole(value), "'auto' or positive"),
    "max_iter": (lambda value: isinstance(value, Integral) and int(value) >= 1, "at least 1"),
    "tol": (lambda value: value > -np.inf, "a number"),
    "n_iter_no_change": (lambda value: value == np.inf or _whole(value), "at least 1"),
    "validation_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "topology": (lambda value: value in TOPOLOGIES if isinstance(value, str) else isinstance(value, Iterable),
                 f"patterns, or one of {', '.join(TOPOLOGIES)}"),
}  # fmt: skip
"""What an estimator's parameters must be."""


def _present(x: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
    """The samples that weigh anything, and their weights: None where all weigh the same."""
    if weights is None:
        return x, targets, None
    there = weights > 0
    weights = weights[there]
    return x[there], targets[there], None if (weights == weights[0]).all() else weights


def _moments(x: Any, weights: Any) -> tuple[Any, Any]:
    """The columns' means, and what standardising divides them by; of samples that may have weights."""
    if isinstance(x, np.ndarray) and weights is None:
        return x.mean(axis=0, dtype=np.float64), _scale_of(x)
    shares = np.full(x.shape[0], 1 / x.shape[0]) if weights is None else weights / weights.sum()
    mean, variance = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for where, rows in dense_rows(x):
            mean += shares[where] @ rows
        for where, rows in dense_rows(x):
            variance += shares[where] @ (rows - mean) ** 2
    return mean, _scale_of(x, np.sqrt(variance))


def _scale_of(columns: Any, deviation: Any = None) -> Any:
    """What standardising divides each column by; their deviation is that of all rows alike if not given."""
    low, high = (end(axis=0) for end in (columns.min, columns.max))
    low, high = (np.asarray(each if isinstance(each, np.ndarray) else each.toarray(), np.float64).reshape(-1)
                 for each in (low, high))  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = columns.std(axis=0, dtype=np.float64) if deviation is None else deviation
    if not np.isfinite(deviation).all():
        largest = max(high.max(), -low.min())
        raise ValueError(f"columns must hold numbers whose squares float64 holds, got {largest:.4g}")
    return scales(deviation, low, high)


class SparseMLPClassifier(ClassifierMixin, _SparseMLP):
    """A multilayer perceptron whose hidden layers store a fraction of their connections, for classes.

    ReLU between layers, softmax cross-entropy, SGD with momentum whose rate falls along half a cosine. Inputs are
    standardised by the training data's means and deviations. The output layer is dense.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
    sparsity : float
        Fraction of each hidden layer's connections that is left out; with `prune`, at the start.
    topology : {"expander", "explicit", "random", "dense"}, or sequence of SparsityPattern
        How hidden layers are wired: see `sparsecore.topology`. Patterns, one a hidden layer and of shape (neurons,
        inputs), may be anything, such as those of a RadiX-Net.
    prune : float, optional
        Sparsity that the hidden layers are pruned to, a little at a time over the first half of `max_iter`.
    alpha : float
        Weight decay.
    batch_size : int or "auto"
        "auto" is 128, or all samples if there are fewer.
    learning_rate_init, momentum : float
    max_iter : int
        Epochs at most; the rate falls over these.
    tol : float
        By how much the loss must fall, or the score rise, to count as better.
    random_state : int, RandomState or None
        Of wiring, initial values and the samples' order.
    early_stopping : bool
        Hold samples out, and go by the score on these instead of the loss; the best network is kept.
    validation_fraction : float
        How many are held out.
    n_iter_no_change : int
        Fitting ends after so many epochs that are no better by `tol`.
    warm_start : bool
        `fit` goes on from the network that is there, and standardises as it was fitted.
    verbose : bool
        Print a line for each epoch.
    class_weight : dict, "balanced" or None
        How much the samples of a class count.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    network_ : Network
        The fitted network, which takes standardised inputs.
    coefs_, intercepts_ : list of CSR arrays, and of arrays
    n_iter_ : int
    loss_, loss_curve_ : float, and list of one for each epoch
    validation_scores_, best_validation_score_ : list of float, or None, and float
        With `early_stopping`.
    n_features_in_, feature_names_in_
        As scikit-learn has them.
    """

    def __init__(
        self, hidden_layer_sizes: Any = (100,), *, sparsity: float = 0.9, topology: Any = "expander",
        prune: float | None = None, alpha: float = 1e-4, batch_size: int | str = "auto",
        learning_rate_init: float = 0.05, momentum: float = 0.9, max_iter: int = 200, tol: float = 1e-4,
        random_state: Any = None, early_stopping: bool = False, validation_fraction: float = 0.1,
        n_iter_no_change: int = 10, warm_start: bool = False, verbose: bool = False, class_weight: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            hidden_layer_sizes, sparsity=sparsity, topology=topology, prune=prune, alpha=alpha, batch_size=batch_size,
            learning_rate_init=learning_rate_init, momentum=momentum, max_iter=max_iter, tol=tol,
            random_state=random_state, early_stopping=early_stopping, validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change, warm_start=warm_start, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    classes_: Any

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseMLPClassifier:
        """Fit to samples X of shape (n, features), dense or sparse, and classes y of shape (n,).

        `sample_weight`, of shape (n,), says how much each sample counts. Where fitting fails or is interrupted, the
        estimator answers as before, or is not fitted if it was not.
        """
        return self._replaced(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> SparseMLPClassifier:
        """Train for one epoch on some samples, at a constant rate; X and y are as for `fit`.

        The first call, where nothing was fitted, needs all classes. Its samples also say how inputs are standardised.
        """
        return self._replaced(X, y, sample_weight, part=True, classes=classes)

    def _learn(self, x: Any, y: Any, weights: Any, *, part: bool = False, classes: Any = None) -> None:
        goes_on = self._goes_on(part)
        x, y = self._validated(x, y, reset=not goes_on)
        check_classification_targets(y)
        y, weights = column_or_1d(y, warn=True), self._weights(weights, x.shape[0])
        known = np.unique(y) if classes is None else np.unique(classes)
        if part and not goes_on and classes is None:
            raise ValueError(f"{type(self).__name__}: the first call of partial_fit needs classes, all that there are")
        if goes_on and not (np.isin(known, self.classes_).all() if part else np.array_equal(known, self.classes_)):
            raise ValueError(f"{type(self).__name__}: y must be of the classes before, {self.classes_}, got {known}")
        if not goes_on:
            self.classes_ = known
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"{type(self).__name__}: y must be of the classes {self.classes_}, got {np.unique(y)}")
        labels = np.searchsorted(self.classes_, y)
        if self.class_weight is not None:
            if part and isinstance(self.class_weight, str):
                raise ValueError(f"{type(self).__name__}: class_weight must be a dict for partial_fit, got 'balanced'")
            of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            weights = (1.0 if weights is None else weights) * of_class[labels]
        x, labels, weights = _present(x, labels, self._weights(weights, x.shape[0]))
        self._fit(x, labels, len(self.classes_), weights, part)

    def predict_proba(self, X: Any) -> Any:
        """Probability of each class, shape (n, n_classes)."""
        logits = self._outputs(X)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Any:
        """The most probable class of each sample, shape (n,)."""
        logits = self._outputs(X)
        return self.classes_[logits.argmax(axis=1)]


class SparseMLPRegressor(RegressorMixin, _SparseMLP):
    """`SparseMLPClassifier` for numbers: its loss is half the squared error of standardised targets.

    Parameters and attributes are those of `SparseMLPClassifier`, but for `classes_`. y may have several columns.
    """

    _y_mean: Any

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseMLPRegressor:
        """Fit to samples X of shape (n, features), dense or sparse, and targets y of shape (n,) or (n, outputs).

        `sample_weight`, of shape (n,), says how much each sample counts. Where fitting fails or is interrupted, the
        estimator answers as before, or is not fitted if it was not.
        """
        return self._replaced(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseMLPRegressor:
        """Train for one epoch on some samples, at a constant rate; X and y are as for `fit`.

        The samples of the first call, where nothing was fitted, say how inputs and targets are standardised.
        """
        return self._replaced(X, y, sample_weight, part=True)

    def _learn(self, x: Any, y: Any, weights: Any, *, part: bool = False, classes: Any = None) -> None:
        goes_on = self._goes_on(part)
        x, y = self._validated(x, y, multi_output=True, y_numeric=True, reset=not goes_on)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        rows = np.asarray(real_numbers(y, type(self).__name__, "y"), np.float64).reshape(x.shape[0], -1)
        x, rows, weights = _present(x, rows, self._weights(weights, x.shape[0]))
        if goes_on and rows.shape[1] != len(self._y_mean):
            raise ValueError(
                f"{type(self).__name__}: y must have {len(self._y_mean)} columns, as before, got {rows.shape[1]}"
            )
        if not goes_on:
            self._one = y.ndim == 1
            self._y_mean, self._y_scale = _moments(rows, weights)
        self._fit(x, (rows - self._y_mean) / self._y_scale, rows.shape[1], weights, part)

    def predict(self, X: Any) -> Any:
        """The targets of each sample, shape (n,) or (n, outputs) as y was."""
        found = self._outputs(X) * self._y_scale + self._y_mean
        return found[:, 0] if self._one else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
