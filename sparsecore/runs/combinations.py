"""Which fields of a configuration do not go together, whatever the model. A refusal names them; see `ConfigError`."""

from __future__ import annotations

from typing import Any

from .kinds import ConfigError

KINDS_OF_WIRING = ("radix", "expander", "random", "dense")
SIZES = ("padding", "width", "batch_norm")
REWIRINGS = ("every", "fraction", "until", "grow", "fixed_fan_in", "start_sparsity")
GOALS = ("prune_to", "prune_threshold", "prune_quality")
PRUNINGS = (*GOALS, "prune_by", "prune_global", "prune_start", "prune_end", "prune_every", "prune_exponent",
            "prune_empty")  # fmt: skip


def check(config: Any) -> None:
    """Raise ConfigError for the first impossible combination; every RunConfig calls this when it is made."""
    _check_wiring(config)
    _check_start(config)
    _check_optimizer(config)
    _check_rewiring(config)
    _check_patience(config)
    if config.prune is None:
        _check_no_pruning(config)
    else:
        _check_pruning(config)


def said(config: Any, names: tuple[str, ...]) -> list[str]:
    """Those of these fields that are set."""

    def says(value: Any) -> bool:
        return value is not None and value is not False

    return [name for name in names if says(getattr(config, name))]


def _check_wiring(config: Any) -> None:
    wired, drawn = said(config, KINDS_OF_WIRING), said(config, ("random", "expander"))
    if len(wired) > 1:
        raise ConfigError(f"{{{wired[1]}}}: not allowed with {{{wired[0]}}}; leave one out")
    if config.radix is None and config.widths is not None:
        raise ConfigError("{widths}: goes with {radix} only")
    moving = config.rewire is not None and config.sparsity is not None
    changing = said(config, ("prune", "rewire"))
    if config.granularity is not None and config.radix is None and not drawn and not changing:
        raise ConfigError("{granularity}: goes with {radix}, {expander} or {random}, or with {prune} or {rewire}, got "
                          "none of them")  # fmt: skip
    if config.granularity not in (None, "weight", "channel") and config.radix is not None:
        raise ConfigError("{granularity} {got}: not with {radix}, which joins single weights or channels",
                          got=config.granularity)  # fmt: skip
    _check_distribution(config)
    if config.hidden is not None and config.widths is not None:
        raise ConfigError("{hidden}: not with {widths}, which say the sizes of a RadiX-Net; leave one out")
    if config.sparsity is not None and config.radix is not None:
        raise ConfigError(
            "{sparsity}: not with {radix}, whose radices decide how many connections there are; leave it out"
        )
    if config.sparsity is not None and not drawn and not moving:
        raise ConfigError(
            "{sparsity}: goes with {random} or {expander}, got neither", {"random": True, "sparsity": 0.9}
        )
    if drawn and config.sparsity is None:
        example = {"random": True} if config.random else {"expander": config.expander}
        raise ConfigError(f"{{{drawn[0]}}}: needs {{sparsity}}, the fraction removed", {**example, "sparsity": 0.9})


def _check_distribution(config: Any) -> None:
    if config.distribution is None:
        return
    goals = [name for name in ("sparsity", "prune_to") if getattr(config, name) is not None]
    if not goals:
        raise ConfigError("{distribution}: goes with {sparsity} or {prune_to}, got neither")
    if config.distribution == "erk":
        if lists := [name for name in goals if isinstance(getattr(config, name), tuple)]:
            raise ConfigError(f"{{distribution}} erk: takes one {{{lists[0]}}} for all layers, got a list")
        if config.prune_global:
            raise ConfigError("{distribution} erk: not with {prune_global}, which ranks all layers together")


