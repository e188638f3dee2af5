"""Changing a network's structure in place: connections that go, at once or gradually, and connections that move."""

from .folding import folded
from .methods import REGROW, RIGL, SET, Method, at_random, of_all, of_candidates
from .moving import RewiringSchedule
from .rewind import refresh, rewind
from .rewirer import Rewired, Rewirer
from .saliency import curvature, gradient, magnitude
from .schedule import PruningSchedule, gradual, iterative, one_time
from .shrink import PrunedLayer, PruneError, by_quality, by_threshold, shrink, to_sparsity

__all__ = [
    "REGROW",
    "RIGL",
    "SET",
    "Method",
    "PruneError",
    "PrunedLayer",
    "PruningSchedule",
    "Rewired",
    "Rewirer",
    "RewiringSchedule",
    "at_random",
    "by_quality",
    "by_threshold",
    "curvature",
    "folded",
    "gradient",
    "gradual",
    "iterative",
    "magnitude",
    "of_all",
    "of_candidates",
    "one_time",
    "refresh",
    "rewind",
    "shrink",
    "to_sparsity",
]
