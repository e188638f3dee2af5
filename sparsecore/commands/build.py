"""Making a run from a resolved configuration; nothing is written yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._package import VERSION, source
from ..data import NAMES, DataError, Dataset, load
from ..data.catalogue import CATALOGUE, EMBEDDED, MNIST
from ..data.outline import Outline, outline
from ..network import Network
from ..runs.checkpoint import Checkpoint, read
from ..runs.config import RunConfig, saved
from ..runs.kinds import ConfigError
from ..runs.trainer import Trainer
from ..runtime.device import Device
from ..runtime.devices import cpu, device, get_threads, set_threads
from ..runtime.ranks import Ranks
from ..training.callbacks import Callback, Training
from ..training.evaluation import as_read_by
from .configured import augmentation_of, of_a_field, optimizer_of, rates_of, wiring_of
from .plan import check, of_a_rank
from .recipes import fitted, model_of, origin, own_line, resolved
from .report import Lines, Quiet, halves_line, learning_line
from .threads import FasterThreads
from .trouble import Trouble

if TYPE_CHECKING:  # imported only by runs that prune
    from .pruning import Pruning


def build(
    config: RunConfig, checkpoint: Checkpoint | None = None, *, out: str | Path | None = None,
    report: Quiet | None = None, callbacks: Sequence[Callback] = (), again: bool = False,
    ranks: Ranks | None = None,
) -> Trainer:  # fmt: skip
    """The trainer of a run.

    Parameters
    ----------
    config : RunConfig
        As `resolved` gives it.
    checkpoint : Checkpoint, optional
        Of this run, to go on from.
    out : str or Path, optional
        The run's folder.
    report : Quiet, optional
        Shows the data and the network now, and the training later.
    callbacks : sequence of Callback
        Others for the training.
    again : bool
        The folder has this run in it, which begins again if there is no checkpoint.
    ranks : Ranks, optional
        The processes that make the run together; the configuration's batch is that of all.

    Raises
    ------
    ValueError
        If what is configured does not fit the model, the data or this machine.
    """
    report = report if report is not None else Quiet()
    where = device(config.device)
    if ranks is not None and where.name != "cpu":
        raise ConfigError("{device}: ranks of an MPI job train on cpu, got {got}", got=config.device)
    dataset, initial = start(config, report, ranks)
    network = initial if checkpoint is None else checkpoint.network
    network.to(activations=config.activations)
    path, dataset = dataset.name, _as_before(_named(config, dataset), network)
    if checkpoint is None and config.start_from is None:
        _check_classes(dataset)
    report.layers(network)
    timing: list[Callback] = []
    if isinstance(config.threads, int):
        set_threads(config.threads)
    elif where.name == "cpu" and (config.threads == "auto" or cpu().given is None):
        timing = [FasterThreads(report.say, None if ranks is None else ranks.threads)]
    held_out = None
    if config.validation:
        dataset, held_out = dataset.without(config.validation, config.seed)
    by_samples = None in (config.epochs, config.batch_size, config.warm_up)
    if by_samples:
        config = fitted(config, len(dataset.train))
    if config.lr == "auto":
        config = _with_rate(config, network, dataset, where, report)
    if by_samples:
        report.say(own_line(config))
    report.say(learning_line(config))
    if config.activations == "bfloat16":
        report.say(halves_line(_said(config.batch_size)))
    kept = _kept(config, path)
    steps = -(-len(dataset.train) // _said(config.batch_size))
    total = steps * _said(config.epochs)
    pruning = _pruning(config, total)
    if isinstance(report, Lines) and not dataset.numbers:
        timing.append(Trouble(dataset, config, report))
    prunes: list[Callback] = []
    if pruning is not None:
        prunes = [pruning.pruner(initial, lambda step: earlier(config, step, ranks))]
    elif config.rewire is not None:
        from .rewiring import rewirer, rewiring_line

        moves = rewirer(config, initial, total)
        report.say(rewiring_line(config, moves.schedule))
        prunes = [moves]
    trainer = Trainer(
        network, dataset, optimizer_of(config), epochs=_said(config.epochs),
        batch_size=_said(config.batch_size), seed=config.seed, validation=held_out if held_out is not None else 0.0,
        schedule=rates_of(config, steps, pruning), callbacks=[*timing, report, *prunes, *callbacks], out=out,
        config=source() | saved(kept, VERSION), save_every=config.save_every, save_epochs=config.save_epochs,
        evaluate_every=config.evaluate_every, check_every_step=config.check_every_step, device=where,
        augment=augmentation_of(config, dataset.shape), patience=config.patience, ranks=ranks,
        local_norms=config.local_batch_norm,
    )  # fmt: skip
    if checkpoint is not None:
        trainer.restore(checkpoint)
    elif again:
        trainer.begin_again()
    return trainer


def start(config: RunConfig, report: Quiet, ranks: Ranks | None = None) -> tuple[Dataset, Network]:
    """The data set, and the network as it starts out."""
    if config.start_from is not None:
        network = read(config.start_from).network
        dataset = loaded(config)
        check(*of_a_rank(config, ranks), Outline.of(dataset), network)
        dataset = as_read_by(network, dataset)
        report.say(dataset.source)
        report.say(f"{config.model}, from {config.start_from}")
        if config.rewind is not None and config.prune is None:
            from .pruning import go_back

            go_back(network, config, lambda step: earlier(_origin(config), step))
        return dataset, _with_logits(network, config)
    dataset, network = _wired(config, report, ranks)
    return dataset, _with_logits(network, config)


def loaded(config: RunConfig) -> Dataset:
    """The data set that a configuration names. Raises DataError."""
    return load(_said(config.dataset), data_dir=config.data_dir, target=config.target, loss=config.loss)


def earlier(config: RunConfig, step: int, ranks: Ranks | None = None) -> Network:
    """The network of a run as it was after so many steps, found by training up to there again."""
    config = replace(config, threads=get_threads())
    if step == 0:
        return start(config, Quiet())[1]
    trainer = build(config, callbacks=[_Until(step)], ranks=ranks)
    trainer.run()
    return trainer.network


def _pruning(config: RunConfig, steps: int) -> Pruning | None:
    if config.prune is None:
        return None
    from .pruning import Pruning

    return Pruning(config, steps)


def _wired(config: RunConfig, report: Quiet, ranks: Ranks | None) -> tuple[Dataset, Network]:
    """The data set and the model's network; what does not fit is refused before any data are loaded."""
    model, wiring, name = model_of(config), wiring_of(config), _said(config.dataset)
    known = CATALOGUE | {EMBEDDED: MNIST}
    users = None if name in known else loaded(config)
    about = known[name] if users is None else users
    own = {name: getattr(config, name) for name in model.own} | {"every": config.sparse_all}
    hidden = config.hidden if config.hidden is not None else model.hidden
    try:
        links = model.links(about.shape, classes=about.classes, hidden=hidden, **own)
        check(*of_a_rank(config, ranks), outline(name) if users is None else Outline.of(users))
        patterns, note = wiring.patterns(links, config.seed)
    except ValueError as error:
        raise of_a_field(error) from None
    dataset = users if users is not None else loaded(config)
    report.say(dataset.source)
    report.say(f"{config.model}, {note}")
    network = model.build(
        patterns, dataset.shape, classes=dataset.classes, format=config.format, seed=config.seed, **own
    )  # fmt: skip
    return dataset, network


