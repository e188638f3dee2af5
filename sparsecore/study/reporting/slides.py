"""The numbers of the slides: "Training Sparse Neural Networks", 2018. Test accuracy in percent, one seed each.

The networks were dense matrices under masks, in TensorFlow: plain SGD, batches of 100, learning rates 0.2, 0.1 and
0.05, 15,000 steps on MNIST and 30,000 on CIFAR-10. They were pruned every 200 steps along a cubic curve, and had a ReLU
on the logits.
"""

from __future__ import annotations

Column = dict[float, float]

SPARSITY: dict[str, Column] = {
    "L300 one-time, no retraining": {0: 97.03, 50: 96.79, 75: 94.92, 90: 85.47, 95: 50.71, 99: 19.36},
    "L300 one-time, retrained": {0: 97.03, 50: 96.88, 75: 96.82, 90: 96.19, 95: 95.65, 99: 56.08},
    "L300 iterative": {50: 97.50, 75: 97.44, 90: 97.40, 95: 97.30, 99: 96.83},
    "L300 iterative, retrained": {50: 97.03, 75: 97.05, 90: 97.02, 95: 96.34, 99: 96.08},
    "L5 one-time, retrained": {0: 99.25, 50: 98.95, 75: 79.94, 90: 89.92, 95: 98.32, 99: 11.35},
    "L5 iterative": {50: 99.17, 75: 98.91, 90: 98.84, 95: 98.80, 99: 98.48},
    "L5 iterative, retrained": {50: 98.78, 75: 69.92, 90: 88.67, 95: 98.54, 99: 77.96},
    "L5 CIFAR-10 iterative": {0: 80.14, 50: 79.59, 75: 79.08, 90: 74.9},
}
"""By the percentage of connections that was removed."""

WIDTH: dict[str, Column] = {
    "L300 random": {0.01: 74.1, 0.05: 91.49, 0.1: 93.42, 0.5: 96.28, 1: 97.03, 2: 96.65, 10: 94.45, 100: 94.3},
    "L300 RadiX-Net": {0.1: 93.57, 10: 93.98},
    "L5 random": {0.01: 49.36, 0.05: 98.38, 0.1: 98.77, 0.5: 99.2, 1: 99.2, 2: 99.14, 10: 98.91},
    "L5 CIFAR-10 random": {0.01: 9.99, 0.05: 71.34, 0.1: 74.61, 0.5: 79.22, 1: 80.14, 2: 80.4, 10: 79.35},
}
"""By factor. Below 1: the same sizes with that fraction of the connections. Above 1: as many connections, in a layer
that is wider by that factor. 1 is dense."""
