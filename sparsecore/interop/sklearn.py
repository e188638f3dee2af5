"""scikit-learn: multilayer perceptrons that are sparse while they are fitted, as a classifier and a regressor.

Needs scikit-learn: pip install 'sparsecore[sklearn]'.
"""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ..data import Split
from ..data.batches import Batches
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
from ..training.losses import CrossEntropy, SquaredError
from ..training.optimizers import SGD
from ..training.schedules import Schedule, cosine
from ..training.step import Step

_PATIENCE = 10
"""Epochs without progress after which fitting ends."""


class _SparseMLP(BaseEstimator):
    """What both estimators share; `SparseMLPClassifier` says what the parameters are."""

    def __init__(
        self, hidden_layer_sizes: Any = (100,), *, sparsity: float = 0.9, topology: Any = "expander",
        prune: float | None = None, alpha: float = 1e-4, batch_size: int | str = "auto",
        learning_rate_init: float = 0.05, momentum: float = 0.9, max_iter: int = 200, tol: float = 1e-4,
        random_state: Any = None,
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

    @property
    def coefs_(self) -> list[Any]:
        """The layers' weights, of standardised inputs: CSR arrays (neurons, inputs) that share the network's values."""
        return [layer.to_scipy() for layer in self.network_.layers if isinstance(layer, SparseLinear)]

    @property
    def intercepts_(self) -> list[Any]:
        """The layers' biases."""
        return [layer.params["bias"] for layer in self.network_.layers]

    def _learn(self, x: Any, y: Any) -> None:
        """Fit this very estimator, of which a failure may leave anything."""
        raise NotImplementedError

    def _replaced(self, x: Any, y: Any) -> Self:
        """Fit a twin and then become it: after whatever ends it earlier, the estimator is what it was before."""
        twin = shallow(self)
        twin._learn(self._plain(x, "X"), self._plain(y, "y"))
        self.__dict__ = vars(twin)
        return self

    def _fit(self, x: Any, targets: Any, outputs: int) -> None:
        """Standardise, wire, and train until the loss no longer falls; `targets` are classes or rows of floats."""
        self._check_parameters()
        self._mean = x.mean(axis=0, dtype=np.float64)
        self._scale = _scale_of(x)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        classes = targets.ndim == 1
        labels = targets.astype(np.int32) if classes else np.zeros(len(x), np.int32)
        network = self._network(x.shape[1], outputs, np.random.default_rng(seed))
        batches = Batches(
            Split(self._standardised(x), labels), (x.shape[1],), [0.0], [1.0], cpu(),
            targets=None if classes else targets,
        )  # fmt: skip
        optimizer = SGD(self.learning_rate_init, self.momentum, self.alpha, clip_norm=10.0)
        self.network_ = network
        self._train(Step(network, batches, optimizer, loss=CrossEntropy() if classes else SquaredError()), seed)

    def _train(self, step: Step, seed: int) -> None:
        samples = len(step.batches)
        batch = min(samples, 128 if self.batch_size == "auto" else int(self.batch_size))
        steps = -(-samples // batch)
        total = steps * self.max_iter
        initial = step.network.sparsity
        pruning = None if self.prune is None else gradual(total // 10, -(-total // 2), max(total // 50, 1))
        rate = cosine(total, 0.01)
        self.loss_curve_: list[float] = []
        steps_done = idle = 0
        best = np.inf
        for epoch in range(self.max_iter):
            step.batches.shuffle(seed, epoch)
            before = epoch * steps
            for number in steps_of_epoch(step, batch, lr=partial(self._lr, rate, before)):
                steps_done = before + number
                if pruning is not None and pruning.due(steps_done):
                    goal = pruning.sparsity(steps_done, float(self.prune or 0), initial)
                    to_sparsity(step.network, goal, optimizer=step.optimizer)
            loss = step.totals().mean_loss
            self.loss_curve_.append(loss)
            if not np.isfinite(loss):
                raise ValueError(
                    f"{type(self).__name__}: training diverged in epoch {epoch + 1}: lower learning_rate_init, now "
                    f"{self.learning_rate_init}"
                )
            if pruning is not None and steps_done < pruning.end:
                continue
            idle = 0 if loss < best - self.tol else idle + 1
            best = min(best, loss)
            if idle >= _PATIENCE:
                break
        else:
            if self.max_iter > _PATIENCE and idle == 0 and best > self.tol:
                warnings.warn(
                    f"{type(self).__name__}: the loss was still falling after max_iter={self.max_iter} epochs",
                    ConvergenceWarning, stacklevel=3,
                )  # fmt: skip
        self.n_iter_ = len(self.loss_curve_)
        self.loss_ = self.loss_curve_[-1]

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
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes))
        batch = self.batch_size
        for name, value, good, wanted in (
            ("hidden_layer_sizes", self.hidden_layer_sizes, sizes.size == 0 or (sizes > 0).all(), "positive sizes"),
            ("sparsity", self.sparsity, 0 <= self.sparsity < 1, "at least 0 and below 1"),
            ("prune", self.prune, self.prune is None or 0 <= self.prune < 1, "None, or at least 0 and below 1"),
            ("alpha", self.alpha, self.alpha >= 0, "at least 0"),
            ("batch_size", batch, batch == "auto" or (not isinstance(batch, str) and batch >= 1), "'auto' or positive"),
            ("max_iter", self.max_iter, self.max_iter >= 1, "at least 1"),
            ("topology", self.topology, not isinstance(self.topology, str) or self.topology in TOPOLOGIES,
             f"patterns, or one of {', '.join(TOPOLOGIES)}"),
        ):  # fmt: skip
            if not good:
                raise ValueError(f"{type(self).__name__}: {name} must be {wanted}, got {value!r}")

    def _standardised(self, x: Any) -> Any:
        return np.ascontiguousarray(narrowed((x - self._mean) / self._scale, np.float32, type(self).__name__, "X"))

    def _validated(self, *given: Any, **how: Any) -> Any:
        """What scikit-learn makes of X, or of X and y; it lets dates pass for numbers."""
        found = validate_data(self, *given, **how)
        real_numbers(found if len(given) == 1 else found[0], type(self).__name__, "X")
        return found

    def _plain(self, given: Any, name: str) -> Any:
        """What scikit-learn would take for other numbers is refused: hidden entries, and more than float64 holds."""
        given = unhidden(given, f"{type(self).__name__}: {name}")
        real = isinstance(given, np.ndarray) and given.dtype.kind == "f"
        return real_numbers(given, type(self).__name__, name) if real else given

    def _outputs(self, x: Any) -> Any:
        check_is_fitted(self)
        x = self._validated(self._plain(x, "X"), reset=False)
        x, samples = self._standardised(x), len(x)
        if 0 < samples < LANES:  # scikit-learn wants the same bits of a sample, however many are asked: those of a tile
            x = np.concatenate([x, np.zeros((LANES - samples, x.shape[1]), x.dtype)])
        return np.asarray(self.network_.logits(x)[:samples], np.float64)


def _scale_of(columns: Any) -> Any:
    """What standardising divides each column by."""
    low, high = (np.asarray(end(axis=0), np.float64) for end in (columns.min, columns.max))
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = columns.std(axis=0, dtype=np.float64)
    if not np.isfinite(deviation).all():
        largest = max(high.max(), -low.min())
        raise ValueError(f"columns must hold numbers whose squares float64 holds, got {largest:.4g}")
    return scales(deviation, low, high)


TOPOLOGIES = ("expander", "explicit", "random", "dense")


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
        Fitting ends after 10 epochs in which the loss has not fallen by so much.
    random_state : int, RandomState or None
        Of wiring, initial values and the samples' order.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    network_ : Network
        The fitted network, which takes standardised inputs.
    coefs_, intercepts_ : list of CSR arrays, and of arrays
    n_iter_ : int
    loss_, loss_curve_ : float, and list of one for each epoch
    n_features_in_, feature_names_in_
        As scikit-learn has them.
    """

    def fit(self, X: Any, y: Any) -> SparseMLPClassifier:
        """Fit to samples X of shape (n, features) and classes y of shape (n,).

        Where it fails or is interrupted, the estimator answers as before, or is not fitted if it was not.
        """
        return self._replaced(X, y)

    def _learn(self, x: Any, y: Any) -> None:
        x, y = self._validated(x, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        self._fit(x, labels, len(self.classes_))

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

    def fit(self, X: Any, y: Any) -> SparseMLPRegressor:
        """Fit to samples X of shape (n, features) and targets y of shape (n,) or (n, outputs).

        Where it fails or is interrupted, the estimator answers as before, or is not fitted if it was not.
        """
        return self._replaced(X, y)

    def _learn(self, x: Any, y: Any) -> None:
        x, y = self._validated(x, y, multi_output=True, y_numeric=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._one = y.ndim == 1
        rows = np.asarray(real_numbers(y, type(self).__name__, "y"), np.float64).reshape(len(x), -1)
        self._y_mean, self._y_scale = rows.mean(axis=0), _scale_of(rows)
        self._fit(x, (rows - self._y_mean) / self._y_scale, rows.shape[1])

    def predict(self, X: Any) -> Any:
        """The targets of each sample, shape (n,) or (n, outputs) as y was."""
        found = self._outputs(X) * self._y_scale + self._y_mean
        return found[:, 0] if self._one else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
