"""Sets of data that no recipe was made for, as users have them: tables of scikit-learn's, and made ones, by rule.

`python -m bench.own_sets` trains the default recipes on them, beside scikit-learn's multilayer perceptron, and prints
the table of docs/measured/own_data.md. `--out FOLDER` keeps the runs and goes on with those that are there; `--held
0.25` holds out training samples and scores on them, for choosing settings before any test split is opened.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from argparse import ArgumentParser
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


SETS: dict[str, tuple[str, Callable[[], Arrays] | str]] = {
    "iris": ("mlp", of_sklearn("iris")), "wine": ("mlp", of_sklearn("wine")),
    "breast cancer": ("mlp", of_sklearn("breast_cancer")), "digits": ("mlp", of_sklearn("digits")),
    "mixed scales": ("mlp", mixed), "hundred classes": ("mlp", hundred), "rectangles": ("lenet5", rectangles),
    "textures": ("lenet5", textures), "Fashion-MNIST": ("lenet5", "fashion-mnist"), "CIFAR-10": ("mlp", "cifar10"),
}  # fmt: skip
"""For each set a model whose recipe was made for none of its samples, and what makes its arrays, or its name."""

WIRINGS: dict[str, dict[str, Any]] = {"dense": {}, "sparse": {"expander": "fixed", "sparsity": 0.9}}
MAX_ITER = {"Fashion-MNIST": 40, "CIFAR-10": 40}
"""Epochs that scikit-learn's perceptron has where its own end would take hours; 1,000 elsewhere."""


def of_peer(name: str, dataset: str, seed: int, held: float) -> float:
    """The accuracy of scikit-learn's multilayer perceptron as it comes, on standardised samples."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    from sparsecore.data import load
    from sparsecore.data.normalisation import Normalisation

    data = load(dataset)
    norm = Normalisation(data.shape, data.mean, data.std, data.train.x.dtype.name)
    scored = data.test
    if held:
        data, scored = data.without(held, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer = MLPClassifier(random_state=seed, max_iter=MAX_ITER.get(name, 1000)).fit(norm(data.train.x), data.train.y)
    return float(peer.score(norm(scored.x), scored.y))


def of_ours(name: str, dataset: str, wiring: str, seed: int, held: float, lr: Any, out: Path) -> float:
    """The accuracy of the default recipe, by a run that is kept in a folder, and gone on with if it is there."""
    from sparsecore import RunConfig, run

    config = RunConfig(
        model=SETS[name][0], dataset=dataset, seed=seed, threads=1, validation=held, evaluate_every=1_000_000, lr=lr,
        **WIRINGS[wiring],
    )  # fmt: skip
    result = run(config, out=out, resume=out.exists()).state.result or {}
    return float(result["validation_accuracy" if held else "test_accuracy"])


def scores(name: str, series: str, seeds: int, held: float, lr: float | str | None, out: Path) -> list[float]:
    """The accuracies of one cell of the table, in per cent; those that are in the folder are not computed again."""
    _, made = SETS[name]
    dataset = made if isinstance(made, str) else str(out / f"{name}.npz")
    if not isinstance(made, str) and not Path(dataset).exists():
        x, y = made()
        np.savez(dataset, x=x, y=y)
    found = []
    for seed in range(seeds):
        kept = out / f"{name}-{series}-{seed}{'-held' * bool(held)}{f'-{lr}' * bool(lr)}".replace(" ", "-")
        score = Path(f"{kept}.json")
        if not score.exists():
            value = (
                of_peer(name, dataset, seed, held) if series == "scikit-learn"
                else of_ours(name, dataset, series, seed, held, lr, kept)
            )  # fmt: skip
            score.write_text(json.dumps(value))
        found.append(100 * json.loads(score.read_text()))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each set: the accuracies of the default recipe, dense and sparse, and of scikit-learn's."""
    from sparsecore.runs.kinds import RATE, typed

    parser = ArgumentParser(prog="python -m bench.own_sets", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all if not given")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (3)")
    parser.add_argument("--held", type=float, default=0.0, metavar="FRACTION", help="score on held-out samples")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the runs, and go on with those that are there")
    parser.add_argument("--lr", type=typed(RATE), help="instead of the default")
    parser.add_argument("--series", nargs="*", default=[*WIRINGS, "scikit-learn"], help="only these columns")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        out: Path = given.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for name in given.names or SETS:
            cells = [scores(name, series, given.seeds, given.held, given.lr, out) for series in given.series]
            shown = [", ".join(f"{each:.1f}" for each in cell) for cell in cells]
            print(f"| {name} | `{SETS[name][0]}` | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
