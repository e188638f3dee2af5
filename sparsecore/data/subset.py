"""The embedded subset of MNIST: real digits in the package itself, for runs with no network."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from sparsecore.data.catalogue import EMBEDDED, MNIST
from sparsecore.data.dataset import Dataset, Split, stratified
from sparsecore.files import replace

PATH = Path(__file__).with_name("mnist_subset.npz")
TRAIN, TEST, SEED = 8000, 2000, 0


def load_subset() -> Dataset:
    """8,000 training and 2,000 test digits of MNIST, each drawn from its own split, of each class in proportion."""
    with np.load(PATH, allow_pickle=False) as file:
        train, test = (Split(file[x].reshape(len(file[x]), -1), file[y].astype(np.int32))
                       for x, y in (("x", "y"), ("x_test", "y_test")))
    return Dataset(EMBEDDED, f"MNIST, embedded subset: {len(train):,} train, {len(test):,} test", train, test,
                   MNIST.shape, MNIST.classes, MNIST.mean, MNIST.std)


def draw_subset(full: Dataset) -> tuple[Split, Split]:
    """What the embedded file holds, drawn from the full set."""
    return (full.train.take(stratified(full.train.y, TRAIN, SEED)),
            full.test.take(stratified(full.test.y, TEST, SEED)))


def write_subset(full: Dataset, path: Path) -> None:
    """Make the embedded file: the same packed bytes from the same set, wherever zlib is the same."""
    train, test = draw_subset(full)
    stream = BytesIO()
    np.savez_compressed(stream, x=train.x.reshape(-1, 28, 28), y=train.y.astype(np.uint8),
                        x_test=test.x.reshape(-1, 28, 28), y_test=test.y.astype(np.uint8))
    replace(path, stream.getvalue())
