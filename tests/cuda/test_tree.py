"""Trees of layers, moving connections and every optimizer on a GPU: what they come to on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.inspect import remove_dead
from sparsecore.interop.export import to_npz, to_onnx
from sparsecore.layers import Layer
from sparsecore.network import Network
from sparsecore.prune import curvature, folded, to_sparsity
from sparsecore.runs.checkpoint import read, save
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import CUDA, cpu
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.training.optimizers import SGD, Adam, AdamW, Optimizer
from sparsecore.training.step import Step

from .. import test_norm as norm
from ..small import numbers
from ..test_compact import cut
from ..test_fold import resnet
from ..test_rewire import by_connection, some
from ..test_tree import residual_network

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(0.05, 0.9, 1e-3, nesterov=True, clip_norm=1.0),
    "adam": lambda: Adam(0.01, weight_decay=1e-2),
    "adamw": lambda: AdamW(0.01),
}


def batches(device: Device, samples: int = 70, shape: tuple[int, ...] = (1, 8, 8)) -> Batches:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (samples, int(np.prod(shape))), dtype=np.uint8)
    return Batches(Split(x, rng.integers(0, 5, samples, dtype=np.int32)), shape, [0.4], [0.3], device)


def on_host(network: Network, optimizer: Optimizer) -> list[np.ndarray]:
    device = network.device
    return [np.array(device.get(each)) for each in (network.params, *optimizer.columns.values())]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_residual_network_trains_as_on_the_cpu(a_cuda: CUDA, kind: str) -> None:
    found = []
    for device in (cpu(), a_cuda):
        network, optimizer = residual_network(np.float32, dropout=0.2).to(device), OPTIMIZERS[kind]()
        step = Step(network, batches(device), optimizer)
        for start in (0, 33, 5, 37):
            step.run(start, 33)
        found.append([*on_host(network, optimizer), step.totals().mean_loss])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_network_with_batch_normalisation_trains_as_on_the_cpu(a_cuda: CUDA, kind: str) -> None:
    """Its running rows too, and what they give outside training; with a last batch of one image."""
    found = []
    for device in (cpu(), a_cuda):
        network, optimizer = norm.residual_network(np.float32).to(device), OPTIMIZERS[kind]()
        step = Step(network, batches(device, shape=(1, 6, 5)), optimizer)
        for start, batch in ((0, 33), (33, 33), (5, 33), (69, 1), (37, 33)):
            step.run(start, batch)
        x = numbers((19, 1, 6, 5), dtype=np.float32)
        rows = np.array(device.get(network.table.values))
        found.append([rows, *on_host(network, optimizer), step.totals().mean_loss, network.logits(x)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=5e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer", norm.LAYERS, ids=repr)
def test_layers_of_residual_networks_compute_as_on_the_cpu(a_cuda: CUDA, layer: Layer, training: bool) -> None:
    x, dy = numbers((21, *layer.in_shape), dtype=layer.dtype), numbers((21, *layer.out_shape), 1, layer.dtype)
    found = []
    for device in (cpu(), a_cuda):
        twin = copy.deepcopy(layer).to(device)
        workspace = Workspace(device, training=training)
        y, cache = twin.forward(x, workspace)
        dx, grads = twin.backward(dy, cache, workspace)
        arrays = [*grads.values(), *twin.kept.values()]
        found.append([y, dx, *(np.array(device.get(array)) for array in arrays)])
    for ours, theirs in zip(*found, strict=True):
        near = 1e-10 if ours.dtype == np.float64 else 1e-5
        np.testing.assert_allclose(ours, theirs, rtol=near, atol=near)


def test_curvature_and_files_of_batch_normalisation(a_cuda: CUDA, tmp_path: Any) -> None:
    found = []
    for device in (cpu(), a_cuda):
        network = norm.residual_network(np.float32).to(device)
        found.append(curvature(network, batches(device, shape=(1, 6, 5)), 40))
    for path, ours in found[0].items():
        np.testing.assert_allclose(ours, found[1][path], rtol=1e-3, atol=1e-8)
    step = Step(network, batches(a_cuda, shape=(1, 6, 5)), SGD(0.02))
    step.run(0, 33)
    save(network, tmp_path / "a.safetensors")
    again = read(tmp_path / "a.safetensors").network.to(a_cuda)
    for twin in (network, again):
        Step(twin, batches(a_cuda, shape=(1, 6, 5)), SGD(0.02)).run(33, 33)
    assert np.array_equal(a_cuda.get(network.table.values), a_cuda.get(again.table.values))


@pytest.mark.parametrize("equal", [False, True])
def test_connections_move_as_on_the_cpu(a_cuda: CUDA, equal: bool) -> None:
    """The same bits: a move copies numbers, whatever the device; and the steps after it see the new structure."""
    moved, after = [], []
    for device in (cpu(), a_cuda):
        rng = np.random.default_rng(3)
        network, optimizer = residual_network(np.float32), SGD(0.05, 0.9)
        optimizer.velocity = np.linspace(-1, 1, network.params.size, dtype=np.float32)
        network.to(device)
        optimizer.to(device)
        optimizer.attach(network)
        step = Step(network, batches(device), optimizer)
        step.prepare(33)
        patterns = network.patterns
        new = {path: some(p.shape, rng, p.nnz if equal else None) for path, p in patterns.items()}
        network.rewire(new, fill=0.25)
        values, velocity = on_host(network, optimizer)
        moved.append((values.tobytes(), velocity.tobytes()))
        step.run(0, 33)
        after.append(step.totals().mean_loss)
    assert moved[0] == moved[1]
    assert after[0] == pytest.approx(after[1], rel=1e-4)


def test_a_mixture_of_moves_is_exact(a_cuda: CUDA) -> None:
    rng, network = np.random.default_rng(5), residual_network(np.float32)
    optimizer = Adam()
    network.to(a_cuda)
    optimizer.attach(network)
    for name in optimizer.columns:
        a_cuda.fill(optimizer.columns[name], rng.standard_normal(network.params.shape))
    before = [by_connection(network, column) for column in on_host(network, optimizer)]
    new = {path: some(p.shape, rng) for path, p in network.patterns.items() if rng.random() < 0.5}
    network.rewire(new | {"head": SparsityPattern((5, 6), [0] * 6, [])})
    for column, was in zip(on_host(network, optimizer), before, strict=True):
        assert all(value == was.get(key, 0.0) for key, value in by_connection(network, column).items())


def test_pruning_and_curvature_of_a_tree(a_cuda: CUDA) -> None:
    found = []
    for device in (cpu(), a_cuda):
        network = residual_network(np.float32).to(device)
        saliencies = curvature(network, batches(device), 40)
        to_sparsity(network, 0.8)
        found.append((saliencies, {path: p.indices.tolist() for path, p in network.patterns.items()}))
    for path, ours in found[0][0].items():
        np.testing.assert_allclose(ours, found[1][0][path], rtol=1e-3, atol=1e-8)
    assert found[0][1] == found[1][1]


def test_files_and_copies_of_a_tree(a_cuda: CUDA, tmp_path: Any) -> None:
    network, optimizer = residual_network(np.float32).to(a_cuda), AdamW()
    step = Step(network, batches(a_cuda), optimizer)
    for _ in range(3):
        step.run(0, 33)
    save(network, tmp_path / "a.safetensors", optimizer=optimizer)
    found = read(tmp_path / "a.safetensors")
    twin, again = copy.deepcopy(network), AdamW()
    assert twin.device is a_cuda and twin.table.values is not network.table.values
    again.restore(found.columns, found.optimizer or {}, a_cuda)
    assert again.steps == optimizer.steps == 3
    for ours, theirs in zip(on_host(network, optimizer), on_host(found.network.to(a_cuda), again), strict=True):
        assert np.array_equal(ours, theirs)
    for net, its in ((found.network, again), (network, optimizer)):
        Step(net, batches(a_cuda), its).run(0, 33)
    assert np.array_equal(on_host(network, optimizer)[0], on_host(found.network, again)[0])


def test_a_network_is_rewritten_and_exported_from_where_it_is(a_cuda: CUDA, tmp_path: Any) -> None:
    host = resnet(np.float32)
    cut(host, "stage1.0.main.conv2", channels=[1])
    net = copy.deepcopy(host).to(a_cuda)
    for rewritten in (folded, remove_dead):
        found, wanted = rewritten(net), rewritten(host)
        assert found.device is a_cuda and net.device is a_cuda
        assert np.array_equal(a_cuda.get(found.table.values), wanted.table.values) and found.patterns == wanted.patterns
    for name, write in (("npz", to_npz), ("onnx", to_onnx)):
        if name == "onnx":
            pytest.importorskip("onnx")
        for k, each in enumerate((net, host)):
            write(each, tmp_path / f"{k}.{name}")
        assert (tmp_path / f"0.{name}").read_bytes() == (tmp_path / f"1.{name}").read_bytes()
    torch = pytest.importorskip("torch")
    from sparsecore.interop.torch import to_torch

    states = [to_torch(each).state_dict() for each in (net, host)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
