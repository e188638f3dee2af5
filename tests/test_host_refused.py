"""What plain Python gives or asks for that cannot be: refused by a line that names it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sparsecore.layers import ReLU, SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.recording import NotRecordedError, recorded
from sparsecore.runtime.tiles import Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense
from sparsecore.training.losses import CrossEntropy
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import network as small_network
from .small import numbers
from .small import store as small_store
from .test_host_calls import RootMeanSquare

pytestmark = pytest.mark.filterwarnings("ignore:.*is plain Python")

# ---------------------------------------------------------------------------------------------- refusals


class Marked(ReLU):
    """What a marked layer does besides, given as a function of x, a buffer of its shape and the workspace."""

    besides: Any = None

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        y, cache = super().forward_tiles(x, workspace)
        found = type(self).besides(x.data, y.data, workspace)
        return (y if found is None else Tiles(found, x.batch)), cache


def in_place(x: Any, y: Any, workspace: Workspace) -> None:
    y += 1


WRONG = {
    "in place": in_place,
    "assignment": lambda x, y, workspace: y.__setitem__(..., 0),
    "fill": lambda x, y, workspace: y.fill(0),
    "out=": lambda x, y, workspace: (np.exp(y, out=y), None)[1],
    "copyto": lambda x, y, workspace: np.copyto(y, 1),
    "copyto through asarray": lambda x, y, workspace: np.copyto(np.asarray(y), 1),
    "random numbers in place": lambda x, y, workspace: (np.random.default_rng(0).random(out=np.asarray(y)), None)[1],
    "arithmetic": lambda x, y, workspace: (y * 2, None)[1],
    "a result": lambda x, y, workspace: np.asarray(y) * 2,
    "a mean": lambda x, y, workspace: (y.mean(), None)[1],
    "einsum": lambda x, y, workspace: (np.einsum("abc->b", y), None)[1],
    "an element": lambda x, y, workspace: (float(y[0, 0, 0]), None)[1],
    "control flow": lambda x, y, workspace: ((y > 0).all(), None)[1],
    "a copy": lambda x, y, workspace: y.copy(),
    "the input": lambda x, y, workspace: x.__setitem__(0, 0),
    "the position": lambda x, y, workspace: (int(workspace.position[0]), None)[1],
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_marked_layer_that_computes_is_refused(what: str) -> None:
    class Own(Marked):
        besides = staticmethod(WRONG[what])

    ends = [SparseLinear(dense(*shape), dtype=np.float64) for shape in ((8, 20), (5, 8))]
    network = Network([ends[0], Own((8,)), ends[1]])
    with pytest.raises(NotRecordedError) as caught:
        Step(network, small_store(dtype=np.float64), SGD(0.1)).run(0, 16)
    message = str(caught.value)
    assert message.startswith("ReLU(8): forward_tiles is marked as recorded, but ") and "\n" not in message
    assert "take the mark @recorded away, or call it through kernels.host" in message
    workspace = Workspace(position=np.zeros(3, np.int64))
    y, _ = Own((8,)).forward(numbers((3, 8)), workspace)  # alone it may do as it likes
    assert y.shape == (3, 8)


def test_marked_parameters_optimizers_and_losses_are_refused_too() -> None:
    class Scaled(SparseLinear):
        @recorded
        def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
            self.params["weight"] *= 0.9
            return super().forward_tiles(x, workspace)

    class Decayed(SGD):
        @recorded
        def rule(self, kernels: Any, w: Any, dw: Any, columns: Any, *, decays: bool) -> None:
            w *= 0.9
            super().rule(kernels, w, dw, columns, decays=decays)

    class Late(SGD):
        @recorded
        def begin(self, kernels: Any) -> None:
            self.lr = 0.5

    class Smoothed(CrossEntropy):
        @recorded
        def __call__(self, z: Tiles, wanted: Any, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
            dz = super().__call__(z, wanted, workspace)
            dz.data[:, 0] = 0
            return dz

    before = small_network().params
    for layer, optimizer, loss, name in (
        (Scaled, SGD(0.1), None, r"SparseLinear\(20→12\): forward_"), (SparseLinear, Decayed(0.1), None, "Decayed"),
        (SparseLinear, Late(0.1), None, "Late"), (SparseLinear, SGD(0.1), Smoothed(), r"Smoothed\(\): __call__"),
    ):  # fmt: skip
        network = small_network()
        network.layers[0].__class__ = layer
        with pytest.raises(NotRecordedError, match=name):
            Step(network, small_store(), optimizer, loss=loss).run(0, 16)
        assert np.array_equal(network.params, before), "and nothing has changed"


def test_a_marked_layer_of_kernels_alone_is_recorded() -> None:
    class Own(Marked):
        besides = staticmethod(lambda x, y, workspace: workspace.kernels.relu(y, y))

    network = Network([SparseLinear(dense(8, 20)), Own((8,)), SparseLinear(dense(5, 8))])
    step = Step(network, small_store(), SGD(0.1))
    step.run(0, 16)
    assert step.host_calls == () and math.isfinite(step.totals().loss)


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (lambda self, x, w: (x.data, None), None, "forward_tiles must give Tiles of shape"),
        (lambda self, x, w: (Tiles(x.data[:, 1:], x.batch), None), None, "forward_tiles must give Tiles of shape"),
        (None, lambda self, dy, c, w, need_dx: (None, {}), "backward_tiles must give Tiles of shape"),
        (None, lambda self, dy, c, w, need_dx: (dy, {}), r"backward_tiles must give a gradient of gain, of shape \(9"),
    ],
)
def test_a_plain_layer_that_gives_something_else_is_refused(forward: Any, backward: Any, message: str) -> None:
    class Own(RootMeanSquare):
        pass

    if forward:
        Own.forward_tiles = forward  # type: ignore[method-assign]
    if backward:
        Own.backward_tiles = backward  # type: ignore[method-assign]
    network = Network([SparseLinear(dense(9, 20)), Own(9), SparseLinear(dense(5, 9))])
    with pytest.raises(ValueError, match=message):
        Step(network, small_store(), SGD(0.1)).run(0, 16)
