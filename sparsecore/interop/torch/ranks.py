"""What the ranks of `torch.distributed` agree about; a process alone asks nobody."""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def in_ranks(model: nn.Module) -> bool:
    """Whether several processes train a model, or a `DistributedDataParallel` in it acts as if."""
    return ranks() > 1 or _wrapped(model)


def _wrapped(model: nn.Module) -> bool:
    return any(isinstance(each, DistributedDataParallel) for each in model.modules())


def check_alone(what: str, model: nn.Module) -> None:
    """Refuse to replace parameters within a `DistributedDataParallel`, which would go on without the new ones."""
    if _wrapped(model):
        raise ValueError(f"{what}: the model is in a DistributedDataParallel, which shares the gradients of the "
                         "parameters that it found: do it before")  # fmt: skip


def mean(x: torch.Tensor) -> torch.Tensor:
    """The mean of all ranks' tensors, in place: the same bits on each."""
    if (count := ranks()) > 1:
        distributed.all_reduce(x)
        x /= count
    return x


def agree(numbers: list[int], device: torch.device) -> list[bool]:
    """Which numbers, below 2**62, are the same on all ranks."""
    both = torch.tensor([*numbers, *(-each for each in numbers)], dtype=torch.int64, device=device)
    if ranks() > 1:
        distributed.all_reduce(both, distributed.ReduceOp.MAX)
    most, least = both[: len(numbers)], -both[len(numbers) :]
    return [bool(same) for same in most == least]
