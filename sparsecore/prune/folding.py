"""A network without batch normalisation, where that can be taken into the weights before it."""

from __future__ import annotations

from typing import Any

from ..layers.folding import folded_layers
from ..network import Network


def folded(network: Network) -> Network:
    """A network without the batch norms that directly follow a sparse layer; outside training it computes the same.

    From y = factor · (W x + b) + offset each row of W and b takes its factor, b the offset too, and the layer the ReLU
    of the norm. A layer without biases gets them. A norm that follows anything else stays: a sum, a pooling, a dropout,
    or a layer with a ReLU of its own.

    Parameters
    ----------
    network : Network
        Is not changed.

    Returns
    -------
    Network
        Of new layers, under the same paths, on the same device; with the same normalisation and sparse layers.

    References
    ----------
    B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
    2018, equation 14.
    """
    layers = folded_layers(network.root)
    about: Any = {"normalisation": network.normalisation, "answers": network.answers}
    return Network(layers, sparse=network.sparse, **about).to(network.device, activations=network.activations)
