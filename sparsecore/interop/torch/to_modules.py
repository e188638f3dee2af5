"""A network as modules of PyTorch: ordinary dense layers, with zeros where there are no connections."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...layers import conv, dropout, flatten, linear, norm, pooling, relu, residual, sequential, shortcut
from ...layers.layer import Layer
from ...network import Network

Modules = dict[str, nn.Module]
"""One after another, by name."""


def to_torch(network: Network) -> nn.Module:
    """The `nn.Module` that computes what a network does, in training as well, with its gradients where there are
    connections.

    It is a tree of the same paths: `state_dict` has `stage1.0.main.conv1.weight`, dense, with zeros where there is no
    connection; a batch norm's `weight`, `bias`, `running_mean` and `running_var` are our scale, shift, mean and var.
    Between them are modules without parameters, for ReLUs and changes of shape. What an optimizer makes of the zeros is
    its own affair: `torch.nn.utils.prune.custom_from_mask` keeps them.

    Parameters
    ----------
    network : Network
        Values are copied; from a GPU, too.

    Returns
    -------
    nn.Sequential
        On the CPU, in the network's dtype, in evaluation mode; it takes (batch, *in_shape), normalised already.

    Raises
    ------
    ValueError
        If a layer is of a kind that has no counterpart here, or PyTorch has no modules of its name.
    """
    return _sequence(network.root, "").eval()


class Residual(nn.Module):
    """main(x) + shortcut(x), then a ReLU if `rectified`.

    Parameters
    ----------
    main, shortcut : dict of str to nn.Module
        What is done one after another on each way; nothing at all where x goes as it is.
    rectified : bool
    """

    def __init__(self, main: Modules, shortcut: Modules, rectified: bool) -> None:
        super().__init__()
        _add(self, "", {**main, **shortcut})
        self.ways, self.rectified = (tuple(main), tuple(shortcut)), rectified

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main, shortcut = (self._along(way, x) for way in self.ways)
        return functional.relu(main + shortcut) if self.rectified else main + shortcut

    def _along(self, way: Iterable[str], x: torch.Tensor) -> torch.Tensor:
        for name in way:
            x = self.get_submodule(name)(x)
        return x


class PadChannels(nn.Module):
    """Every `stride`-th pixel, and `more` channels of zeros behind those of x."""

    def __init__(self, stride: tuple[int, int], more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, :: self.stride[0], :: self.stride[1]], (0, 0, 0, 0, 0, self.more))


def _sequence(layer: sequential.Sequential, path: str) -> nn.Sequential:
    """The modules of a Sequential's layers, with changes of shape where our layers need none."""
    modules: Modules = {}
    given = tuple(layer.in_shape)
    for name, child in layer.children.items():
        modules |= _reshaped(given, tuple(child.in_shape), _free(f"{name}_shape", layer.children))
        modules |= _modules(child, name, f"{path}.{name}" if path else name, layer.children)
        given = tuple(child.out_shape)
    made = nn.Sequential()
    _add(made, path, modules)
    return made


def _reshaped(given: tuple[int, ...], taken: tuple[int, ...], name: str) -> Modules:
    if given == taken:
        return {}
    return {name: nn.Flatten() if len(taken) == 1 else nn.Unflatten(1, taken)}


def _modules(layer: Layer, name: str, path: str, siblings: Mapping[str, Layer]) -> Modules:
    """What computes one layer: a module of its name, and perhaps a ReLU behind it."""
    made = {name: _module(layer, path)}
    rectified = getattr(layer, "relu", False) and not isinstance(layer, residual.Residual)
    return made | ({_free(f"{name}_relu", siblings): nn.ReLU()} if rectified else {})


def _module(layer: Layer, path: str) -> nn.Module:
    match layer:
        case sequential.Sequential():
            return _sequence(layer, path)
        case residual.Residual():
            ways = [
                _modules(child, name, f"{path}.{name}", layer.children) for name, child in layer.children.items()
            ]
            return Residual(ways[0], ways[1] if len(ways) > 1 else {}, layer.relu)
        case conv.SparseConv2d():
            sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            return _valued(nn.Conv2d(layer.in_shape[0], layer.out_shape[0], *sizes, bias=layer.bias is not None), layer)
        case linear.SparseLinear():
            return _valued(nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None), layer)
        case norm.BatchNorm():
            kind = nn.BatchNorm1d if len(layer.in_shape) == 1 else nn.BatchNorm2d
            made = kind(layer.in_shape[0], layer.eps, layer.momentum)
            rows = {**layer.params, **layer.kept}
            names = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "var"}
            return _filled(made, {theirs: layer.device.get(rows[ours]) for theirs, ours in names.items()})
        case pooling.MaxPool2d():
            return nn.MaxPool2d(layer.kernel_size, layer.stride)
        case pooling.AvgPool2d():
            return nn.AvgPool2d(layer.kernel_size, layer.stride)
        case pooling.GlobalAvgPool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case shortcut.PadChannels():
            return PadChannels(layer.stride, layer.out_shape[0] - layer.in_shape[0])
        case flatten.Flatten():
            return nn.Flatten()
        case dropout.Dropout():
            return nn.Dropout(layer.rate)
        case relu.ReLU():
            return nn.ReLU()
    raise ValueError(f"to_torch: layer {path}, {layer!r}, is of a kind that has no counterpart in PyTorch here")


def _valued(made: nn.Conv2d | nn.Linear, layer: Any) -> nn.Module:
    dense = layer.to_scipy().toarray().reshape(tuple(made.weight.shape))
    return _filled(made, {"weight": dense} | ({} if layer.bias is None else {"bias": layer.device.get(layer.bias)}))


def _filled(made: nn.Module, values: Mapping[str, np.ndarray]) -> nn.Module:
    """The module with these numbers in its parameters and buffers, in their dtype."""
    made = made.to(torch.from_numpy(values["weight"]).dtype)
    with torch.no_grad():
        for name, numbers in values.items():
            getattr(made, name).copy_(torch.from_numpy(copy.copy(numbers)))
    return made


def _free(name: str, taken: Mapping[str, Layer]) -> str:
    while name in taken:
        name += "_"
    return name


def _add(owner: nn.Module, path: str, modules: Modules) -> None:
    for name, module in modules.items():
        try:
            owner.add_module(name, module)
        except (KeyError, TypeError) as error:
            where = f"{path}.{name}" if path else name
            raise ValueError(f"to_torch: layer {where}: PyTorch has no modules of that name ({error})") from None
