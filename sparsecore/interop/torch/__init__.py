"""PyTorch: sparse layers as modules with autograd, and `sparsify`, which puts them where a model has dense ones.

Needs PyTorch: pip install 'sparsecore[torch]'.
"""

from .modules import SparseConv2d, SparseLinear
from .sparsify import sparsify

__all__ = ["SparseConv2d", "SparseLinear", "sparsify"]
