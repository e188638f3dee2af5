"""A network of a model of PyTorch: `torch.fx` follows its forward, and what is found is tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import fx, nn

from ...errors import one_line
from ...network import Network
from ...storage.sizes import sizes
from .from_modules import is_known
from .reading import Reader


def from_torch(model: nn.Module, in_shape: Sequence[int]) -> Network:
    """The network that computes what a model of PyTorch does, its weights and running statistics included.

    What `forward` does is found by `torch.fx`. It may use Conv2d, Linear, BatchNorm1d and 2d, ReLU, MaxPool2d,
    AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Unflatten, Dropout and Identity, transformers' Conv1D, our own sparse
    modules that stand for these, the functions and methods for these, `x.view(batch, -1)`, sums of two ways from one
    place, and shortcuts that take every k-th pixel, `x[:, :, ::k, ::k]`, and pad channels with zeros. A weight that is
    zero is no connection, unless a mask of `torch.nn.utils.prune` keeps it.

    Parameters
    ----------
    model : nn.Module
        Is not changed. Its names become our paths.
    in_shape : (channels, height, width) or (features,)
        Of one sample.

    Returns
    -------
    Network
        On the CPU; float64 if the model is, otherwise float32.

    Raises
    ------
    TypeError
        If the model is no module, or a size no integer.
    ValueError
        If the model does anything else, in one line that names the module or the operation.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"from_torch: model must be an nn.Module, got {type(model).__name__}")
    if not isinstance(in_shape, Sequence) or not in_shape:
        raise TypeError(f"from_torch: in_shape must be (channels, height, width) or (features,), got {in_shape!r}")
    shape = sizes("in_shape", in_shape, len(in_shape))
    tracer = _Tracer()
    held = nn.Sequential(model) if tracer.is_leaf_module(model, "") else model
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"from_torch: {name}: has no values: it is on the meta device")
    with _in_evaluation(held):
        try:
            graph = tracer.trace(held)
        except Exception as error:  # whatever a forward raises when it meets a stand-in for its input
            raise ValueError(f"from_torch: cannot follow {type(model).__name__}.forward: {_said(error)}") from None
        network = Reader(held, graph, shape).network()
        _check_traced(held, network, shape)
    return network


class _Tracer(fx.Tracer):
    """Stops at PyTorch's own modules, at ours, and at those that stand for one of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_known(m) or super().is_leaf_module(m, module_qualified_name)


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Whatever a forward does otherwise in training is not what a network does outside it."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


def _check_traced(model: nn.Module, network: Network, shape: tuple[int, ...]) -> None:
    """Refuse a model that does something else than the network that was read: torch.fx sees no hooks, not what stands
    in place of a module's own forward, and not that `x += y` changes x for those that read it later.
    """
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, *shape), generator=generator, dtype=torch.float64).to(like.device, like.dtype)
    try:
        with torch.no_grad():
            wanted = model(x.clone()).double().cpu().numpy()  # of a copy: its first layer may work in place
    except Exception as error:  # a model may raise anything
        raise ValueError(f"from_torch: cannot run {type(model).__name__}.forward: {_said(error)}") from None
    found = network.logits(x.double().cpu().numpy().astype(network.dtype))
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0)
    near = 4 * torch.finfo(like.dtype).eps ** 0.5 * float(largest)  # half the digits that it computes with
    alike = found.size == wanted.size
    if not alike or not np.allclose(found.reshape(wanted.shape), wanted, rtol=0, atol=near, equal_nan=True):
        raise ValueError(
            f"from_torch: {type(model).__name__}.forward does more than torch.fx can see, such as hooks, a module's "
            "forward that was replaced, or x += y where x is read again"
        )


def _said(error: Exception) -> str:
    return one_line((str(error) or type(error).__name__).splitlines()[0], 300)
