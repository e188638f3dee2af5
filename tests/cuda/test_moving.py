"""Connections move on a GPU as on the CPU: the same go and come as by brute force, given the gradients found there."""

from __future__ import annotations

import pytest

from sparsecore.prune import Method
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import CUDA
from sparsecore.training.optimizers import SGD, Adam

from ..test_moving import METHODS, Brute, data, images, mlp, rewirer


@pytest.mark.parametrize("method", ["set", "rigl", "exact", "regrow", "rows"])
def test_the_same_connections_go_and_come_as_by_brute_force(a_cuda: CUDA, method: str) -> None:
    brute = Brute(rewirer(METHODS[method], end=24))
    Trainer(mlp(), data(), Adam(0.01), epochs=5, batch_size=16, callbacks=[brute], device=a_cuda).run()
    assert brute.updates == 6


@pytest.mark.parametrize("whole", [False, True])
def test_convolutions_move(a_cuda: CUDA, whole: bool) -> None:
    method: Method = METHODS["rigl"]
    brute = Brute(rewirer(method, end=12, filters=whole))
    network = images("filter" if whole else "weight")
    Trainer(network, data((2, 6, 6)), SGD(0.05, 0.9), epochs=2, batch_size=16, callbacks=[brute], device=a_cuda).run()
    assert brute.updates == 3
