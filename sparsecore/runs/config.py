"""What a training run is, as one frozen value: a command line is read into it, and config.json holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, Self

from ..data.catalogue import NAMES
from . import kinds
from .combinations import check
from .kinds import ConfigError as ConfigError
from .kinds import Kind

OLD_NAMES = {"from": "start_from", "pattern": "granularity", "look_epochs": "evaluate_every", "asked": "dataset_name"}
"""Fields in files that were written when they had other names."""


class Setting(NamedTuple):
    """A field of `RunConfig`, described.

    Attributes
    ----------
    name : str
    group : str
        Of the command's help and of the documentation.
    kind : Kind
    help : str
    metavar : str or None
        What stands for a value in the command's help.
    decides : bool
        Whether it decides, on one processor, what is learned but for rounding. A field that does not may change when a
        run goes on.
    typed : str
        The field's type, as it is written below.
    default : value
    """

    name: str
    group: str
    kind: Kind
    help: str
    metavar: str | None
    decides: bool
    typed: str
    default: Any


WIRING = "wiring of the sparse layers (dense if not given)"
PRUNING = "pruning (none if not given)"
REWIRING = "rewiring while it trains (none if not given)"
LEARNING = "learning (by the model's recipe if not given)"
RUN = "run"


def _in(
    group: str, kind: Kind, help: str, default: Any = None, *, metavar: str | None = None, decides: bool = True
) -> Any:
    return field(
        default=default, metadata={"about": {"group": group, "kind": kind, "help": help, "metavar": metavar,
                                             "decides": decides}},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a training run is. Fields that are None are filled in from the model's recipe when the run is made.

    `sparsecore.run` makes the run. Each field is the flag of its name of `python -m sparsecore.train`; the text beside
    it below says what it does, as do `settings()` and docs/config.md.

    Raises
    ------
    ConfigError
        If a value is of a wrong type or out of range, or two fields do not go together: one line that names the field.
    """

    model: str | None = _in(
        RUN, kinds.NAME,
        "lenet300, lenet5, mlp, vgg11, resnet20, resnet32 or resnet56; if not given, that of the run whose network it "
        "starts from",
    )  # fmt: skip
    dataset: str | None = _in(
        RUN, kinds.NAME,
        "mnist (default), fashion-mnist, cifar10, mnist-subset, or a path: of an .npz file with x and y, a .csv file, "
        "or a folder of images by class or of x.npy and y.npy",
    )  # fmt: skip
    target: str | None = _in(RUN, kinds.NAME, "the column of a .csv file that is to be told", metavar="COLUMN")

    radix: tuple[tuple[int, ...], ...] | None = _in(
        WIRING, kinds.RADICES, "a RadiX-Net, one radix a sparse layer: 10,10 or 2,5/10; 4,4*9 is nine such lists",
        metavar="LISTS",
    )  # fmt: skip
    expander: Literal["fixed", "bernoulli", "explicit"] | None = _in(
        WIRING, kinds.choice("an expander", ("fixed", "bernoulli", "explicit")),
        "fixed (fan-in, the flag's default), bernoulli or explicit; needs a sparsity", metavar="KIND",
    )  # fmt: skip
    random: bool = _in(WIRING, kinds.TRUTH, "uniformly random connections; needs a sparsity", False)
    dense: bool = _in(WIRING, kinds.TRUTH, "all connections", False)
    widths: tuple[int, ...] | None = _in(
        WIRING, kinds.WIDTHS, "a RadiX-Net's widths, one a layer of neurons: 8,30,1", metavar="LIST"
    )
    hidden: tuple[int, ...] | None = _in(
        WIRING, kinds.WIDTHS,
        "sizes of the hidden layers, channels or neurons: 3000,100; deeper where the model allows", metavar="LIST",
    )  # fmt: skip
    sparsity: float | tuple[float, ...] | None = _in(
        WIRING, kinds.SPARSITY,
        "the fraction of connections removed, of each sparse layer or of one after another: 0.9, or 0.5,0.9",
        metavar="S",
    )  # fmt: skip
    distribution: Literal["uniform", "erk"] | None = _in(
        WIRING, kinds.choice("a distribution", ("uniform", "erk")),
        "the sparsity is that of each sparse layer (uniform, the default), or of all together, small layers denser "
        "(erk); of --prune-to likewise",
    )  # fmt: skip
    granularity: str | None = _in(
        WIRING, kinds.GRANULARITY,
        "what is there, goes and comes as a whole: a weight, a convolution's filter (channel; a RadiX-Net's, if not "
        "given), a weight of each of G neighbouring rows (rows:G), or those of H neighbouring inputs too (block:G,H)",
        metavar="UNIT",
    )  # fmt: skip
    sparse_all: bool = _in(WIRING, kinds.TRUTH, "wire the first and the last layer too, dense if not", False)
    padding: int | None = _in(
        WIRING, kinds.PADDING, "of lenet5's convolutions (2 for cifar10, none otherwise)", metavar="PIXELS"
    )
    width: float | None = _in(
        WIRING, kinds.POSITIVE, "multiplies all channels of vgg11 and the resnets (1)", metavar="K"
    )
    batch_norm: bool = _in(WIRING, kinds.TRUTH, "batch normalisation after mlp's hidden layers", False)
    relu_logits: bool = _in(
        WIRING, kinds.TRUTH, "a ReLU on the logits, which can kill a class: for study only", False
    )
    format: Literal["csr", "coo"] | None = _in(
        WIRING, kinds.choice("a format", ("csr", "coo")), "storage: csr (default) or coo"
    )

    prune: Literal["one-time", "iterative", "gradual"] | None = _in(
        PRUNING, kinds.choice("a way to prune", ("one-time", "iterative", "gradual")),
        "when: once (one-time), in rounds (iterative), or a little and often (gradual)", metavar="WAY",
    )  # fmt: skip
    prune_to: float | tuple[float, ...] | None = _in(
        PRUNING, kinds.GOALS, "sparsity of each sparse layer afterwards, or of each layer: 0.9, or 0.9,0.9,0",
        metavar="S",
    )  # fmt: skip
    prune_threshold: float | None = _in(PRUNING, kinds.POSITIVE, "instead: |w| below this goes", metavar="T")
    prune_quality: float | None = _in(
        PRUNING, kinds.POSITIVE, "instead: |w| below Q of its layer's std goes", metavar="Q"
    )
    prune_by: Literal["magnitude", "gradient", "curvature"] | None = _in(
        PRUNING, kinds.choice("a saliency", ("magnitude", "gradient", "curvature")),
        "what ranks connections: magnitude |w| (default), gradient |w·dw|, curvature ½·h·w²", metavar="SALIENCY",
    )  # fmt: skip
    prune_global: bool = _in(PRUNING, kinds.TRUTH, "rank the connections of all sparse layers together", False)
    prune_start: int | None = _in(
        PRUNING, kinds.STEP, "steps before the first pruning (0.05 to 0.5 of the run, by the way, if not given)",
        metavar="STEP",
    )  # fmt: skip
    prune_end: int | None = _in(
        PRUNING, kinds.STEP, "steps before the last pruning (half of the run if not given)", metavar="STEP"
    )
    prune_every: int | None = _in(
        PRUNING, kinds.STEPS, "steps between prunings (such that there are 5, or 50 gradual ones, if not given)",
        metavar="STEPS",
    )  # fmt: skip
    prune_exponent: float | None = _in(
        PRUNING, kinds.POSITIVE, "of the gradual curve (3 if not given); larger is sooner", metavar="E"
    )
    prune_empty: bool = _in(PRUNING, kinds.TRUTH, "let a layer lose all its connections", False)
    start_from: str | None = _in(
        PRUNING, kinds.PATH, "start with the network in a checkpoint or a run's folder", metavar="FILE"
    )
    rewind: int | Literal["initial", "fresh"] | None = _in(
        PRUNING, kinds.MOMENT,
        "after the last pruning, or before training on an earlier run's structure, give the connections that are left "
        "the values that they had at the start or after so many steps, or new ones",
        metavar="initial|fresh|STEP",
    )  # fmt: skip

    rewire: Literal["set", "rigl", "regrow"] | None = _in(
        REWIRING, kinds.choice("a way to rewire", ("set", "rigl", "regrow")),
        "move connections: the smallest weights go, and as many come at random (set), or where the gradient is largest "
        "(rigl); regrow does as rigl while the network becomes as sparse as its sparsity says", metavar="WAY",
    )  # fmt: skip
    every: int | None = _in(REWIRING, kinds.STEPS, "steps between two updates (100)", metavar="STEPS")
    fraction: float | None = _in(
        REWIRING, kinds.PART, "of the connections that move at the first update (0.3), ever fewer later", metavar="F"
    )
    until: float | None = _in(
        REWIRING, kinds.PART, "the part of the run after which nothing moves (0.75)", metavar="F"
    )
    grow: float | Literal["exact"] | None = _in(
        REWIRING, kinds.GROWTH, "where gradients are looked at: at so many times as many free places as come, drawn at "
        "random (4), or at all of them (exact)", metavar="TIMES|exact",
    )  # fmt: skip
    fixed_fan_in: bool = _in(REWIRING, kinds.TRUTH, "let every output lose and gain alike", False)
    start_sparsity: float | None = _in(
        REWIRING, kinds.FRACTION, "what regrow starts with (0.8, or its sparsity where that is less)", metavar="S"
    )

    loss: Literal["cross-entropy", "mse"] | None = _in(
        LEARNING, kinds.choice("a loss", ("cross-entropy", "mse")),
        "cross-entropy, of classes (if not given), or mse, the squared error of numbers", metavar="LOSS",
    )  # fmt: skip
    epochs: int | None = _in(LEARNING, kinds.COUNT, "passes over the training samples")
    batch_size: int | None = _in(LEARNING, kinds.COUNT, "samples a step")
    optimizer: Literal["sgd", "adam", "adamw"] = _in(
        LEARNING, kinds.choice("an optimizer", ("sgd", "adam", "adamw")), "sgd (default), adam or adamw", "sgd"
    )
    lr: float | Literal["auto"] | None = _in(
        LEARNING, kinds.RATE,
        "learning rate (0.001 for adam and adamw); auto finds one by a range test: a few dozen steps at rising rates",
        metavar="LR|auto",
    )  # fmt: skip
    momentum: float | None = _in(LEARNING, kinds.FRACTION, "of sgd")
    nesterov: bool = _in(LEARNING, kinds.TRUTH, "Nesterov's momentum, for sgd", False)
    betas: tuple[float, float] | None = _in(
        LEARNING, kinds.BETAS, "of adam and adamw: decay of the two moments (0.9,0.999)", metavar="B1,B2"
    )
    eps: float | None = _in(LEARNING, kinds.POSITIVE, "of adam and adamw: added to the denominator (1e-8)")
    weight_decay: float | None = _in(LEARNING, kinds.NOT_NEGATIVE, "none for adam, 0.01 for adamw, if not given")
    clip_norm: float | Literal["none"] | None = _in(
        LEARNING, kinds.NORM,
        "scale the gradient down to this norm where it is larger (1 for data of your own, otherwise none)",
        metavar="NORM|none",
    )  # fmt: skip
    schedule: str | None = _in(LEARNING, kinds.SCHEDULE, "of the rate: constant, cosine, or step:EPOCHS[:FACTOR]")
    warm_up: float | None = _in(
        LEARNING, kinds.NOT_NEGATIVE, "rise to the full rate over so many epochs", metavar="EPOCHS"
    )
    augment: str | None = _in(
        LEARNING, kinds.AUGMENTATION,
        "move each image by up to so many pixels each way, anew in every epoch, and mirror half of them; or none",
        metavar="PIXELS[,flip]",
    )  # fmt: skip
    local_batch_norm: bool = _in(
        LEARNING, kinds.TRUTH, "under mpiexec, let batch normalisation go by each rank's own part of the batch", False
    )

    seed: int = _in(RUN, kinds.SEED, "of wiring, initial values, the samples' order and dropout", 0)
    validation: float = _in(
        RUN, kinds.FRACTION, "of the training set, held out and evaluated on", 0.0, metavar="FRACTION"
    )
    patience: int | None = _in(
        RUN, kinds.COUNT, "end after so many epochs without a better one on the validation split", metavar="EPOCHS"
    )
    dataset_name: str | None = _in(
        RUN, kinds.NAME, "what the data set was called when the run was begun, if `dataset` is a path"
    )
    lr_found: bool = _in(RUN, kinds.TRUTH, "whether `lr` was found by a range test when the run was begun", False)
    data_dir: str | None = _in(RUN, kinds.NAME, "folder of fetched data sets", decides=False)
    device: str = _in(
        RUN, kinds.DEVICE, "cpu (default), cuda, cuda:1 for the second GPU, or auto for a GPU if one works", "cpu",
        decides=False,
    )  # fmt: skip
    activations: Literal["float32", "bfloat16"] = _in(
        RUN, kinds.ACTIVATIONS, "in what activations and their gradients are stored: float32 (default), or bfloat16, "
        "half the bytes; parameters and sums are float32", "float32", metavar="DTYPE", decides=False,
    )  # fmt: skip
    threads: int | str | None = _in(
        RUN, kinds.THREADS_OR_AUTO,
        "auto (the default) takes one or all there are, whichever is faster in the first steps", decides=False,
    )  # fmt: skip
    evaluate_every: int = _in(
        RUN, kinds.COUNT, "evaluate on the test and validation splits after every N epochs, and at the end", 1,
        metavar="N", decides=False,
    )  # fmt: skip
    save_every: float = _in(
        RUN, kinds.NOT_NEGATIVE, "between checkpoints in the run's folder (5 if not given)", 5.0, metavar="SECONDS",
        decides=False,
    )  # fmt: skip
    save_epochs: int | None = _in(RUN, kinds.COUNT, "save after every N epochs too", metavar="N", decides=False)
    check_every_step: bool = _in(
        RUN, kinds.TRUTH, "look after each step whether loss and parameters are finite", False, decides=False
    )

    def __post_init__(self) -> None:
        for setting in settings():
            given = getattr(self, setting.name)
            if given is not None or setting.default is not None:
                object.__setattr__(self, setting.name, setting.kind.value(setting.name, given))
        check(self)

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set, in JSON's types; `from_dict` takes it."""
        found = {setting.name: getattr(self, setting.name) for setting in settings()}
        return {name: _listed(value) for name, value in found.items() if value is not None and value is not False}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """The configuration with these fields; earlier versions' names and ways of writing are understood.

        Raises
        ------
        ConfigError
            As the class does, and for a name that is no field's.
        """
        known, found = {setting.name: setting for setting in settings()}, {}
        for name, value in given.items():
            name = OLD_NAMES.get(name, name)
            if name not in known:
                close = get_close_matches(str(name), known, 1)
                raise ConfigError(
                    "{problem}", problem=f"{name}: no such field" + (f"; did you mean {close[0]}?" if close else "")
                )
            found[name] = _from_word(known[name], value)
        return cls(**found)


