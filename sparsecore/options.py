"""The options of a training run: read from a command line, kept in config.json, read back from there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NoReturn

from . import __version__
from .augment import Augmentation
from .data import NAMES, Dataset
from .errors import OneLineError, one_line
from .prune.options import add_options, check_options
from .schedule import Schedule, constant, cosine, step_decay, warm_up
from .topology import ExpanderKind
from .wiring import Grain, Wiring

EXAMPLE = "python -m sparsecore.train lenet300 --radix 10,10"
FREE = ("threads", "device", "data_dir", "save_every", "save_epochs", "look_epochs", "check_every_step")
"""Options that change no bit of what is learned on one processor, and may differ when a run goes on."""
HERE = ("out", "resume", "quiet", "no_curves", "help", "asked")
"""Options of one command, that a run does not keep."""

Options = dict[str, Any]


class UsageError(OneLineError):
    """A command line that cannot be followed; one line: what was wrong, what is allowed, an example."""


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError and takes no abbreviations."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog, description=description, epilog=f"for example: {example}", argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )  # fmt: skip
        self.example = example

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        found, rest = super().parse_known_args(*arguments, **options)
        for name, value in vars(found).items():
            if value == []:  # what argparse makes of --out=--
                self.error(f"argument --{name.replace('_', '-')}: expected a value, got '--'")
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(message)}; for example: {self.example}")


def parser(models: Sequence[str]) -> Parser:
    """The parser of the training command; what is not given is not in its result."""
    made = Parser("python -m sparsecore.train", "Train a network in sparse storage.", EXAMPLE)
    made.add_argument(
        "model", nargs="?", default=None, type=_one_of("a model", models), metavar="MODEL", help=", ".join(models)
    )
    wiring = made.add_argument_group("wiring of the sparse layers (dense if not given)")
    kind = wiring.add_mutually_exclusive_group()
    kind.add_argument(
        "--radix", type=_radices, metavar="LISTS", help="a RadiX-Net, one radix a sparse layer: 10,10 or 2,5/10"
    )
    kind.add_argument(
        "--expander", nargs="?", const="fixed", type=_one_of("an expander", ("fixed", "bernoulli", "explicit")),
        metavar="KIND", help="fixed (fan-in, the default), bernoulli or explicit; needs --sparsity",
    )  # fmt: skip
    kind.add_argument("--random", action="store_true", help="uniformly random connections; needs --sparsity")
    kind.add_argument("--dense", action="store_true", help="all connections")
    wiring.add_argument(
        "--widths", type=_widths, metavar="LIST", help="a RadiX-Net's widths, one a layer of neurons: 8,30,1"
    )
    wiring.add_argument(
        "--hidden", type=_widths, metavar="LIST",
        help="sizes of the hidden layers, channels or neurons: 3000,100; deeper where the model allows",
    )  # fmt: skip
    wiring.add_argument(
        "--sparsity",
        type=_number("a fraction removed, at least 0 and below 1", 0.9, lambda v: 0 <= v < 1),
        metavar="S",
        help="of the sparse layers: the fraction of connections removed",
    )
    wiring.add_argument(
        "--pattern", type=_one_of("a pattern", ("channel", "weight")),
        help="what a connection of a convolution is: a whole filter (--radix's, if not given) or a single weight",
    )  # fmt: skip
    wiring.add_argument("--sparse-all", action="store_true", help="wire the first and the last layer too, dense if not")
    wiring.add_argument(
        "--padding", type=integer("a whole number from 0 to 100", 2, 0, 100), metavar="PIXELS",
        help="of lenet5's convolutions (2 for cifar10, none otherwise)",
    )  # fmt: skip
    wiring.add_argument(
        "--relu-logits", action="store_true", help="a ReLU on the logits, which can kill a class: for study only"
    )
    wiring.add_argument("--format", type=_one_of("a format", ("csr", "coo")), help="storage: csr (default) or coo")

    add_options(made)

    run = made.add_argument_group("run (defaults depend on the model)")
    positive = _number("a number above 0", 0.1, lambda v: v > 0)
    fraction = _number("a fraction of at least 0 and below 1", 0.1, lambda v: 0 <= v < 1)
    not_negative = _number("a number of at least 0", 0.0005, lambda v: v >= 0)
    count = integer("a whole number from 1", 10, 1, 10**9)
    run.add_argument(
        "--dataset",
        type=_text,
        help="mnist (default), fashion-mnist, cifar10, mnist-subset, or an .npz file with x and y",
    )
    run.add_argument(
        "--augment", type=_augment_text, metavar="PIXELS[,flip]",
        help="move each image by up to so many pixels each way, anew in every epoch, and mirror half of them; or none",
    )  # fmt: skip
    run.add_argument("--data-dir", type=_text, help="folder of fetched data sets")
    run.add_argument("--epochs", type=count)
    run.add_argument("--batch-size", type=count)
    run.add_argument("--lr", type=positive, help="learning rate")
    run.add_argument("--momentum", type=fraction)
    run.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    run.add_argument("--weight-decay", type=not_negative)
    run.add_argument("--clip-norm", type=positive, help="scale the gradient down to this norm where it is larger")
    run.add_argument("--schedule", type=_schedule_text, help="constant, cosine, or step:EPOCHS[:FACTOR]")
    run.add_argument("--warm-up", type=not_negative, metavar="EPOCHS", help="rise to the full rate over so many epochs")
    run.add_argument("--seed", type=integer("a whole number from 0", 0, 0, 2**63 - 1))
    run.add_argument(
        "--validation", type=fraction, metavar="FRACTION", help="of the training set, held out and looked at"
    )
    run.add_argument(
        "--threads", type=integer("a whole number from 1 to 256", 2, 1, 256), help="all there are if not given"
    )
    run.add_argument("--device", type=place, help=PLACES)
    run.add_argument(
        "--out", type=_text, metavar="DIR", help="folder for config.json, metrics.jsonl, model.safetensors, curves.png"
    )
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
    if "radix" in options:
        widths = options.get("widths")
        widths = tuple(widths) if widths is not None else None
        return Wiring("radix", _tuples(options["radix"]), widths=widths, grain=grain)
    if "expander" in options:
        kind: ExpanderKind = options["expander"]
        return Wiring("expander", expander=kind, sparsity=options["sparsity"], grain=grain)
    if options.get("random"):
        return Wiring("random", sparsity=options["sparsity"], grain=grain)
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
        every, factor = _step_decay(rest)
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


PLACES = "cpu (the default), cuda, cuda:1 for the second GPU, or auto for a GPU if one works"


def place(text: str) -> str:
    """An argument's type: the name of a device. Whether it is there shows when it is used."""
    kind, colon, number = text.partition(":")
    if text not in ("cpu", "auto") and (kind != "cuda" or (colon and not (number.isascii() and number.isdecimal()))):
        raise argparse.ArgumentTypeError(f"expected a device, one of cpu, cuda, cuda:1 and auto, got {text!r}")
    return text


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a name, got {text!r}")
    return text


