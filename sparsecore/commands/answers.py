"""What a network answers to a test split, class by class: confusions, precision and recall, calibration, files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..console.arguments import UsageError
from ..errors import one_line
from ..files import replace

BINS = 15
"""Of confidence, equally wide, as in C. Guo et al., On Calibration of Modern Neural Networks, 2017."""
SHOWN = 20
"""Classes that a terminal shows all of; of more, those that are found least."""
WORST = 10
LONGEST = 24
"""Characters of a class's name in a table."""


class Bin(NamedTuple):
    """Answers of a confidence in (low, high]: how many, their mean confidence, and how many of them are right."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


class Figures(NamedTuple):
    """How a class is told from the others.

    Of the samples that are answered by it, `precision` are of it; of its own, `recall` are answered by it. Both, and
    their harmonic mean `f1`, are 0 where there are no such samples.
    """

    samples: int
    precision: float
    recall: float
    f1: float


class Answers:
    """Labels, and the probabilities that a network gives to the classes.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        From 0 to below the number of classes.
    probabilities : ndarray of float, shape (n, classes)
        Rows that add up to 1.
    names : sequence of str, optional
        What the classes are called; their numbers if not given.

    Attributes
    ----------
    predicted : ndarray of int, shape (n,)
        The most probable class, the first of equals.
    """

    def __init__(
        self, labels: NDArray[np.integer], probabilities: NDArray[np.floating], names: Sequence[str] = ()
    ) -> None:
        self.labels, self.probabilities = labels, probabilities
        self.names = tuple(names) or tuple(map(str, range(probabilities.shape[1])))
        self.predicted = probabilities.argmax(axis=1)

    def __repr__(self) -> str:
        samples, classes = self.probabilities.shape
        return f"Answers({samples:,} samples, {classes} classes, ECE {self.calibration_error:.2%})"

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """How many samples of a class (row) are answered by a class (column), shape (classes, classes)."""
        classes = self.probabilities.shape[1]
        pairs = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    @cached_property
    def classes(self) -> list[Figures]:
        """The figures of each class."""
        right = self.confusion.diagonal()
        own, answered = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return [
            Figures(int(n), hit / max(m, 1), hit / max(n, 1), 2 * hit / max(n + m, 1))
            for hit, n, m in zip(right.tolist(), own.tolist(), answered.tolist(), strict=True)
        ]

    @cached_property
    def bins(self) -> list[Bin]:
        """The answers by their confidence; bins that have none are there too."""
        confidence = self.probabilities.max(axis=1).astype(np.float64)
        right = self.predicted == self.labels
        place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        found = []
        for k in range(BINS):
            here = place == k
            count = int(here.sum())
            means = [float(each[here].mean()) if count else 0.0 for each in (confidence, right)]
            found.append(Bin(k / BINS, (k + 1) / BINS, count, *means))
        return found

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: how far confidence is from accuracy, bin by bin, weighted by samples."""
        total = max(len(self.labels), 1)
        return sum(each.samples / total * abs(each.confidence - each.accuracy) for each in self.bins)

    def lines(self) -> list[str]:
        """For people."""
        confidence = float(self.probabilities.max(axis=1).mean())
        lines = [f"calibration error (ECE, {BINS} bins) {self.calibration_error:.2%}, mean confidence {confidence:.2%}"]
        count = len(self.classes)
        shown = list(range(count))
        if count > SHOWN:
            shown = sorted(shown, key=lambda k: self.classes[k].recall)[:WORST]
            lines.append(f"the {WORST} of {count} classes that are found least:")
        rows: list[tuple[str, ...]] = [("class", "samples", "precision", "recall", "F1", "taken for (times)")]
        rows += [self._row(k) for k in shown]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
            lines.append("  ".join([*cells, row[-1]]).rstrip())
        return lines

    def _row(self, k: int) -> tuple[str, ...]:
        each, others = self.classes[k], self.confusion[k].copy()
        others[k] = 0
        often = [f"{self._called(j)} ({others[j]:,})" for j in np.argsort(-others, kind="stable")[:3] if others[j]]
        shares = (f"{share:.2%}" for share in (each.precision, each.recall, each.f1))
        return self._called(k), f"{each.samples:,}", *shares, ", ".join(often)

    def _called(self, k: int) -> str:
        """A class's name as a cell, whatever it holds."""
        return one_line(self.names[k], LONGEST)

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "calibration_error": self.calibration_error,
            "bins": [each._asdict() for each in self.bins],
            "classes": [{"name": name} | each._asdict() for name, each in zip(self.names, self.classes, strict=True)],
            "confusion": self.confusion.tolist(),
        }

    def write(self, path: Path) -> None:
        """Write label, answer and probabilities of each sample, in their order, as .csv or .npz."""
        if path.suffix == ".npz":
            file = io.BytesIO()
            np.savez_compressed(
                file, label=self.labels, predicted=self.predicted, probability=self.probabilities, classes=self.names
            )
            replace(path, file.getvalue())
            return
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = self.names
        table.writerow(["sample", "label", "predicted", *(f"p{name}" for name in names)])
        for k, (label, answer, row) in enumerate(zip(self.labels, self.predicted, self.probabilities, strict=True)):
            table.writerow([k, names[label], names[answer], *(f"{p:.9g}" for p in row.tolist())])
        replace(path, text.getvalue().encode())


