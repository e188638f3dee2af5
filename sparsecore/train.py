"""`python -m sparsecore.train`: train a model from the command line.

Exit status: 0 when the run is finished, 1 if it failed under way, 2 for a command that cannot be followed, 130 or 143 when it
was interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .device import Device
    from .options import Options
    from .trainer import Trainer

PROGRAM = "python -m sparsecore.train"
BYTES_A_CONNECTION = 40
"""Values, gradients, momentum, pattern and plan together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    interrupts = Interrupts()
    with interrupts:
        try:
            return _command(list(sys.argv[1:] if arguments is None else arguments), interrupts)
        except Interrupted:
            return _fail("interrupted before training began; nothing was written", interrupts.status)
        except BrokenPipeError:  # whoever read our lines has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1


def _command(arguments: list[str], interrupts: Interrupts) -> int:
    from .checkpoint import CheckpointError
    from .options import one_line
    from .run_folder import RunFolderError
    from .trainer import Diverged

    try:
        options, stored = _options(arguments)
        trainer, report = _prepare(options, stored)
    except ValueError as error:
        return _fail(one_line(error), 2)
    except MemoryError:
        return _fail("expected a run that fits this machine's memory, got a larger one: ask for fewer connections", 2)
    from .progress import result_line

    try:
        if trainer.finished:
            report.say(f"{options['out']}: this run is finished")
        interrupts.stop = trainer.stop
        result = trainer.run()
    except (Diverged, CheckpointError, RunFolderError) as error:
        return _fail(one_line(error), 1)
    finally:
        interrupts.stop = None
        report.close()
    if result is None:
        return _fail(_stopped(trainer, options), interrupts.status)
    report.result(result_line(result))
    if trainer.folder is not None:
        from .curves import draw

        draw(trainer.history, trainer.folder.path)
    return 0


def _options(arguments: list[str]) -> tuple[Options, Any]:
    """All options, and the checkpoint to go on from if there is one."""
    from .checkpoint import read
    from .models.catalogue import MODELS
    from .options import OWN, UsageError, check, command_line, parser
    from .run_folder import RunFolder

    parse = parser(list(MODELS))
    given: Options = vars(parse.parse_args(arguments))
    if given.get("model") is None:
        del given["model"]
    checkpoint = None
    if given.get("resume"):
        if "out" not in given:
            parse.error("--resume: needs --out, the folder of the run to go on with")
        folder = RunFolder(given["out"])
        if not folder.path.is_dir():
            raise UsageError(f"--resume: expected a run's folder, got {given['out']!r}, which is not there; leave --resume out to start a run")
        config = folder.config()
        if config is not None:
            try:
                kept = vars(parse.parse_args(command_line(config["options"])))
            except (UsageError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{folder.path}: expected the configuration of a run, could not use it ({error})") from None
            for name, value in given.items():
                if name not in OWN and value != kept.get(name) and (name, value) != ("dataset", config.get("asked")):
                    started = f"with {_spelled(kept[name])}" if name in kept else "without"
                    flag = "MODEL" if name == "model" else "--" + name.replace("_", "-")
                    raise UsageError(f"{flag}: the run in {folder.path} was started {started}; leave it out, or start a run elsewhere")
            given = kept | {name: value for name, value in given.items() if name in OWN}
        if folder.has_checkpoint():
            checkpoint = read(folder.path)
    elif "out" in given:
        RunFolder(given["out"]).check_new()
    if "model" not in given:
        parse.error(f"a model is missing: one of {', '.join(MODELS)}")
    check(given, parse)
    recipe = vars(MODELS[given["model"]].recipe)
    common = {"dataset": "mnist", "format": "csr", "seed": 0, "device": "cpu", "validation": 0.0, "save_every": 5.0}
    return common | recipe | given, checkpoint


def _prepare(options: Options, checkpoint: Any) -> tuple[Trainer, Any]:
    """Everything up to the first step, with nothing written. Raises ValueError."""
    from . import __version__
    from .data import load
    from .device import set_threads
    from .models.catalogue import MODELS
    from .optim import SGD
    from .options import OWN, schedule_of, wiring_of
    from .progress import reporter
    from .trainer import Trainer

    device = _device(options["device"])
    model, wiring = MODELS[options["model"]], wiring_of(options)
    dataset = load(options["dataset"], data_dir=options.get("data_dir"))
    report = reporter(options["epochs"], quiet=options.get("quiet", False))
    report.say(dataset.source)
    sizes = model.sizes(dataset.shape)
    if checkpoint is None:
        _check_memory(wiring.connections(sizes))
        patterns, note = wiring.patterns(sizes, options["seed"])
        network = model.build(patterns, classes=dataset.classes, format=options["format"], seed=options["seed"])
        report.say(f"{options['model']}, {note}")
    else:
        network = checkpoint.network
    if "threads" in options:
        set_threads(options["threads"])
    samples = len(dataset.train) - round(options["validation"] * len(dataset.train))
    run = {name: value for name, value in options.items() if name not in OWN} | {"dataset": dataset.name}
    config = {"version": __version__, "model": options["model"], "asked": options["dataset"], "options": run}
    optimizer = SGD(
        options["lr"], options["momentum"], options["weight_decay"], nesterov=options.get("nesterov", False),
        clip_norm=options.get("clip_norm"),
    )  # fmt: skip
    trainer = Trainer(
        network, dataset, optimizer, epochs=options["epochs"], batch_size=options["batch_size"], seed=options["seed"],
        validation=options["validation"], callbacks=[report], out=options.get("out"), config=config,
        save_every=options["save_every"], check_every_step=options.get("check_every_step", False), device=device,
    )  # fmt: skip
    trainer.schedule = schedule_of(options, trainer.steps)
    report.layers(network)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer, report


def _device(name: str) -> Device:
    from . import device

    if name == "cpu":
        return device.cpu()
    if find_spec("cupy") is None:
        raise ValueError("--device: cuda needs CuPy, which is not installed: pip install 'sparsecore[cuda]', or use --device cpu")
    raise ValueError("--device: this version computes on cpu only, got 'cuda'")


def _check_memory(connections: int) -> None:
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not on every system
        return
    if (needed := connections * BYTES_A_CONNECTION) > there:
        raise ValueError(f"{connections:,} connections need about {needed:,} bytes, got {there:,} in this machine: ask for fewer")


def _stopped(trainer: Trainer, options: Options) -> str:
    where = f"stopped in epoch {trainer.epoch + 1} after step {trainer.batch} of {trainer.steps}"
    if trainer.folder is None:
        return f"{where}; nothing was saved, for there is no --out"
    return f"{where}, saved; go on with: {PROGRAM} --resume --out {options['out']}"


def _spelled(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(",".join(map(str, each)) for each in value) if isinstance(value[0], list) else ",".join(map(str, value))
    return str(value)


def _fail(line: str, status: int) -> int:
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    return status


class Interrupted(BaseException):
    """A signal before there was anything to save."""


class Interrupts:
    """The first Ctrl-C or SIGTERM asks a run to stop where it can go on from; a second one leaves at once."""

    def __init__(self) -> None:
        self.stop: Callable[[], None] | None = None
        self.status = 0

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on)

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.status:
            os._exit(128 + number)
        self.status = 128 + number
        if self.stop is None:
            raise Interrupted
        self.stop()


if __name__ == "__main__":
    sys.exit(main())
