"""Removing what is dead: neurons and channels that no input reaches or no output uses, with their connections."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers.layer import Layer
from ..layers.norm import BatchNorm
from ..layers.residual import Residual
from ..layers.sequential import Sequential
from ..layers.shortcut import PadChannels
from ..network import Network
from ..storage.pattern import SparsityPattern
from .units import KEEPING, Flow, Mask, Stage, Survey, folds

Keep = Callable[[NDArray[np.int64]], Mask]
"""Which units stay, given their numbers."""
MOST = 20
"""How many outputs that were removed from a layer are named."""


def remove_dead(network: Network) -> Network:
    """A smaller network that computes the same function outside training, up to rounding.

    Units that reach no output are removed. A unit that no input reaches always has the same value, of which batch norms
    and ReLUs make another; it is added to the biases that it fed, and a layer without biases gets some. It stays only
    where a padded convolution reads it, whose border is zero while the unit may not be.

    Channels that a Residual sums are one unit, together with what its shortcut takes if that is x itself or a
    PadChannels: they go from every layer that writes or reads them, or not at all. Connections that lead to no output
    go even where their unit has to stay. Inputs and outputs of the network stay, the units around a layer of a kind
    that is not the engine's own, and one neuron of a layer that is all dead.

    Parameters
    ----------
    network : Network
        Is not changed.

    Returns
    -------
    Network
        Of new layers under the same paths, on the same device; with the same normalisation and the same sparse layers.
    """
    survey = Survey(network)
    layers = _narrowed(network.root, _Narrowing(survey))
    about: Any = {"normalisation": network.normalisation, "answers": network.answers}
    return Network(layers, sparse=network.sparse, **about).to(network.device, activations=network.activations)


def dead_units(network: Network) -> dict[str, NDArray[np.int64]]:
    """Which outputs of each layer with connections `remove_dead` removes, by path; layers that lose none are left out.
    """
    survey = Survey(network)
    keep = _staying(survey)
    found = {stage.path: np.flatnonzero(~keep(numbers)) for stage, numbers in _outputs(survey)}
    return {path: gone for path, gone in found.items() if len(gone)}


def dead_lines(network: Network) -> list[str]:
    """The same in words, a line for each layer that loses outputs."""
    lines = []
    for path, gone in dead_units(network).items():
        named = ", ".join(map(str, gone[:MOST])) + (", …" if len(gone) > MOST else "")
        lines.append(f"{path}: {len(gone)} of {network[path].out_shape[0]} outputs removed: {named}")
    return lines or ["nothing is dead"]


def _outputs(survey: Survey) -> list[tuple[Stage, NDArray[np.int64]]]:
    after = {id(layer): numbers for layer, _, numbers in survey.around}
    return [(stage, after[id(stage.layer)]) for stage in survey.stages]


def _staying(survey: Survey) -> Keep:
    """Units of which some layer needs the value, all that are joined to them, and one wherever none would be left."""
    needed = {survey.root(number) for number in survey.fixed}
    for stage, flow, used in zip(survey.stages, survey.read, survey.read_used, strict=True):
        needed |= {survey.root(number) for number in flow.numbers[used & ~folds(stage.layer, flow.constant)]}
    for _, before, after in survey.around:
        for numbers in (before, after):
            if needed.isdisjoint(roots := [survey.root(number) for number in numbers]):
                needed.add(roots[0])
    return lambda numbers: np.array([survey.root(number) in needed for number in numbers], np.bool_)


class _Narrowing:
    """What stays before and after each layer, and what is known of a stage's connections."""

    def __init__(self, survey: Survey) -> None:
        keep = _staying(survey)
        self.ends = {id(layer): (keep(before), keep(after)) for layer, before, after in survey.around}
        each = zip(survey.stages, survey.read, survey.used, strict=True)
        self.stages = {id(stage.layer): (stage, flow, used) for stage, flow, used in each}


def _narrowed(layer: Layer, to: _Narrowing) -> dict[str, Layer]:
    """The children of a layer with the units that stay."""
    made: dict[str, Layer] = {}
    for name, child in layer.children.items():
        if isinstance(child, Sequential | Residual):
            made[name] = type(child).from_children(child.config(), _narrowed(child, to))
        elif id(child) in to.stages:
            made[name] = _smaller(*to.stages[id(child)], *to.ends[id(child)])
        else:
            made[name] = _resized(child, *to.ends[id(child)])
    return made


def _smaller(stage: Stage, flow: Flow, used: Mask, keep_in: Mask, keep_out: Mask) -> Layer:
    """The layer with the rows and units that stay; what the removed units always gave goes into its biases."""
    layer, pattern, kind = stage.layer, stage.pattern, stage.layer.dtype
    rows, read, weight = pattern.rows, keep_in[stage.columns], layer.device.get(layer.weight)
    gone = np.flatnonzero(~read & used[rows])
    given = np.nan_to_num(flow.constant[stage.columns[gone]]) * weight[gone]
    more = np.bincount(rows[gone], given, pattern.shape[0])
    stays = np.flatnonzero(read & keep_out[rows] & used[rows])
    new_row, new_unit = np.cumsum(keep_out) - 1, np.cumsum(keep_in) - 1
    columns = new_unit[stage.columns[stays]] * stage.each + pattern.indices[stays] % stage.each
    shape = int(keep_out.sum()), int(keep_in.sum()) * stage.each
    fan_in = np.bincount(new_row[rows[stays]], minlength=shape[0])
    smaller = SparsityPattern(shape, np.append(0, np.cumsum(fan_in)), columns)
    config, params = layer.config(), {"weight": weight[stays]}
    if layer.bias is not None:
        params["bias"] = (layer.device.get(layer.bias).astype(np.float64) + more)[keep_out].astype(kind)
    elif more[keep_out].any():
        params["bias"] = more[keep_out].astype(kind)
        del config["bias"]
    if "in_shape" in config:
        config["in_shape"] = [int(keep_in.sum()), *config["in_shape"][1:]]
    return type(layer).from_config(config, smaller, params)


def _resized(layer: Layer, keep_in: Mask, keep_out: Mask) -> Layer:
    """A layer without connections, for the units that stay."""
    if not isinstance(layer, (*KEEPING, PadChannels)) or (keep_in.all() and keep_out.all()):
        return copy.deepcopy(layer).to("cpu")
    config, params, get = layer.config(), {**layer.params, **layer.kept}, layer.device.get
    (name,) = {"shape", "in_shape"} & config.keys()
    first, *rest = config[name]
    config[name] = [first // len(keep_in) * int(keep_in.sum()), *rest]
    if isinstance(layer, PadChannels):
        config["out_channels"] = int(keep_out.sum())
    if isinstance(layer, BatchNorm):
        stays = np.repeat(keep_in, first // len(keep_in))
        params = {name: get(values)[stays] for name, values in params.items()}
    return type(layer).from_config(config, None, params)
