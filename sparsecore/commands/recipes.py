"""Filling in what a configuration leaves open: from the run that it starts from, and from its model's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsecore.models.catalogue import MODELS, Kind, Model

from ..data.catalogue import NAMES
from ..runs.checkpoint import read
from ..runs.combinations import SIZES, said
from ..runs.config import RunConfig, from_saved, told_of
from ..runs.kinds import ConfigError, spelled

MOVING = {"every": 100, "fraction": 0.3, "until": 0.75}
"""How connections move: steps between updates, what moves at first, and the part of a run with updates."""
CANDIDATES, START_SPARSITY = 4.0, 0.8
"""Free places that are looked at for each that comes, and what a network starts with that becomes sparser."""
ADAM_LR, ADAM_BETAS, ADAM_EPS = 1e-3, (0.9, 0.999), 1e-8
ADAM_DECAY = {"adam": 0.0, "adamw": 0.01}
"""Recipes are for SGD; other optimizers get these, their usual numbers."""

CLIP_NORM, STEPS, STEPS_AN_EPOCH, SMALLEST_BATCH = 1.0, 1000, 8, 16
"""For data that no recipe was made for: the largest norm of a gradient, the fewest steps of a run and, as far as
batches are not too small, of an epoch. Chosen on validation splits: docs/measured/own_data.md."""

OWN = {
    "padding": "no convolutions, or their own padding",
    "width": "no width: its sizes are its hidden layers'",
    "batch_norm": "batch normalisation, or none, as its paper has it",
}
"""What some models alone take, and why others do not."""


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with every field filled in that a run needs.

    Raises
    ------
    ConfigError
        If there is no such model, or a field does not apply to it.
    CheckpointError
        If the run that this one starts from cannot be read.
    """
    if config.start_from is not None:
        config = _inherited(config)
    model = model_of(config)
    for name in said(config, tuple(OWN)):
        if name not in model.own:
            raise ConfigError(f"{{{name}}}: {{model_name}} has {OWN[name]}; leave it out", model_name=config.model)
    dataset = config.dataset or "mnist"
    recipe = vars(model.recipe_for(dataset, _kind(config)))
    if config.optimizer != "sgd":
        recipe = recipe | {"lr": ADAM_LR, "momentum": None, "betas": ADAM_BETAS, "eps": ADAM_EPS,
                           "weight_decay": ADAM_DECAY[config.optimizer]}  # fmt: skip
    if config.rewire is not None:
        recipe = recipe | MOVING | ({"grow": CANDIDATES} if config.rewire != "set" else {})
        recipe = recipe | ({"start_sparsity": _first_sparsity(config)} if config.rewire == "regrow" else {})
    wired = config.start_from is not None  # then it has its padding, and each layer its format
    recipe = recipe | (dict.fromkeys(SIZES) if wired else {"format": "csr"})
    recipe = recipe | {name: None for name in OWN if name not in model.own}
    recipe = recipe | {"dataset": dataset}
    if dataset in NAMES:
        return _with_epochs(_filled(config, recipe | {"warm_up": None}), recipe)
    recipe = recipe | {"augment": recipe["augment"].removesuffix(",flip")}  # what is mirrored may be of another class
    if config.optimizer == "sgd":
        recipe = recipe | {"clip_norm": CLIP_NORM}
    if config.epochs is not None and config.batch_size is not None:
        return _with_epochs(_filled(config, recipe | {"warm_up": None}), recipe)
    return _filled(config, recipe | dict.fromkeys(("epochs", "batch_size", "warm_up")))


def fitted(config: RunConfig, samples: int) -> RunConfig:
    """The configuration of a run on data of a user's own, with what depends on how many training samples there are.

    The batch is the recipe's, or smaller where an epoch would have few steps; the epochs are the recipe's, or more
    where the run would have few steps. A batch that leaves one sample alone is made one larger.
    """
    recipe = vars(model_of(config).recipe_for(_said(config.dataset), _kind(config)))
    smaller = 1 << max((samples // STEPS_AN_EPOCH).bit_length() - 1, 0)
    batch = config.batch_size or min(samples, max(SMALLEST_BATCH, min(recipe["batch_size"], smaller)))
    if config.batch_size is None and batch < samples and samples % batch == 1:
        batch += 1
    epochs = max(recipe["epochs"], -(-STEPS // -(-samples // batch)))
    return _with_epochs(replace(config, batch_size=batch), recipe | {"epochs": epochs})


def own_line(config: RunConfig) -> str:
    """What a run says of the recipe for data of a user's own."""
    clip = "" if config.clip_norm in (None, "none") else f", gradients of norm at most {config.clip_norm:g}"
    rate = spelled(config.lr)
    return (f"data of your own: batches of {config.batch_size}, {config.epochs} epochs, rate {rate}{clip} "
            "(--batch-size, --epochs, --lr, --clip-norm)")  # fmt: skip


def _with_epochs(config: RunConfig, recipe: Mapping[str, Any]) -> RunConfig:
    """With the recipe's epochs and warm-up, where the configuration does not say; a short run has a short warm-up."""
    epochs = config.epochs or recipe["epochs"]
    return _filled(config, {"epochs": epochs, "warm_up": min(recipe["warm_up"], epochs / 2)})


def _said(value: Any) -> Any:
    """A field that is not None by now."""
    assert value is not None
    return value


def _filled(config: RunConfig, recipe: Mapping[str, Any]) -> RunConfig:
    """With the recipe's values where the configuration does not say."""
    return replace(config, **{name: value for name, value in recipe.items() if getattr(config, name) is None})


def _first_sparsity(config: RunConfig) -> float:
    goals = config.sparsity if isinstance(config.sparsity, tuple) else (config.sparsity or 0.0,)
    return min(START_SPARSITY, *goals)


def model_of(config: RunConfig) -> Model:
    """The model that a configuration names. Raises ConfigError."""
    if config.model not in MODELS:
        got = "none" if config.model is None else repr(config.model)
        raise ConfigError("expected a model, one of {models}, got {got}", models=", ".join(MODELS), got=got)
    return MODELS[config.model]


def origin(path: str) -> RunConfig | None:
    """The configuration of the run that a checkpoint comes from, if it says so.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    ConfigError
        If what it says cannot be used.
    """
    record = read(path).state.get("config")
    return None if record is None else kept_config(record, Path(path))


def kept_config(record: Any, path: Path) -> RunConfig:
    """The configuration that a run's folder or checkpoint keeps. Raises ConfigError, which names the file."""
    try:
        return from_saved(record)
    except ConfigError as error:
        raise ConfigError(
            "{path}: expected the configuration of a run, could not use it ({problem})", path=path, problem=error
        ) from None


def _inherited(config: RunConfig) -> RunConfig:
    """With the model and the data of the run that the network comes from, and how these are read, where this one does
    not say."""
    assert config.start_from is not None
    earlier = origin(config.start_from)
    if earlier is None:
        return config
    if config.model is not None and earlier.model is not None and config.model != earlier.model:
        raise ConfigError("{start_from}: holds {earlier}, got {model} as the model: leave it out",
                          earlier=earlier.model, model=config.model)  # fmt: skip
    dataset = config.dataset or earlier.dataset
    names = ("model", "data_dir", *told_of(dataset or ""))
    return replace(config, dataset=dataset, **{name: getattr(config, name) or getattr(earlier, name) for name in names})


def _kind(config: RunConfig) -> Kind:
    """Which of a model's recipes is for this run."""
    if config.prune is not None:
        return "pruned"
    if config.rewire is not None:
        return "moving"
    sparse = config.radix or config.expander or config.random or config.start_from
    return "sparse" if sparse else "dense"
