"""Turning a network into a sparser one, in place: at once, round by round, or gradually."""

from .rewind import refresh, rewind
from .saliency import curvature, gradient, magnitude
from .schedule import PruningSchedule, gradual, iterative, one_time
from .shrink import PrunedLayer, PruneError, by_quality, by_threshold, shrink, to_sparsity

__all__ = [
    "PruneError",
    "PrunedLayer",
    "PruningSchedule",
    "by_quality",
    "by_threshold",
    "curvature",
    "gradient",
    "gradual",
    "iterative",
    "magnitude",
    "one_time",
    "refresh",
    "rewind",
    "shrink",
    "to_sparsity",
]