def _one_of(what: str, names: Sequence[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"expected {what}, one of {', '.join(names)}, got {text!r}")
        return text

    return convert


def _number(wanted: str, example: float, good: Callable[[float], bool]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (isfinite(value) and good(value)):
            raise argparse.ArgumentTypeError(f"expected {wanted}, such as {example:g}, got {text!r}")
        return value

    return convert


def integer(wanted: str, example: int, least: int, most: int) -> Callable[[str], int]:
    """An argument's type: a whole number in a range."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {wanted}, such as {example}, got {text!r}")
        return value

    return convert


def _radices(text: str) -> list[list[int]]:
    try:
        lists = [[int(radix) for radix in each.split(",")] for each in text.split("/")]
    except ValueError:
        lists = [[0]]
    if not all(1 < radix < 2**31 for each in lists for radix in each):
        raise argparse.ArgumentTypeError(f"expected radices above 1, such as 10,10 or in lists as 2,5/10, got {text!r}")
    return lists


def _widths(text: str) -> list[int]:
    try:
        widths = [int(width) for width in text.split(",")]
    except ValueError:
        widths = [0]
    if not all(0 < width < 2**31 for width in widths):
        raise argparse.ArgumentTypeError(f"expected positive whole numbers, such as 8,30,1, got {text!r}")
    return widths


def _augment_text(text: str) -> str:
    pixels = text.partition(",")[0]
    good = pixels.isascii() and pixels.isdecimal() and len(pixels) < 5 and text in (pixels, f"{pixels},flip")
    if not good and text != "none":
        raise argparse.ArgumentTypeError(f"expected none, or pixels such as 4 or 4,flip, got {text!r}")
    return text


def _schedule_text(text: str) -> str:
    name, _, rest = text.partition(":")
    try:
        good = (name == "step" and bool(_step_decay(rest))) or text in ("constant", "cosine")
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(
            f"expected constant, cosine, or step:EPOCHS[:FACTOR] such as step:10:0.5, got {text!r}"
        )
    return text


def _step_decay(text: str) -> tuple[int, float]:
    every, _, factor = text.partition(":")
    found = int(every), float(factor or 0.1)
    if found[0] < 1 or not 0 < found[1] <= 1:
        raise ValueError(text)
    return found


def _tuples(lists: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each) for each in lists)
