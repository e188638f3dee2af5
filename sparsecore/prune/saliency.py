"""How much each connection matters: |w|, |w·dw|, or Optimal Brain Damage's ½·h·w²."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.batches import Batches
from ..layers.curvature import behind_relu
from ..network import Network
from ..runtime.tiles import Targets, Tiles
from ..runtime.workspace import Workspace
from ..storage.parameters import ByPath, LayerPath
from ..training.losses import CrossEntropy, Loss, SquaredError

Saliencies = Mapping[Any, NDArray[np.floating[Any]]]
"""For each layer, by its path or number, an array of shape (nnz,), at least 0."""

SAMPLES = 1024


def magnitude(network: Network, layers: Iterable[str | int] | None = None) -> Saliencies:
    """|w|, of the layers given or of all with connections."""
    return ByPath({k: np.abs(weight) for k, weight in _weights(network, layers).items()})


def gradient(network: Network, store: Batches, samples: int = SAMPLES) -> Saliencies:
    """|w·dw|: how much the loss changes when the connection goes, to first order.

    Parameters
    ----------
    network : Network
    store : Batches
        The first samples of its order are used.
    samples : int
        Or all, if there are fewer.

    References
    ----------
    M. Mozer, P. Smolensky, Skeletonization, NIPS 1988; for single connections: N. Lee, T. Ajanthan, P. Torr, SNIP:
    Single-shot network pruning based on connection sensitivity, ICLR 2019.
    """
    workspace, x, wanted = _packed(network, store, samples)
    z, caches = network.forward(x, workspace)
    loss: Loss = SquaredError() if isinstance(wanted, Targets) else CrossEntropy()
    network.backward(loss(z, wanted, workspace), caches, workspace)
    return ByPath(
        {
            path: np.abs(weight * network.device.get(workspace.at(path).array("weight", weight.shape, weight.dtype)))
            for path, weight in _weights(network).items()
        }
    )


def curvature(network: Network, store: Batches, samples: int = SAMPLES) -> Saliencies:
    """½·h·w² with h = ∂²loss/∂w²: Optimal Brain Damage's saliency, the loss's rise to second order at a minimum.

    h is OBD's own estimate: the Hessian's diagonal passed back from layer to layer, without its off-diagonal terms and,
    as in Levenberg and Marquardt's method, without second derivatives of the activations, so that it is the diagonal of
    a Gauss-Newton matrix, approximated layer by layer. h of a logit is p·(1 − p) for the softmax's p (1 for numbers), h
    of a connection is Σ h[row]·x[column]² over the samples, and h of an input is Σ w²·h over the connections that read
    it: the ordinary backward pass of a layer with squared weights on squared inputs.

    Parameters
    ----------
    network : Network
        Layers without parameters must only pass on, drop or choose among their inputs, or average them, as ReLU and
        pooling do.
    store : Batches
        The first samples of its order are used. Their labels play no part.
    samples : int
        Or all, if there are fewer.

    References
    ----------
    Y. LeCun, J. Denker, S. Solla, Optimal Brain Damage, NIPS 1989.
    """
    workspace, x, wanted = _packed(network, store, samples)
    x.clear_padding()
    z, back = network.root.curvature(x, workspace)
    _, found = back(behind_relu(_output_curvature(z, wanted, workspace), z, workspace), False)
    return ByPath(
        {
            path: network.device.get(found[f"{path}.weight"]) * weight**2 / 2
            for path, weight in _weights(network).items()
        }
    )


def _output_curvature(z: Tiles, wanted: Any, workspace: Workspace) -> Tiles:
    """The diagonal of the mean loss's second derivative with respect to the outputs: p·(1 − p)/n for the softmax's p of
    logits, 1/n for numbers."""
    device = workspace.device
    flat = device.empty((z.batch, z.features), z.data.dtype)
    workspace.kernels.unpack(z.data, flat)
    logits = device.get(flat)
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = logits / logits.sum(axis=1, keepdims=True)
    h = workspace.array("h of the logits", z.data.shape, z.data.dtype)
    second = np.ones_like(p) if isinstance(wanted, Targets) else p * (1 - p)
    workspace.kernels.pack(device.put(second / max(z.batch, 1)), h)
    return Tiles(h, z.batch)


def _packed(network: Network, store: Batches, samples: int) -> tuple[Workspace, Tiles, Any]:
    if samples < 1:
        raise ValueError(f"saliency: samples must be at least 1, got {samples}")
    workspace = Workspace(network.device)
    store.seek(0, min(samples, len(store)))
    return workspace, *store.pack(workspace)


def _weights(network: Network, layers: Iterable[str | int] | None = None) -> dict[str, Any]:
    wanted = network.patterns if layers is None else layers
    return {LayerPath(k): network.device.get(network[k].params["weight"]) for k in wanted}
