"""sparselab's layer: rows of weights with room to grow, multiplied by its own vector code, under PyTorch's autograd.

It draws its own random pattern of the same sparsity. It computes on OpenMP's threads, as PyTorch does.
"""

from __future__ import annotations

import torch


def module(size: tuple[int, int], sparsity: float) -> torch.nn.Module:
    """The layer of (in_features, out_features)."""
    from sparselab import SparseLinear

    made: torch.nn.Module = SparseLinear(*size, sparsity=sparsity)
    return made
