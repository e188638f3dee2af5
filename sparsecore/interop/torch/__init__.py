"""PyTorch: sparse layers as modules with autograd, `sparsify`, which puts them where a model has dense ones, and
`rewire`, which moves their connections while they train.

Needs PyTorch: pip install 'sparsecore[torch]'.
"""

from .modules import SparseConv2d, SparseLinear
from .moving import Moved, Moving
from .rewire import rewire
from .sparsify import sparsify

__all__ = ["Moved", "Moving", "SparseConv2d", "SparseLinear", "rewire", "sparsify"]
