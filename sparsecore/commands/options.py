"""The options of a training run: read from a command line, kept in config.json, read back from there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..console import arguments
from ..console.arguments import Parser, UsageError
from ..data import NAMES, Dataset
from ..data.augmentation import Augmentation
from ..topology import ExpanderKind
from ..topology.wiring import Grain, Wiring
from ..training.schedules import Schedule, constant, cosine, step_decay, warm_up
from .pruning import add_options, check_options

EXAMPLE = "python -m sparsecore.train lenet300 --radix 10,10"
FREE = ("threads", "device", "data_dir", "save_every", "save_epochs", "look_epochs", "check_every_step")
"""Options that change no bit of what is learned on one processor, and may differ when a run goes on."""
HERE = ("out", "resume", "quiet", "no_curves", "help", "asked")
"""Options of one command, that a run does not keep."""

Options = dict[str, Any]


def parser(models: Sequence[str]) -> Parser:
    """The parser of the training command; what is not given is not in its result."""
    made = Parser("python -m sparsecore.train", "Train a network in sparse storage.", EXAMPLE)
    made.add_argument(
        "model", nargs="?", default=None, type=arguments.one_of("a model", models), metavar="MODEL",
        help=", ".join(models),
    )  # fmt: skip
    wiring = made.add_argument_group("wiring of the sparse layers (dense if not given)")
    kind = wiring.add_mutually_exclusive_group()
    kind.add_argument(
        "--radix", type=arguments.radices, metavar="LISTS",
        help="a RadiX-Net, one radix a sparse layer: 10,10 or 2,5/10",
    )  # fmt: skip
    kind.add_argument(
        "--expander", nargs="?", const="fixed", metavar="KIND",
        type=arguments.one_of("an expander", ("fixed", "bernoulli", "explicit")),
        help="fixed (fan-in, the default), bernoulli or explicit; needs --sparsity",
    )  # fmt: skip
    kind.add_argument("--random", action="store_true", help="uniformly random connections; needs --sparsity")
    kind.add_argument("--dense", action="store_true", help="all connections")
    wiring.add_argument(
        "--widths", type=arguments.widths, metavar="LIST", help="a RadiX-Net's widths, one a layer of neurons: 8,30,1"
    )
    wiring.add_argument(
        "--hidden", type=arguments.widths, metavar="LIST",
        help="sizes of the hidden layers, channels or neurons: 3000,100; deeper where the model allows",
    )  # fmt: skip
    wiring.add_argument(
        "--sparsity", type=arguments.sparsities, metavar="S",
        help="the fraction of connections removed, of each sparse layer or of one after another: 0.9, or 0.5,0.9",
    )  # fmt: skip
    wiring.add_argument(
        "--pattern", type=arguments.one_of("a pattern", ("channel", "weight")),
        help="what a connection of a convolution is: a whole filter (--radix's, if not given) or a single weight",
    )  # fmt: skip
    wiring.add_argument("--sparse-all", action="store_true", help="wire the first and the last layer too, dense if not")
    wiring.add_argument(
        "--padding", type=arguments.integer("a whole number from 0 to 100", 2, 0, 100), metavar="PIXELS",
        help="of lenet5's convolutions (2 for cifar10, none otherwise)",
    )  # fmt: skip
    wiring.add_argument(
        "--relu-logits", action="store_true", help="a ReLU on the logits, which can kill a class: for study only"
    )
    wiring.add_argument(
        "--format", type=arguments.one_of("a format", ("csr", "coo")), help="storage: csr (default) or coo"
    )

    add_options(made)

    run = made.add_argument_group("run (defaults depend on the model)")
    positive = arguments.number("a number above 0", 0.1, lambda v: v > 0)
    fraction = arguments.number("a fraction of at least 0 and below 1", 0.1, lambda v: 0 <= v < 1)
    not_negative = arguments.number("a number of at least 0", 0.0005, lambda v: v >= 0)
    count = arguments.integer("a whole number from 1", 10, 1, 10**9)
    run.add_argument(
        "--dataset",
        type=arguments.text,
        help="mnist (default), fashion-mnist, cifar10, mnist-subset, or an .npz file with x and y",
    )
    run.add_argument(
        "--augment", type=arguments.augment_text, metavar="PIXELS[,flip]",
        help="move each image by up to so many pixels each way, anew in every epoch, and mirror half of them; or none",
    )  # fmt: skip
    run.add_argument("--data-dir", type=arguments.text, help="folder of fetched data sets")
    run.add_argument("--epochs", type=count)
    run.add_argument("--batch-size", type=count)
    run.add_argument("--lr", type=positive, help="learning rate")
    run.add_argument("--momentum", type=fraction)
    run.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    run.add_argument("--weight-decay", type=not_negative)
    run.add_argument("--clip-norm", type=positive, help="scale the gradient down to this norm where it is larger")
    run.add_argument("--schedule", type=arguments.schedule_text, help="constant, cosine, or step:EPOCHS[:FACTOR]")
    run.add_argument("--warm-up", type=not_negative, metavar="EPOCHS", help="rise to the full rate over so many epochs")
    run.add_argument("--seed", type=arguments.integer("a whole number from 0", 0, 0, 2**63 - 1))
    run.add_argument(
        "--validation", type=fraction, metavar="FRACTION", help="of the training set, held out and looked at"
    )
    run.add_argument(
        "--threads", type=arguments.integer("a whole number from 1 to 256", 2, 1, 256),
        help="all there are if not given",
    )  # fmt: skip
    run.add_argument("--device", type=arguments.place, help=arguments.PLACES)
    run.add_argument(
        "--out", type=arguments.text, metavar="DIR",
        help="folder for config.json, metrics.jsonl, model.safetensors, curves.png",
    )  # fmt: skip
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    run.add_argument(
        "--save-every", type=not_negative, metavar="SECONDS", help="between checkpoints in --out (5 if not given)"
    )
    run.add_argument("--save-epochs", type=count, metavar="N", help="save after every N epochs too")
    run.add_argument(
        "--look-epochs", type=count, metavar="N",
        help="look at the test and validation splits after every N epochs (1 if not given), and at the end",
    )  # fmt: skip
    run.add_argument(
        "--check-every-step", action="store_true", help="look after each step whether loss and parameters are finite"
    )
    run.add_argument("--no-curves", action="store_true", help="draw no curves.png, which takes half a second")
    run.add_argument("--quiet", action="store_true", help="print the result only")
    return made


def check(options: Mapping[str, Any], parser: Parser) -> None:
    """What options mean together. Raises UsageError."""
    has = options.get
    if "radix" not in options and "widths" in options:
        parser.error("--widths: goes with --radix only")
    if "pattern" in options and not (has("random") or "expander" in options or "radix" in options):
        parser.error("--pattern: goes with --radix, --expander or --random, got none of them")
    if "hidden" in options and "widths" in options:
        parser.error("--hidden: not with --widths, which say the sizes of a RadiX-Net; leave one out")
    if "sparsity" in options and "radix" in options:
        parser.error("--sparsity: not with --radix, whose radices decide how many connections there are; leave it out")
    if "sparsity" in options and not (has("random") or "expander" in options):
        parser.error("--sparsity: goes with --random or --expander, got neither; try --random --sparsity 0.9")
    for name in ("random", "expander"):
        if has(name) and "sparsity" not in options:
            parser.error(f"--{name}: needs --sparsity, the fraction removed; try --{name} --sparsity 0.9")
    if has("nesterov") and has("momentum") == 0:
        parser.error("--nesterov: needs a --momentum above 0, got 0")
    if has("from"):
        for name in ("radix", "expander", "random", "dense", "pattern", "sparse_all", "hidden", "padding", "format"):
            if name in options:
                parser.error(f"{_flag(name)}: not with --from, whose network is wired already; leave one out")
    check_options(options, parser.error)


def wiring_of(options: Options) -> Wiring:
    """The wiring that options ask for."""
    grain: Grain | None = options.get("pattern")
    sparsity = options.get("sparsity", 0.0)
    sparsity = tuple(sparsity) if isinstance(sparsity, list) else sparsity
    if "radix" in options:
        widths = options.get("widths")
        widths = tuple(widths) if widths is not None else None
        return Wiring("radix", _tuples(options["radix"]), widths=widths, grain=grain)
    if "expander" in options:
        kind: ExpanderKind = options["expander"]
        return Wiring("expander", expander=kind, sparsity=sparsity, grain=grain)
    if options.get("random"):
        return Wiring("random", sparsity=sparsity, grain=grain)
    return Wiring()


def augment_of(options: Options, shape: tuple[int, ...]) -> Augmentation | None:
    """What is done to training images of a shape. Raises UsageError."""
    pixels, _, flip = options["augment"].partition(",")
    try:
        return None if pixels == "none" else Augmentation(shape, int(pixels), bool(flip))
    except ValueError as error:
        raise UsageError(f"--augment: {error}") from None


def schedule_of(options: Options, steps: int, total: int) -> Schedule:
    """The factors of the learning rate, for `total` steps in epochs of `steps`. Raises UsageError."""
    name, _, rest = options["schedule"].partition(":")
    warm, whole = round(options.get("warm_up", 0) * steps), options["epochs"] * steps
    if warm >= whole:
        raise UsageError(f"--warm-up: must be shorter than the {whole / steps:g} epochs, got {options['warm_up']:g}")
    if total < whole:  # one phase of a run may be shorter than the run's warm-up
        warm = min(warm, total // 2)
    remaining = total - warm
    if name == "step":
        every, factor = arguments.decay(rest)
        after = step_decay(every * steps, factor)
    else:
        after = cosine(remaining) if name == "cosine" else constant()
    return warm_up(warm, after) if warm else after


def config_of(options: Options, dataset: Dataset) -> dict[str, Any]:
    """What a run keeps of its options: enough to start it again, wherever from and whatever data are at hand then."""
    used = os.path.abspath(dataset.name) if dataset.name not in NAMES else dataset.name
    kept = {
        name: spelled(value) if isinstance(value, list) else value
        for name, value in options.items()
        if name not in HERE
    }
    return {
        "version": __version__,
        "model": options["model"],
        "asked": options.get("asked", options["dataset"]),
        "options": kept | {"dataset": used},
    }


def command_line(options: Mapping[str, Any]) -> list[str]:
    """The command line that gives these options, which a run kept."""
    words = []
    for name, value in options.items():
        if name in (*HERE, "model") or value is None or value is False:
            continue
        words.append(_flag(name) if value is True else f"{_flag(name)}={spelled(value)}")
    return [*words, "--", str(options["model"])]


def spelled(value: Any) -> str:
    """A value as on a command line."""
    if not isinstance(value, list):
        return str(value)
    return ("/" if value and isinstance(value[0], list) else ",").join(spelled(each) for each in value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _tuples(lists: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each) for each in lists)
