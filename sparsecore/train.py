"""`python -m sparsecore.train`: train a model from the command line.

Exit status: 0 when the run is finished, 1 if it failed under way, 2 for a command that cannot be followed, 130 or 143
when it was interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console.interrupts import Interrupted, Interrupts
from .console.output import complain, leave_stdout, write_anything

if TYPE_CHECKING:  # the rest is imported while signals are already heeded
    from .commands.options import Options
    from .commands.report import Quiet
    from .console.arguments import Parser
    from .data import Dataset
    from .models.catalogue import Kind
    from .network import Network
    from .runs.checkpoint import Checkpoint
    from .runs.folder import RunFolder
    from .runs.trainer import Callback, Trainer
    from .training.callbacks import Training

PROGRAM = "python -m sparsecore.train"
BYTES_A_CONNECTION = 40
"""Values, gradients, momentum, pattern and plan together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    with Interrupts() as interrupts:
        try:
            return _command(list(sys.argv[1:] if arguments is None else arguments), interrupts)
        except Interrupted:
            return complain(PROGRAM, "interrupted before training began", interrupts.status)
        except BrokenPipeError:  # whoever read our lines has left
            leave_stdout()
            return 1
        except OSError as error:
            leave_stdout()
            return complain(PROGRAM, f"the output cannot be written ({error.strerror}); what was saved is whole", 1)


def _command(arguments: list[str], interrupts: Interrupts) -> int:
    from .commands.report import reporter, result_line
    from .runs.folder import RunFolder
    from .runs.state import from_json

    try:
        options, checkpoint = _options(arguments)
        report = reporter(options["epochs"], quiet=options.get("quiet", False))
        if checkpoint is not None and (done := from_json(checkpoint.state.get("run"))).finished:
            try:
                line = result_line(done.result or {})
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{options['out']}: expected a finished run's result, got another record") from None
            report.say(f"the run in {options['out']} is finished")
            report.result(line)
            return 0 if "no_curves" in options else _draw(RunFolder(options["out"]), anew=False)
        trainer = _trainer(options, checkpoint, report)
        trainer.prepare()
    except ValueError as error:
        return complain(PROGRAM, error, 2)
    except MemoryError:
        return complain(PROGRAM, "the run does not fit into this machine's memory: ask for fewer connections", 2)
    return _train(trainer, report, interrupts, curves="no_curves" not in options)


def _options(arguments: list[str]) -> tuple[Options, Checkpoint | None]:
    """All options, and the checkpoint to go on from if there is one. Raises ValueError."""
    from .commands.options import check, parser
    from .commands.resume import resume
    from .models.catalogue import MODELS
    from .runs.folder import RunFolder

    parse = parser(list(MODELS))
    given: Options = {name: value for name, value in vars(parse.parse_args(arguments)).items() if value is not None}
    checkpoint = None
    if given.get("resume"):
        given, checkpoint = resume(given, parse)
    else:
        if "out" in given:
            RunFolder(given["out"]).check_new()
        if "from" in given:
            given = _inherited(given["from"], parse) | given
    if "model" not in given:
        parse.error(f"expected a model, one of {', '.join(MODELS)}, got none")
    check(given, parse)
    if "padding" in given and "padding" not in MODELS[given["model"]].own:
        parse.error(f"--padding: {given['model']} has no convolutions; leave it out")
    common = {"dataset": "mnist", "format": "csr", "seed": 0, "device": "cpu", "validation": 0.0, "save_every": 5.0}
    model, dataset = MODELS[given["model"]], given.get("dataset", common["dataset"])
    recipe = vars(model.recipe_for(dataset, _kind(given)))
    options: Options = common | {name: value for name, value in recipe.items() if value is not None} | given
    if "warm_up" not in given:  # a short run has a short one
        options["warm_up"] = min(options["warm_up"], options["epochs"] / 2)
    return options, checkpoint


def _kind(given: Options) -> Kind:
    """What kind of run is asked for."""
    if "prune" in given:
        return "pruned"
    return "sparse" if any(given.get(name) for name in ("radix", "expander", "random", "from")) else "dense"


def _trainer(options: Options, checkpoint: Checkpoint | None, report: Quiet) -> Trainer:
    """The run, with nothing written yet. Raises ValueError."""
    from .commands.options import augment_of, config_of
    from .runs.trainer import Trainer
    from .runtime.devices import device, set_threads
    from .training.optimizers import SGD

    where = device(options["device"])
    dataset, initial = _built(options, report)
    config, dataset = config_of(options, dataset), replace(dataset, name=options.get("asked", dataset.name))
    network = initial if checkpoint is None else checkpoint.network
    report.layers(network)
    if "threads" in options:
        set_threads(options["threads"])
    optimizer = SGD(
        options["lr"], options["momentum"], options["weight_decay"], nesterov=options.get("nesterov", False),
        clip_norm=options.get("clip_norm"),
    )  # fmt: skip
    trainer = Trainer(
        network, dataset, optimizer, epochs=options["epochs"], batch_size=options["batch_size"], seed=options["seed"],
        validation=options["validation"], callbacks=[report], out=options.get("out"),
        config=config, save_every=options["save_every"], save_epochs=options.get("save_epochs"),
        look_epochs=options.get("look_epochs", 1),
        check_every_step=options.get("check_every_step", False), device=where,
        augment=augment_of(options, dataset.shape),
    )  # fmt: skip
    _schedule(trainer, options, initial)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer


def _schedule(trainer: Trainer, options: Options, initial: Network) -> None:
    """When the learning rate changes, and when the network is pruned."""
    from .commands.options import schedule_of
    from .commands.pruning import pruner_of, restarted

    steps, total = trainer.steps, trainer.steps * trainer.epochs
    if "prune" in options:
        trainer.callbacks.append(pruner_of(options, initial, total, lambda step: _earlier(options, step)))
    if "prune" in options and "rewind" in options:
        trainer.schedule = restarted(options, total, lambda part: schedule_of(options, steps, part))
    else:
        trainer.schedule = schedule_of(options, steps, total)


