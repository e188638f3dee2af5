"""What a person prints says what it is, in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import sparsecore
from sparsecore.data import load
from sparsecore.runs.checkpoint import read
from sparsecore.topology import dense


def test_what_a_person_prints_is_a_line(tmp_path: Path) -> None:
    data = load("mnist-subset")
    assert repr(data) == (
        "Dataset('mnist-subset', 8,000 train, 2,000 test, samples of 1×28×28 in uint8, 10 classes)"
    )
    assert repr(data.test) == "Split(2,000 samples of 784 features in uint8)"
    network = sparsecore.Network([sparsecore.SparseLinear(dense(10, 784), rng=np.random.default_rng(0))])
    trainer = sparsecore.Trainer(network, data, sparsecore.SGD(0.1, momentum=0.9), epochs=1, out=tmp_path / "run")
    assert repr(trainer) == f"Trainer({network!r}, {trainer.optimizer!r}, epoch 0 of 1, in {tmp_path / 'run'})"
    trainer.run()
    assert "epoch 1 of 1" in repr(trainer)
    assert repr(read(tmp_path / "run")) == f"Checkpoint({network!r}, 7,840 connections, velocity, epoch 1)"
    sparsecore.save(network, tmp_path / "net.safetensors")
    assert repr(read(tmp_path / "net.safetensors")) == f"Checkpoint({network!r}, 7,840 connections)"
