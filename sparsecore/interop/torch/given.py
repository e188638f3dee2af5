"""What arrives at a sparse layer: kernels check nothing, so every tensor of every call is looked at here."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx

from ...layers.sparse import SparseLayer

KINDS = (torch.float32, torch.float64)
NARROW = (torch.float16, torch.bfloat16)


def shape_of(owner: str, x: Any) -> torch.Size:
    """The shape of what a module is called with.

    Raises
    ------
    TypeError
        If that is not a tensor, or a nested one.
    """
    if isinstance(x, torch.Tensor):
        if x.is_nested:
            raise TypeError(f"{owner}: x must be a tensor of one size, got a nested one: pad it, or give its parts")
        return x.shape
    if isinstance(x, torch.fx.Proxy):
        raise TypeError(f"{owner}: torch.fx cannot follow its forward: have the tracer's is_leaf_module keep it whole, "
                        "or use torch.export")  # fmt: skip
    raise TypeError(f"{owner}: x must be a tensor, got {type(x).__name__}")


def real_tensor(owner: str, name: str, given: Any) -> torch.Tensor:
    """What is given as a tensor of real numbers.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(given, torch.Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor, got {type(given).__name__}")
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{owner}: {name} must hold real numbers, got {given.dtype}")
    return given


def check(
    layer: SparseLayer, name: str, given: Any, weight: torch.Tensor, shape: tuple[int, ...] | None = None
) -> None:
    """Refuse what a kernel would misread.

    Parameters
    ----------
    layer : SparseLayer
    name : str
        What the tensor is called in a message.
    given : tensor
    weight : tensor
        Whose dtype and device it must share.
    shape : tuple of int, optional
        That it must have, axis by axis; None where this has been seen to.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(given, torch.Tensor):
        raise TypeError(f"{layer!r}: {name} must be a tensor, got {type(given).__name__}")
    if given.layout is not torch.strided:
        raise TypeError(f"{layer!r}: {name} must be a dense tensor, got one of {given.layout}")
    if given.dtype != weight.dtype and not (goes_with(given.dtype, weight.dtype) and given.is_cpu):
        raise TypeError(f"{layer!r}: {name} must be {weight.dtype}, as the weights are, got {given.dtype}")
    on_cpu = given.is_cpu
    if on_cpu != weight.is_cpu or not (on_cpu or (given.is_cuda and given.device == weight.device)):
        both = ("", "") if given is weight else (" and the weights", f" and {weight.device}")
        raise TypeError(f"{layer!r}: {name}{both[0]} must be on one CPU or GPU, got {given.device}{both[1]}")
    if shape is not None and given.shape != shape:
        raise ValueError(f"{layer!r}: {name} must have shape {shape}, got {tuple(given.shape)}")


def goes_with(dtype: torch.dtype, kept: torch.dtype) -> bool:
    """Whether a layer computes on activations of a dtype with weights of another, or with other activations."""
    return dtype == kept or (dtype is torch.bfloat16 and kept is torch.float32)


def cast(x: torch.Tensor, weight: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """What a module computes on, given x: in the weights' dtype, or on a CPU, under `autocast` to bfloat16, in that.

    bfloat16 then goes in and comes out, as of `nn.Linear`, while weights and all sums stay float32. Transposed
    convolutions compute in the weights' dtype.
    """
    if (
        weight.dtype is torch.float32 and x.is_cpu and not transposed and x.dtype in (*KINDS[:1], *NARROW)
        and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    ):  # fmt: skip
        return x.to(torch.bfloat16)
    return x.to(weight.dtype) if x.dtype in NARROW else x


def check_parameters(layer: SparseLayer, weight: Any, bias: Any) -> None:
    """Refuse parameters that are not of this layer's connections; `check` says what is raised."""
    check(layer, "weight", weight, weight, (layer.pattern.nnz,))
    if weight.dtype not in KINDS:
        raise TypeError(f"{layer!r}: parameters must be float32 or float64, got {weight.dtype}: call .float()")
    if bias is not None:
        check(layer, "bias", bias, weight, layer.pattern.shape[:1])
        if bias.dtype != weight.dtype:
            raise TypeError(f"{layer!r}: bias must be {weight.dtype}, as the weights are, got {bias.dtype}")


def channels_last(x: torch.Tensor) -> bool:
    """Whether a layer's output lies in memory as (batch, height, width, channels): where x does, on a CPU."""
    return (
        x.ndim == 4 and not x.is_contiguous() and not x.is_cuda
        and x.is_contiguous(memory_format=torch.channels_last)
    )  # fmt: skip


def plain(given: torch.Tensor, last: bool = False) -> torch.Tensor:
    """The tensor as a kernel walks it: contiguous, and no view that only says that its numbers are negated; `last` says
    of images that their channels come last in memory.

    It may be a new one, so that whoever takes its address must hold it.
    """
    given = given.resolve_neg() if given.is_neg() else given
    return given.contiguous(memory_format=torch.channels_last) if last else given.contiguous()