def _earlier(options: Options, step: int) -> Network:
    """The network of a run as it was after so many steps, found by going there again."""
    from .commands.report import Quiet

    options = {name: value for name, value in options.items() if name not in ("out", "resume", "threads")}
    if step == 0:
        return _built(options, Quiet())[1]
    trainer = _trainer(options, None, Quiet())
    trainer.callbacks = [*trainer.callbacks[1:], _until(step)]
    trainer.run()
    return trainer.network


def _until(step: int) -> Callback:
    from .runs.trainer import Callback

    class Until(Callback):
        def stepped(self, trainer: Training) -> None:
            if trainer.steps_done == step:
                trainer.stop()

    return Until()


def _inherited(path: str, parser: Parser) -> Options:
    """What a run takes over from the one that its network comes from, if the file tells."""
    from .commands.resume import kept_options
    from .runs.checkpoint import read

    config = read(path).state.get("config")
    if config is None:
        return {}
    kept = kept_options(config, Path(path), parser)
    return {name: kept[name] for name in ("model", "dataset", "data_dir") if name in kept}


def _origin(path: str) -> Options:
    """The options of the run that a checkpoint comes from. Raises UsageError."""
    from .commands.options import parser
    from .commands.resume import kept_options
    from .console.arguments import UsageError
    from .models.catalogue import MODELS
    from .runs.checkpoint import read

    config = read(path).state.get("config")
    if config is None:
        raise UsageError(f"--rewind: {path} does not tell how its network was trained; try --rewind fresh")
    return kept_options(config, Path(path), parser(list(MODELS)))


def _built(options: Options, report: Quiet) -> tuple[Dataset, Network]:
    """The data set, and the network as it starts out."""
    from .commands.options import wiring_of
    from .commands.pruning import go_back
    from .data import load
    from .data.catalogue import CATALOGUE, EMBEDDED, MNIST
    from .models.catalogue import MODELS
    from .runs.checkpoint import read

    if "from" in options:
        network = read(options["from"]).network
        dataset = load(options["dataset"], data_dir=options.get("data_dir"))
        report.say(dataset.source)
        report.say(f"{options['model']}, from {options['from']}")
        if "rewind" in options and "prune" not in options:
            go_back(network, options, lambda step: _earlier(_origin(options["from"]), step))
        return dataset, _with_logits(network, options)
    model, wiring, name = MODELS[options["model"]], wiring_of(options), options["dataset"]
    known = CATALOGUE | {EMBEDDED: MNIST}
    users = None if name in known else load(name, data_dir=options.get("data_dir"))
    about = known[name] if users is None else users
    own = {name: options[name] for name in model.own} | {"every": options.get("sparse_all", False)}
    links = model.links(about.shape, classes=about.classes, hidden=options.get("hidden", model.hidden), **own)
    _check_memory(wiring.connections(links))
    patterns, note = wiring.patterns(links, options["seed"])  # refused, if it is, before anybody waits for data
    dataset = users if users is not None else load(name, data_dir=options.get("data_dir"))
    report.say(dataset.source)
    report.say(f"{options['model']}, {note}")
    network = model.build(
        patterns, dataset.shape, classes=dataset.classes, format=options["format"], seed=options["seed"], **own
    )  # fmt: skip
    return dataset, _with_logits(network, options)


def _with_logits(network: Network, options: Options) -> Network:
    """The network with a ReLU on its logits, if that is asked for."""
    if options.get("relu_logits"):
        head: Any = network.layers[-1]
        head.relu = True
    return network


def _train(trainer: Trainer, report: Quiet, interrupts: Interrupts, *, curves: bool) -> int:
    from .commands.report import result_line
    from .prune import PruneError
    from .runs.checkpoint import CheckpointError
    from .runs.folder import RunFolderError
    from .training.divergence import Diverged

    interrupts.stop = trainer.stop
    try:
        result = trainer.run()
    except (Diverged, CheckpointError, RunFolderError, PruneError, MemoryError) as error:
        return complain(PROGRAM, error, 1)
    finally:
        report.close()
    if result is None:
        return complain(PROGRAM, _stopped(trainer), interrupts.status)
    report.result(result_line(result))
    return _draw(trainer.folder) if curves and trainer.folder is not None else 0


def _draw(folder: RunFolder, *, anew: bool = True) -> int:
    """The run's curves into its folder, anew or where a run was killed before it drew them."""
    from .runs.curves import draw
    from .runs.folder import CURVES
    from .runs.metrics import Metrics

    try:
        if anew or not (folder.path / CURVES).exists():
            draw(list(Metrics(folder.metrics)), folder.path)
    except (OSError, KeyError, TypeError, ValueError) as error:  # all but the first: foreign metrics
        return complain(PROGRAM, f"curves could not be drawn ({error}); all else is saved", 1)
    return 0


def _check_memory(connections: int) -> None:
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not on every system
        return
    if (needed := connections * BYTES_A_CONNECTION) > there:
        raise ValueError(f"{connections:,} connections need about {needed:,} bytes, and this machine has {there:,}: "
                         "ask for fewer")  # fmt: skip


def _stopped(trainer: Trainer) -> str:
    state = trainer.state
    where = f"stopped in epoch {state.epoch + 1} after step {state.batch} of {trainer.steps}"
    if trainer.folder is None:
        return f"{where}; nothing is saved, for there was no --out"
    return f"{where} and saved; to go on: {PROGRAM} --resume --out {trainer.folder.path}"


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
