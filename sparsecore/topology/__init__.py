"""Sparsity patterns from rules: RadiX-Nets, expanders, uniform random and dense layers, and how connected they are."""

from .radix import FittedRadixNet, fit_radix_net, radix_layer, radix_net
from .rules import ExpanderKind, dense, expander, filters, uniform_random
from .spectral import SpectralGap, spectral_gap

__all__ = [
    "ExpanderKind",
    "FittedRadixNet",
    "SpectralGap",
    "dense",
    "expander",
    "filters",
    "fit_radix_net",
    "radix_layer",
    "radix_net",
    "spectral_gap",
    "uniform_random",
]
