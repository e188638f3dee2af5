"""Deep models and units that move, on a GPU as on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sparsecore.models.catalogue import MODELS

from sparsecore.prune import RIGL, Rewirer, RewiringSchedule
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import CUDA, cpu
from sparsecore.topology.wiring import Wiring
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from ..test_granularity import PIXELS, images, whole
from ..test_moving import data
from .test_tree import batches, on_host

SIZES: dict[str, dict[str, Any]] = {"resnet20": {"width": 0.25}, "mlp": {"batch_norm": True}}


@pytest.mark.parametrize("model", SIZES)
def test_a_deep_model_trains_as_on_the_cpu(a_cuda: CUDA, model: str) -> None:
    wiring, kind = Wiring("random", sparsity=0.7, granularity="rows:4"), MODELS[model]
    hidden = (20, 12) if model == "mlp" else ()
    patterns, _ = wiring.patterns(kind.links((1, 8, 8), classes=5, hidden=hidden, **SIZES[model]), 0)
    found = []
    for device in (cpu(), a_cuda):
        network = kind.build(patterns, (1, 8, 8), classes=5, **SIZES[model]).to(device)
        optimizer = SGD(0.01, 0.9, 5e-4)
        step = Step(network, batches(device), optimizer)
        for start in (0, 33):
            step.run(start, 33)
        found.append([*on_host(network, optimizer), step.totals().mean_loss])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=1e-3)


def test_units_move(a_cuda: CUDA) -> None:
    network = images("block:4,2", 0.5, (8, 12))
    before = dict(network.patterns)
    moves = Rewirer(RIGL, RewiringSchedule(4, 12, 0.3), granularity="block:4,2")
    Trainer(network, data((2, 6, 6)), SGD(0.05, 0.9), epochs=2, batch_size=16, callbacks=[moves], device=a_cuda).run()
    assert all(whole("block:4,2", network.patterns[path], pixels) for path, pixels in PIXELS.items())
    assert all(network.patterns[path].nnz == before[path].nnz for path in PIXELS)
    assert any(network.patterns[path] != before[path] for path in PIXELS)
