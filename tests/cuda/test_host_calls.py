"""Plain Python between stretches of kernels on the device: as on the CPU, and nothing else is copied."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from sparsecore.layers import ReLU, Sequential, SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.devices import CUDA, cpu
from sparsecore.runtime.recording import NotRecordedError, recorded
from sparsecore.runtime.tiles import Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense
from sparsecore.training.losses import SquaredError
from sparsecore.training.optimizers import SGD, Adam, AdamW
from sparsecore.training.step import Step

from ..small import network as small_network
from ..test_host_calls import (
    ByHand,
    OwnStep,
    RootMeanSquare,
    assert_as_recorded,
    host_cases,
    net,
    normalised,
    samples,
    sgd,
    trained,
    unchanged,
)
from ..test_host_losses import batches_with_targets, squared
from .emulator import stand_in
from .machines import machine

pytestmark = pytest.mark.filterwarnings("ignore:.*is plain Python")


@pytest.mark.parametrize("case", host_cases())
def test_results_are_those_of_recorded_parts(a_cuda: CUDA, case: str) -> None:
    assert_as_recorded(a_cuda, case, 1e-11, np.float64)


def test_a_layer_of_ones_own_trains_as_on_the_cpu(a_cuda: CUDA) -> None:
    def network() -> Network:
        rng = np.random.default_rng(0)
        first = SparseLinear(dense(30, 40), rng=rng, dtype=np.float64)
        last = ByHand(dense(6, 30), rng=rng, dtype=np.float64)
        return Network([first, RootMeanSquare(30, np.float64), ReLU((30,)), last])

    expected, losses, _ = trained(network(), sgd(), cpu())
    found, own, _ = trained(network(), sgd(), a_cuda)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose([each.loss for each in own], [each.loss for each in losses], rtol=1e-11)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_trains_as_on_the_cpu_and_moves(a_cuda: CUDA, kind: Any) -> None:
    expected, _, _ = trained(net(), kind(1e-3, clip_norm=1.0), cpu())
    optimizer = kind(1e-3, clip_norm=1.0)
    found, _, step = trained(net(), optimizer, a_cuda)
    assert step.host_calls == () and optimizer.steps == 10
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    columns = {name: a_cuda.get(column) for name, column in optimizer.columns.items()}
    other = kind(1e-3)
    other.restore(columns, optimizer.description(), a_cuda)
    assert other.steps == 10 and all(a_cuda.owns(column) for column in other.columns.values())
    optimizer.to("cpu")
    assert optimizer.steps == 10 and all(np.array_equal(optimizer.columns[name], columns[name]) for name in columns)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_squared_error_is_the_cpus(a_cuda: CUDA, dtype: Any) -> None:
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    outcomes = []
    for device in (cpu(), a_cuda):
        for loss in (SquaredError(), squared):
            network = small_network(dtype=dtype).to(device)
            step = Step(network, batches_with_targets(device, dtype)[0], SGD(0.01, 0.9), loss=loss)
            step.batches.shuffle(3, 0)
            for start, batch in ((0, 17), (17, 16), (33, 17)):
                step.run(start, batch)
            outcomes.append((device.get(network.params), step.totals().loss))
    for params, loss in outcomes[1:]:
        np.testing.assert_allclose(params, outcomes[0][0], **near)
        assert loss == pytest.approx(outcomes[0][1], rel=1e-4)


def test_only_what_a_host_call_names_is_copied() -> None:
    with machine("forward") as device:
        step = Step(net().to(device), samples(device), sgd(), reduce=unchanged)
        for start in (0, 32):
            step.run(start, 32)
        traffic = stand_in.traffic()
        before = copy.copy(vars(traffic))
        for start in (0, 32):
            step.run(start, 32)
        moved = {name: count - before[name] for name, count in vars(traffic).items()}
        assert moved["to_host"] == moved["to_device"] == 2, "the gradients there and back, once a step"


def test_an_overridden_step_leaves_what_it_keeps_on_the_device(a_cuda: CUDA) -> None:
    optimizer = OwnStep(0.05, 0.9, clip_norm=1.0)
    _, _, step = trained(net(), optimizer, a_cuda)
    assert optimizer.calls == 10 and a_cuda.owns(optimizer.velocity) and optimizer.device is a_cuda
    assert step.host_calls == ("OwnStep.step",)


def test_a_result_from_elsewhere_is_refused(a_cuda: CUDA) -> None:
    class Own(ReLU):
        @recorded
        def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
            y, cache = super().forward_tiles(x, workspace)
            return Tiles(a_cuda.zeros(y.data.shape, y.data.dtype), x.batch), cache

    network = Network([SparseLinear(dense(8, 40)), Own((8,)), SparseLinear(dense(6, 8))]).to(a_cuda)
    with pytest.raises(NotRecordedError, match="returns a new array as y"):
        Step(network, samples(a_cuda, np.float32), SGD(0.1)).run(0, 16)


def test_what_is_kept_comes_back(a_cuda: CUDA) -> None:
    """Values that a layer keeps without training them, changed in place or put anew."""

    class Mean(RootMeanSquare):
        def __init__(self, size: int, anew: bool) -> None:
            super().__init__(size)
            self.kept, self.anew, self.calls = {"mean": np.zeros(size, np.float32)}, anew, 0

        def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
            self.calls += 1
            mean = 0.5 * self.kept["mean"] + 0.5 * x.data.mean((0, 2))
            if self.anew:
                self.kept["mean"] = mean
            else:
                self.kept["mean"][...] = mean
            return super().forward_tiles(x, workspace)

    found = []
    for device in (cpu(), a_cuda):
        for anew in (False, True):
            own = Mean(8, anew)
            first = SparseLinear(dense(8, 40), rng=np.random.default_rng(0))
            network = Network([first, own, SparseLinear(dense(6, 8))]).to(device)
            kept = own.kept["mean"]
            step = Step(network, samples(device, np.float32), SGD(0.0))
            for _ in range(3):
                step.run(0, 32)
            assert own.kept["mean"] is kept and own.calls == 3
            found.append(device.get(kept))
    for array in found[1:]:
        np.testing.assert_allclose(array, found[0], rtol=1e-4, atol=1e-6)
    assert found[0].any()


def test_a_normalisation_with_kept_means_trains_as_on_the_cpu(a_cuda: CUDA) -> None:
    """Kept means, a residual join and nested layers, two of them plain Python."""
    outcomes = []
    for device in (cpu(), a_cuda):
        network = normalised()
        trained(network, AdamW(0.01, weight_decay=0.1), device)
        outcomes.append(device.get(network.table.values).copy())
    np.testing.assert_allclose(outcomes[1], outcomes[0], rtol=1e-8, atol=1e-10)


def test_plain_python_that_holds_layers_is_refused_on_a_device(a_cuda: CUDA) -> None:
    class Own(Sequential):
        def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
            return super().forward_tiles(x, workspace)

    network = Network([Own([SparseLinear(dense(8, 40)), SparseLinear(dense(6, 8))])]).to(a_cuda)
    with pytest.raises(TypeError, match=r"Own\(40→6, 2 layers\): holds layers and is plain Python, which works"):
        Step(network, samples(a_cuda, np.float32), SGD(0.1)).run(0, 16)