def draw(answers: Answers, path: Path, title: str) -> None:
    """The confusion matrix and the reliability diagram, side by side, as a PNG."""
    from ..runs import pictures

    with pictures.canvas(12, 5.2) as figure:
        matrix, reliability = figure.subplots(1, 2)
        shares = answers.confusion / np.maximum(answers.confusion.sum(axis=1, keepdims=True), 1)
        shown = matrix.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
        matrix.set(title="confusion", xlabel="answered", ylabel="class")
        figure.colorbar(shown, ax=matrix, label="% of the class")
        if len(shares) <= SHOWN:
            matrix.set_xticks(range(len(shares)))
            matrix.set_yticks(range(len(shares)))
            if answers.names != tuple(map(str, range(len(shares)))):
                called = [answers._called(k).replace("$", r"\$") for k in range(len(shares))]
                matrix.set_xticklabels(called, rotation=45, ha="right")
                matrix.set_yticklabels(called)
            for i, j in np.argwhere(answers.confusion):
                colour = "white" if shares[i, j] > 0.5 else "black"
                matrix.text(j, i, f"{answers.confusion[i, j]}", ha="center", va="center", color=colour, fontsize=7)
        full = [each for each in answers.bins if each.samples]
        reliability.plot([0, 100], [0, 100], color="#777777", linestyle="--", label="as confident as right")
        reliability.bar(
            [50 * (each.low + each.high) for each in full], [100 * each.accuracy for each in full], width=100 / BINS,
            color="#0072b2", alpha=0.6, edgecolor="white", label="answers of this confidence",
        )  # fmt: skip
        reliability.set(
            title=f"reliability: ECE {answers.calibration_error:.2%}", xlabel="confidence, %", ylabel="right, %",
            xlim=(0, 100), ylim=(0, 100),
        )  # fmt: skip
        reliability.legend(loc="upper left", fontsize=8)
        figure.suptitle(title.replace("$", r"\$"))
        pictures.write(figure, path, dpi=120)


def check_file(flag: str, name: str, suffixes: tuple[str, ...]) -> Path:
    """The path of a file to be written, which is new, in a folder that is there, and of a kind that is known."""
    path = Path(name)
    if path.suffix not in suffixes:
        raise UsageError(f"{flag}: expected a name that ends in {' or '.join(suffixes)}, got {name}")
    if path.exists():
        raise UsageError(f"{flag}: {name} is there already; choose another name")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{flag}: {name}: there is no such folder to write to")
    return path
