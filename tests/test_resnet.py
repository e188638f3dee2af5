"""A residual network learns what PyTorch's learns: same weights, same batches, the same losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sparsecore.models.catalogue import MODELS

from sparsecore.data.batches import Batches
from sparsecore.data.dataset import Split
from sparsecore.layers import BatchNorm
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.topology.wiring import Wiring
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

torch = pytest.importorskip("torch")

SHAPE, STEPS, BATCH = (3, 32, 32), 20, 6
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4


def network_of(wiring: Wiring, dtype: Any) -> Network:
    known = MODELS["resnet20"]
    patterns, _ = wiring.patterns(known.links(SHAPE, classes=10), 0)
    return known.build(patterns, SHAPE, classes=10, seed=0, dtype=dtype)


def theirs(network: Network, x: Any, labels: Any) -> tuple[list[float], Any]:
    """Losses of PyTorch's dense twin, whose absent weights are masked, and the twin."""
    from sparsecore.interop.torch import to_torch

    model = to_torch(network).train()
    named = dict(model.named_parameters())
    masks = {name: weight != 0 for name, weight in named.items() if weight.ndim > 1}
    norms = [f"{path}.{name}" for path, layer in network.walk() if isinstance(layer, BatchNorm)
             for name in ("weight", "bias")]  # fmt: skip
    groups = [{"params": [w for name, w in named.items() if name not in norms], "weight_decay": DECAY},
              {"params": [named[name] for name in norms], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)
    losses = []
    for start in range(0, len(x), BATCH):
        images = torch.tensor((x[start : start + BATCH].reshape(-1, *SHAPE) / 255 - 0.5) / 0.25)
        loss = torch.nn.functional.cross_entropy(model(images), torch.tensor(labels[start : start + BATCH]).long())
        optimizer.zero_grad()
        loss.backward()
        for name, mask in masks.items():
            named[name].grad *= mask
        optimizer.step()
        losses.append(loss.item())
    return losses, model


ERK = Wiring("random", sparsity=0.9, distribution="erk")
ROWS = Wiring("random", sparsity=0.9, granularity="rows:4")


@pytest.mark.parametrize("wiring", [Wiring(), ERK, ROWS], ids=["dense", "erk", "rows"])
def test_losses_and_running_rows_are_pytorchs(wiring: Wiring) -> None:
    rng = np.random.default_rng(0)
    # The last batch is smaller, and no batch fills its lanes.
    x = rng.integers(0, 256, (STEPS * BATCH - 2, 3072), np.uint8)
    labels = rng.integers(0, 10, len(x), np.int32)
    network = network_of(wiring, np.float64)
    expected, model = theirs(network, x, labels)
    batches = Batches(Split(x, labels), SHAPE, (0.5,) * 3, (0.25,) * 3, cpu(), np.float64)
    step, losses = Step(network, batches, SGD(RATE, MOMENTUM, DECAY)), []
    for start in range(0, len(x), BATCH):
        step.run(start, min(BATCH, len(x) - start))
        losses.append(step.totals().mean_loss)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    state = model.state_dict()
    for path, layer in network.walk():
        if isinstance(layer, BatchNorm):
            np.testing.assert_allclose(layer.kept["mean"], state[f"{path}.running_mean"], rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(layer.kept["var"], state[f"{path}.running_var"], rtol=1e-6)