def settings() -> Iterator[Setting]:
    """The fields of `RunConfig`, described, in order."""
    for each in fields(RunConfig):
        typed = each.type if isinstance(each.type, str) else each.type.__name__
        yield Setting(name=each.name, typed=typed, default=each.default, **each.metadata["about"])


def saved(config: RunConfig, version: str) -> dict[str, Any]:
    """What config.json and the checkpoints of a run hold: enough to make it again."""
    return {"version": version, "model": config.model, "options": config.as_dict()}


def from_saved(record: Any) -> RunConfig:
    """The configuration in config.json or a checkpoint.

    Raises
    ------
    ConfigError
        If there is none, or it cannot be followed.
    """
    options = record.get("options") if isinstance(record, Mapping) else None
    if not isinstance(options, Mapping):
        raise ConfigError("{problem}", problem="expected an entry options with a run's fields, got none")
    if isinstance(record.get("asked"), str):  # where earlier versions kept it
        options = {**options, "asked": record["asked"]}
    if "from" in options:  # earlier versions wrote these, though a network from a file has them
        options = {name: value for name, value in options.items() if name not in ("padding", "format")}
    own = isinstance(name := options.get("dataset"), str) and name not in NAMES and "batch_size" in options
    if own and options.get("optimizer", "sgd") == "sgd":
        options = {"clip_norm": "none", **options}  # earlier versions did not clip, and said nothing then
    return RunConfig.from_dict(options)