def _with_logits(network: Network, config: RunConfig) -> Network:
    """The network with a ReLU on its logits, if the configuration has one."""
    if config.relu_logits:
        head: Any = network.layers[-1]
        head.relu = True
    return network


def _with_rate(
    config: RunConfig, network: Network, dataset: Dataset, where: Device, report: Quiet
) -> RunConfig:
    """With a rate found by a range test. Raises ConfigError."""
    from ..training.range_test import RangeTestError, range_test

    augment = augmentation_of(config, dataset.shape)
    try:
        found = range_test(
            network, dataset, optimizer_of(config), batch_size=_said(config.batch_size), seed=config.seed,
            augment=augment, device=where,
        )  # fmt: skip
    except RangeTestError as error:
        raise ConfigError("{lr} auto: {problem}", problem=error) from None
    report.say(f"rate {found.lr:g}, found in {len(found.rates)} steps at {found.rates[0]:g} to {found.rates[-1]:.2g}")
    return replace(config, lr=found.lr, lr_found=True)


def _kept(config: RunConfig, name: str) -> RunConfig:
    """The configuration that a run saves: enough to start it again from any folder."""
    used = os.path.abspath(name) if name not in NAMES else name
    return replace(config, dataset=used, dataset_name=config.dataset_name or config.dataset)


def _named(config: RunConfig, dataset: Dataset) -> Dataset:
    """A user's data set under the name that it had when the run was begun, even if its path is another now."""
    if config.dataset_name is None or dataset.name in NAMES:
        return dataset
    return replace(dataset, name=config.dataset_name)


def _check_classes(dataset: Dataset) -> None:
    """Refuse labels that do not begin at 0, or lie far apart: each number up to the largest becomes an output."""
    used = np.unique(dataset.train.y)
    if used[0] or 2 * len(used) <= dataset.classes:
        raise DataError(f"{dataset.name}: y: expected labels 0 to {len(used) - 1} for {len(used)} classes, got "
                        f"{used[0]} to {used[-1]}, which would make {dataset.classes} outputs")  # fmt: skip


def _as_before(dataset: Dataset, network: Network) -> Dataset:
    """A data set with as many means as a network was trained with: earlier versions had one for all of a table."""
    norm = network.normalisation
    if norm is None or len(norm.mean) == len(dataset.mean):
        return dataset
    return replace(dataset, mean=norm.mean, std=norm.std)


def _origin(config: RunConfig) -> RunConfig:
    """The configuration of the run that the network comes from."""
    assert config.start_from is not None
    found = origin(config.start_from)
    if found is None:
        raise ConfigError("{rewind}: {path} does not tell how its network was trained", {"rewind": "fresh"},
                          path=config.start_from)  # fmt: skip
    return resolved(found)


class _Until(Callback):
    """Stops a run after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, trainer: Training) -> None:
        if trainer.steps_done == self.step:
            trainer.stop()


def _said(value: Any) -> Any:
    """A field of a resolved configuration, which is not None."""
    assert value is not None
    return value
