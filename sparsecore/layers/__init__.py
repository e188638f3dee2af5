"""Layers: forward beside backward."""

from .layer import Layer
from .linear import SparseLinear
from .relu import ReLU

KINDS: dict[str, type[Layer]] = {kind.__name__: kind for kind in (SparseLinear, ReLU)}
"""Every kind of layer by the name it has in a checkpoint."""

__all__ = ["KINDS", "Layer", "ReLU", "SparseLinear"]