def dataset_in(record: Any) -> str | None:
    """The data set that a run was trained on, if its config.json says so."""
    options = record.get("options") if isinstance(record, Mapping) else None
    name = options.get("dataset") if isinstance(options, Mapping) else None
    return name if isinstance(name, str) else None


def loading(record: Any, dataset: str) -> dict[str, Any]:
    """How a data set is read for that run's network, as `data.load` takes it: what the run says and the set can have.
    """
    options = record.get("options") if isinstance(record, Mapping) else None
    found = options if isinstance(options, Mapping) else {}
    return {name: found[name] for name in told_of(dataset) if isinstance(found.get(name), str)}


def told_of(dataset: str) -> tuple[str, ...]:
    """What else says how a data set is read: nothing of those that are known, and only tables have a target."""
    if dataset in NAMES:
        return ()
    return ("target", "loss") if dataset.lower().endswith((".csv", ".tsv")) else ("loss",)


def activations_in(record: Any) -> str | None:
    """What that run stored activations in; None if it does not say so."""
    options = record.get("options") if isinstance(record, Mapping) else None
    name = options.get("activations") if isinstance(options, Mapping) else None
    return name if name in ("float32", "bfloat16") else None


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


def _from_word(setting: Setting, value: Any) -> Any:
    """A value of JSON; a string is read as on a command line where older files have it so."""
    if not (setting.kind.older and isinstance(value, str)):
        return value
    try:
        return setting.kind.word(value)
    except ValueError as error:
        raise ConfigError(f"{{{setting.name}}}: {{problem}}", problem=error) from None