def _check_rewiring(config: Any) -> None:
    if config.rewire is None:
        if given := said(config, REWIRINGS):
            raise ConfigError(f"{{{given[0]}}}: goes with {{rewire}} set, rigl or regrow", {"rewire": "rigl"})
        return
    for other in ("prune", "dense", "format"):
        if (value := getattr(config, other)) and value != "csr":
            raise ConfigError(f"{{{other}}}: not with {{rewire}}; leave one out")
    if not said(config, ("sparsity", "radix", "start_from")):
        raise ConfigError("{rewire}: needs {sparsity}, the fraction without connections, or {radix} or {start_from}",
                          {"sparsity": 0.9})  # fmt: skip
    if config.rewire == "set" and config.grow is not None:
        raise ConfigError("{grow}: goes with {rewire} rigl or regrow, got set, which looks at no gradients")
    if config.rewire == "regrow" and (config.radix is not None or config.start_from is not None):
        raise ConfigError("{rewire} regrow: needs {sparsity}, which it goes to, and starts at random or as an expander")
    if config.rewire != "regrow" and config.start_sparsity is not None:
        raise ConfigError("{start_sparsity}: goes with {rewire} regrow only", {"rewire": "regrow"})
    goals = config.sparsity if isinstance(config.sparsity, tuple) else (config.sparsity or 0.0,)
    if config.rewire == "regrow" and config.start_sparsity is not None and config.start_sparsity > min(goals):
        raise ConfigError("{start_sparsity}: must be at most {sparsity}, which {rewire} regrow goes to, got {got:g}",
                          got=config.start_sparsity)  # fmt: skip


def _check_start(config: Any) -> None:
    """A network from a file is wired already."""
    if config.start_from is not None:
        changing = said(config, ("prune", "rewire"))  # by a granularity
        names = *KINDS_OF_WIRING, *(() if changing else ("granularity",)), "sparse_all", "hidden", *SIZES, "format"
        wired = said(config, names)
        if wired:
            raise ConfigError(f"{{{wired[0]}}}: not with {{start_from}}, whose network is wired already; leave one out")


def _check_optimizer(config: Any) -> None:
    others = said(config, ("betas", "eps") if config.optimizer == "sgd" else ("momentum", "nesterov"))
    if others:
        kind = "adam or adamw" if config.optimizer == "sgd" else "sgd"
        raise ConfigError(f"{{{others[0]}}}: goes with {{optimizer}} {kind}, got {config.optimizer}")
    if config.nesterov and config.momentum == 0:
        raise ConfigError("{nesterov}: needs a {momentum} above 0, got 0")


def _check_patience(config: Any) -> None:
    if config.patience is None:
        return
    if not config.validation:
        raise ConfigError("{patience}: needs {validation}, by which epochs are compared", {"validation": 0.1})
    if changing := said(config, ("prune", "rewire")):
        raise ConfigError(f"{{patience}}: not with {{{changing[0]}}}, whose steps are counted from the run's end")


def _check_no_pruning(config: Any) -> None:
    if given := said(config, PRUNINGS):
        raise ConfigError(f"{{{given[0]}}}: goes with {{prune}} one-time, iterative or gradual")
    if config.rewind is not None and config.start_from is None:
        raise ConfigError("{rewind}: goes with {prune}, or with {start_from} and the file of a pruned network")


def _check_pruning(config: Any) -> None:
    goals = said(config, GOALS)
    if len(goals) != 1:
        got = ", ".join(f"{{{name}}}" for name in goals) or "none"
        raise ConfigError(
            f"{{prune}}: needs one of {{prune_to}}, {{prune_threshold}} and {{prune_quality}}, got {got}",
            {"prune_to": 0.9},
        )
    if config.prune == "gradual" and goals != ["prune_to"]:
        raise ConfigError(
            f"{{{goals[0]}}}: not with {{prune}} gradual, which goes to a sparsity", {"prune_to": 0.9}
        )
    if goals != ["prune_to"] and (others := said(config, ("prune_by", "prune_global"))):
        raise ConfigError(f"{{{others[0]}}}: goes with {{prune_to}} only")
    if config.prune_exponent is not None and config.prune != "gradual":
        raise ConfigError("{prune_exponent}: goes with {prune} gradual only")
    if config.prune == "one-time" and (others := said(config, ("prune_end", "prune_every"))):
        raise ConfigError(f"{{{others[0]}}}: not with {{prune}} one-time, which takes {{prune_start}}")
    if isinstance(config.prune_to, tuple) and config.prune_global:
        raise ConfigError("{prune_global}: takes one sparsity for all layers, got a list")
