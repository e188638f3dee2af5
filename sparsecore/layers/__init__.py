"""Layers: forward beside backward."""

from .array_layer import ArrayLayer
from .conv import SparseConv2d
from .dropout import Dropout
from .flatten import Flatten
from .layer import Layer
from .linear import SparseLinear
from .norm import BatchNorm
from .pooling import AvgPool2d, GlobalAvgPool, MaxPool2d
from .registry import KINDS, register
from .relu import ReLU
from .residual import Residual
from .sequential import Sequential
from .shortcut import PadChannels

_ALL: tuple[type[Layer], ...] = (
    SparseLinear,
    SparseConv2d,
    MaxPool2d,
    AvgPool2d,
    GlobalAvgPool,
    BatchNorm,
    PadChannels,
    Flatten,
    Dropout,
    ReLU,
    Sequential,
    Residual,
)
KINDS.update({kind.__name__: kind for kind in _ALL})
"""Every kind of layer of this package by the name it has in a checkpoint; `register` names others."""

__all__ = [
    "KINDS",
    "ArrayLayer",
    "AvgPool2d",
    "BatchNorm",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Layer",
    "MaxPool2d",
    "PadChannels",
    "ReLU",
    "Residual",
    "Sequential",
    "SparseConv2d",
    "SparseLinear",
    "register",
]
