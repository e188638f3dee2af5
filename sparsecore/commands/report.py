"""What a run shows of itself: lines anywhere, a live bar and a table on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite

from ..console.output import output
from ..errors import figure
from ..network import LayerSummary, Network
from ..runs.config import RunConfig
from ..runs.kinds import spelled
from ..runtime.tiles import PAIRS, tile_samples, tiles_of
from ..training.callbacks import Callback, Progress, Training
from ..training.state import Record


class Quiet(Callback):
    """The result alone."""

    def say(self, line: str) -> None:
        """A line about the run."""

    def layers(self, network: Network) -> None:
        """The network's layers as a table."""

    @output()
    def result(self, line: str) -> None:
        """The last line."""
        print(line, flush=True)

    def close(self) -> None:
        """Give the terminal back."""


class Lines(Quiet):
    """Plain lines, for files and pipes."""

    def __init__(self) -> None:
        self._moves: list[Record] = []  # of the running epoch, whose line tells them together: there may be many

    @output()
    def say(self, line: str) -> None:
        print(line, flush=True)

    def layers(self, network: Network) -> None:
        rows = [TITLES, *rows_of(network)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.ljust(width) if not k else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.say("  ".join(cells))

    def recorded(self, record: Record) -> None:
        if record["event"] == "epoch":
            self.say(epoch_line(record) + moved(self._moves))
            self._moves = []
        elif record["event"] == "rewire":
            self._moves.append(record)
        elif record["event"] == "prune":
            self.say(prune_line(record))


class Live(Lines):
    """A bar with loss, accuracy and images/s below the epochs' lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__()
        self._console = Console(highlight=False)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(), console=self._console, auto_refresh=False, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1, epoch="1", shown="")

    @output()
    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    @output()
    def layers(self, network: Network) -> None:
        from rich.table import Table

        table = Table(*TITLES)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows_of(network):
            table.add_row(*row)
        self._console.print(table)

    @output()
    def started(self, trainer: Training) -> None:
        self._bar.update(self._task, total=trainer.epochs, epoch=f"1/{trainer.epochs}")
        self._bar.start()

    @output()
    def looked(self, progress: Progress) -> None:
        totals, rate = progress.totals, progress.totals.samples / max(progress.seconds, 1e-9)
        shown = f"loss {figure(totals.mean_loss, '.4f')}  accuracy {totals.accuracy:.2%}  {rate:,.0f} images/s"
        epoch, epochs_done = f"{progress.epoch + 1}/{progress.epochs}", progress.epoch + progress.step / progress.steps
        self._bar.update(self._task, completed=epochs_done, epoch=epoch, shown=shown, refresh=True)

    @output()
    def close(self) -> None:
        self._bar.stop()


def reporter(*, quiet: bool) -> Quiet:
    """The report that suits where the output goes."""
    if quiet:
        return Quiet()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Live() if terminal else Lines()


TITLES = ("layer", "shape", "connections", "sparsity")


def rows_of(network: Network) -> list[tuple[str, str, str, str]]:
    """A row for each layer that has connections, and one for all of them."""
    rows = [
        (_called(line), f"{line.shape[0]}×{line.shape[1]}", f"{line.connections:,}", f"{line.sparsity:.1%}")
        for line in network.summary()
    ]
    return [*rows, ("all", "", f"{network.connections:,}", f"{network.global_sparsity:.1%}")]


def _called(line: LayerSummary) -> str:
    """A layer's name, after its path where that is more than a number."""
    return line.name if line.path.isdecimal() else f"{line.path} {line.name}"


def learning_line(config: RunConfig) -> str:
    """How a run learns, as a line: what stands in its recipe, or was asked for."""
    epochs = f"{config.epochs:,} epochs" if config.epochs != 1 else "1 epoch"
    how = {"momentum": config.momentum, "betas": config.betas, "weight decay": config.weight_decay,
           "clipped to": config.clip_norm, "warm-up": config.warm_up, "augment": config.augment}  # fmt: skip
    said = [f"{name} {spelled(value)}" for name, value in how.items() if value not in (None, 0.0, "none")]
    name = "nesterov's sgd" if config.nesterov else config.optimizer
    first = f"{name}: batch size {config.batch_size:,}, rate {config.lr:g} ({config.schedule})"
    return ", ".join([first, *said, epochs])


def halves_line(batch_size: int) -> str:
    """How activations are stored, and what a batch that does not fill its tiles is computed as."""
    each, tiles = tile_samples(PAIRS), tiles_of(batch_size, PAIRS)
    filled = f"a batch of {batch_size:,} fills {tiles:,} {'tiles' if tiles > 1 else 'tile'} of {each}"
    return f"activations in bfloat16: {filled}" + (f": {tiles * each:,}" if batch_size % each else "")


def epoch_line(record: Record) -> str:
    """An epoch's record as a line."""
    parts = [
        f"epoch {record['epoch']:3}",
        f"loss {figure(record['train_loss'], '.4f')}",
        *(
            f"{WORDS.get(name, name)} {score(record, name)}{_loss(record, name)}"
            for name in ("train", "validation", "test")
            if f"{name}_accuracy" in record
        ),
        *(f"{name} R² {score(record, name)}" for name in ("train", "validation", "test") if f"{name}_r2" in record),
        f"lr {record['lr']:.3g}",
        f"{record['seconds']:.2f} s",
    ]
    return "  ".join(parts)


WORDS = {"train": "accuracy"}
"""What an epoch's line calls the accuracy of a split."""


def score(record: Record, split: str) -> str:
    """A split's accuracy, or its R² where numbers are told."""
    if f"{split}_r2" in record:
        return "none" if record[f"{split}_r2"] is None else figure(record[f"{split}_r2"], ".4f")
    return figure(record[f"{split}_accuracy"], ".2%")


def _loss(record: Record, split: str) -> str:
    """What is said of a loss that is no number, which the lines of metrics have as null."""
    loss = record.get(f"{split}_loss", 0.0)
    return "" if loss is not None and isfinite(loss) else f" ({split} loss is not finite: outputs are too large)"


def moved(updates: Sequence[Record]) -> str:
    """What an epoch's updates moved, for its line; nothing if there were none."""
    if not updates:
        return ""
    came = sum(layer["came"] for update in updates for layer in update["layers"])
    now, last = updates[-1], updates[-1]["layers"]
    sparser = any(layer["went"] > layer["came"] for update in updates for layer in update["layers"])
    tried = sum(layer["tried"] for layer in last) / sum(layer["possible"] for layer in last)
    parts = [f"moved {came:,}", *([f"to {now['sparsity']:.1%} sparse"] if sparser else []), f"ever tried {tried:.1%}"]
    return "  " + "  ".join(parts)


def prune_line(record: Record) -> str:
    """A pruning's record as a line."""
    what, kind = ("R²", "r2") if "r2_before" in record else ("accuracy", "accuracy")
    before, after = (score({f"{when}_{kind}": record[f"{kind}_{when}"]}, when) for when in ("before", "after"))
    return (
        f"pruned after step {record['step']:,} to {record['connections']:,} connections, sparse layers "
        f"{record['sparsity']:.1%} sparse: {record['split']} {what} {before} → {after}"
    )


def result_line(record: Record) -> str:
    """The result's record as a line."""
    what = "R²" if "test_r2" in record else "accuracy"
    return (
        f"{record['model']} on {record['dataset']}: test {what} {score(record, 'test')}"
        f"{_loss(record, 'test')} "
        f"after {record['epochs']} epochs; {figure(record['connections'], ',')} connections, sparse layers "
        f"{figure(record['sparsity'], '.1%')} sparse, all {figure(record['global_sparsity'], '.1%')}; trained in "
        f"{figure(record['train_seconds'], '.2f')} s, {figure(record['step_ms'], '.3f')} ms a step, on "
        f"{record['device']}{_best(record)}"
    )


def _best(record: Record) -> str:
    """What the result says of the best epoch, where there is a validation split."""
    best = record.get("best")
    if best is None:
        return ""
    test = f", test {score(best, 'test')}" if {"test_accuracy", "test_r2"} & best.keys() else ""
    return f"; best of the epochs was {best['epoch']}: validation {score(best, 'validation')}{test} (--best)"
