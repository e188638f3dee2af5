"""PyTorch: sparse layers as modules with autograd, `sparsify`, which puts them where a model has dense ones, `densify`,
which puts dense ones back, and `rewire`, which moves their connections while they train; `to_torch` and `from_torch`,
which make a dense model of a network and a network of a model.

Needs PyTorch: pip install 'sparsecore[torch]'.
"""

from .attention import SparseMultiheadAttention
from .conv1d import SparseConv1d
from .conv_transpose import SparseConvTranspose2d
from .densify import densify
from .modules import SparseConv2d, SparseLinear
from .moving import Moved, Moving
from .rewire import rewire
from .sparsify import sparsify
from .summary import Left, Replaced, Summary
from .to_modules import to_torch
from .traced import from_torch

__all__ = [
    "Left", "Moved", "Moving", "Replaced", "SparseConv1d", "SparseConv2d", "SparseConvTranspose2d", "SparseLinear",
    "SparseMultiheadAttention", "Summary", "densify", "from_torch", "rewire", "sparsify", "to_torch",
]  # fmt: skip
