"""Sets of data that no recipe was made for, as users have them: tables of scikit-learn's, and made ones, by rule.

`python -m bench.own_sets` trains the default recipes on them, beside scikit-learn's multilayer perceptron, and prints
the table of docs/measured/own_data.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = tuple[Any, Any]


def mixed(n: int = 2000) -> Arrays:
    """A table of 20 columns whose scales span nine powers of ten; three classes by a quadratic rule of six of them."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, 20))
    score = x[:, 0] + x[:, 1] * x[:, 2] - 0.7 * x[:, 3] ** 2 + np.where(x[:, 4] > 0, x[:, 5], -x[:, 5])
    y = np.digitize(score + 0.1 * rng.standard_normal(n), np.quantile(score, [1 / 3, 2 / 3]))
    return x * 10.0 ** rng.integers(-3, 7, 20) + 10.0 ** rng.integers(-3, 7, 20), y


def hundred(n: int = 6000) -> Arrays:
    """A table of 30 columns of a hundred classes, each two clouds of points."""
    rng = np.random.default_rng(2)
    centres, y = rng.standard_normal((100, 2, 30)) * 1.2, np.arange(n) % 100
    return centres[y, rng.integers(2, size=n)] + rng.standard_normal((n, 30)), y


def rectangles(n: int = 1000) -> Arrays:
    """3×20×24 images with a rectangle of one of four colours somewhere, on noise."""
    rng = np.random.default_rng(3)
    colours = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 220], [220, 200, 40]])
    x, y = rng.integers(0, 90, (n, 3, 20, 24)), np.arange(n) % 4
    for image, k in zip(x, y, strict=True):
        high, wide = rng.integers(5, 14, 2)
        top, left = rng.integers(0, 20 - high), rng.integers(0, 24 - wide)
        colour = colours[k] + rng.integers(-30, 31, 3)
        image[:, top : top + high, left : left + wide] = colour[:, None, None]
    return x.clip(0, 255).astype(np.uint8), y


def textures(n: int = 1500) -> Arrays:
    """1×32×32 images: waves of one of five directions or a chequered pattern, of any phase, contrast and noise."""
    rng = np.random.default_rng(4)
    x, y = np.empty((n, 1, 32, 32), np.uint8), np.arange(n) % 6
    rows, columns = np.mgrid[:32, :32]
    for image, k in zip(x, y, strict=True):
        period, phase = rng.uniform(5, 9), rng.uniform(0, 2 * np.pi, 2)
        angle = np.pi * k / 5
        waves = np.sin(2 * np.pi / period * (rows * np.sin(angle) + columns * np.cos(angle)) + phase[0])
        if k == 5:
            across = np.sin(2 * np.pi / period * rows + phase[0])
            waves = np.sign(across * np.sin(2 * np.pi / period * columns + phase[1]))
        image[0] = (128 + rng.uniform(25, 60) * waves + rng.normal(0, 30, waves.shape)).clip(0, 255)
    return x, y


def of_sklearn(name: str) -> Callable[[], Arrays]:
    """One of scikit-learn's own sets."""

    def made() -> Arrays:
        from sklearn import datasets

        found = getattr(datasets, f"load_{name}")()
        return found.data, found.target

    return made


SETS: dict[str, tuple[str, Callable[[], Arrays]]] = {
    "iris": ("mlp", of_sklearn("iris")), "wine": ("mlp", of_sklearn("wine")),
    "breast cancer": ("mlp", of_sklearn("breast_cancer")), "digits": ("mlp", of_sklearn("digits")),
    "mixed scales": ("mlp", mixed), "hundred classes": ("mlp", hundred), "rectangles": ("lenet5", rectangles),
    "textures": ("lenet5", textures),
}  # fmt: skip
"""For each set the model, and what makes its arrays."""

WIRINGS: dict[str, dict[str, Any]] = {"dense": {}, "sparse": {"expander": "fixed", "sparsity": 0.9}}


def of_peer(path: Path, seed: int) -> float:
    """The test accuracy of scikit-learn's multilayer perceptron as it comes, on standardised samples."""
    from sklearn.neural_network import MLPClassifier

    from sparsecore.data import load
    from sparsecore.data.normalisation import Normalisation

    data = load(path)
    norm = Normalisation(data.shape, data.mean, data.std, data.train.x.dtype.name)
    peer = MLPClassifier(random_state=seed, max_iter=1000).fit(norm(data.train.x), data.train.y)
    return float(peer.score(norm(data.test.x), data.test.y))


def main(names: list[str], seeds: int = 3) -> None:
    """Print a row for each set: the test accuracies of the default recipe, dense and sparse, and of scikit-learn's."""
    from sparsecore import RunConfig, run

    with tempfile.TemporaryDirectory() as folder:
        for name in names or list(SETS):
            model, make = SETS[name]
            x, y = make()
            path = Path(folder, "set.npz")
            np.savez(path, x=x, y=y)
            cells = []
            for how in WIRINGS.values():
                about: Any = {"model": model, "dataset": str(path), "threads": 1, **how}
                configs = [RunConfig(seed=seed, **about) for seed in range(seeds)]
                cells.append([(run(config).state.result or {})["test_accuracy"] for config in configs])
            cells.append([of_peer(path, seed) for seed in range(seeds)])
            shown = [", ".join(f"{100 * each:.1f}" for each in cell) for cell in cells]
            print(f"| {name} | `{model}` | {len(y):,} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
