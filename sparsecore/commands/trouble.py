"""What a run says when it goes wrong and ends all the same: accuracy that falls to chance, classes that are lost."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from ..data import Dataset
from ..data.splits import listed
from ..network import Network
from ..runs.config import RunConfig
from ..training.callbacks import Callback, Training
from ..training.lost import DEAD, lost_classes
from ..training.state import Record
from .report import Quiet

NEXT, FAR = 0.1, 0.3
"""Parts of the way from the accuracy of always answering the largest class to 1: what is next to chance, and far."""


class Trouble(Callback):
    """Tells a collapse once, when it happens, and lost classes at the end of a run, each with what to try.

    Parameters
    ----------
    dataset : Dataset
        Of classes.
    config : RunConfig
        With every field filled in.
    report : Quiet
        Says it.
    """

    def __init__(self, dataset: Dataset, config: RunConfig, report: Quiet) -> None:
        self.dataset, self.config, self.report = dataset, config, report
        self.chance = float(np.bincount(dataset.train.y).max() / len(dataset.train))
        self._best, self._told = 0.0, False
        self._network: Network | None = None

    def started(self, trainer: Training) -> None:
        self._network = trainer.network

    def recorded(self, record: Record) -> None:
        if record["event"] == "epoch":
            self._look(record["epoch"], record["train_accuracy"])
        elif record["event"] == "result" and (lost := self._lost(record)):
            self.report.say(f"lost {len(lost)} of {self.dataset.classes} classes, which the network hardly ever answers"
                            f": {listed([self.dataset.names[k] for k in lost])}; {remedies(self.config)}")  # fmt: skip

    def _look(self, epoch: int, accuracy: float) -> None:
        if not self._told and has_collapsed(self._best, accuracy, self.chance):
            self._told = True
            self.report.say(f"training collapsed in epoch {epoch}: accuracy fell from {self._best:.2%} to "
                            f"{accuracy:.2%}, next to chance; {remedies(self.config)}")  # fmt: skip
        self._best = max(self._best, accuracy)

    def _lost(self, result: Record) -> tuple[int, ...]:
        """The classes that are lost; nothing is computed where accuracy leaves no room for one, or answers are NaN."""
        test, classes = self.dataset.test, self.dataset.classes
        support = np.bincount(test.y, minlength=classes)
        room = 1 - (1 - DEAD) * support[support > 0].min() / len(test)
        if not isfinite(result["test_loss"]) or result["test_accuracy"] > room:
            return ()
        if self._network is None:
            return ()
        answers = np.concatenate([self._network.predict(block) for block in test.blocks()])
        return lost_classes(np.bincount(answers, minlength=classes).tolist(), support.tolist())


def has_collapsed(best: float, accuracy: float, chance: float) -> bool:
    """Whether an accuracy is next to chance, and was far from it before: measured on the way from chance to all."""
    way = max(1 - chance, 1e-9)
    return (accuracy - chance) / way <= NEXT and (best - chance) / way >= FAR


def remedies(config: RunConfig) -> str:
    """What to try, as far as the run has not."""
    lr: Any = config.lr
    tried = [f"--lr {lr / 10:.2g} (now {lr:g})"]
    if config.clip_norm in (None, "none"):
        tried.append("--clip-norm 1")
    if config.relu_logits:
        tried.append("no --relu-logits")
    if config.augment not in (None, "none"):
        tried.append("--augment none")
    return f"try {', '.join(tried[:-1])} or {tried[-1]}" if len(tried) > 1 else f"try {tried[0]}"
