"""Dropout: in training, each number is dropped with some probability."""

from __future__ import annotations

from typing import Any

from ..runtime.recording import recorded
from ..runtime.tiles import Tiles
from ..runtime.workspace import Workspace
from ..scalars import number
from ..storage.pattern import SparsityPattern
from ..storage.sizes import spell
from .layer import Graph, Layer, Params


class Dropout(Layer):
    """y = x / (1 − rate), or 0 with probability `rate`; y = x outside training.

    What is dropped depends only on the seed, the epoch, the sample's number in it, the layer's number in the network
    and the feature: it is the same for any number of threads, and in a run that was resumed. The workspace says whether
    this is training, and its `position` which samples of the data a batch holds.

    Parameters
    ----------
    shape : tuple of int
        Of one sample.
    rate : float
        At least 0 and less than 1.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, Dropout: A Simple Way to Prevent Neural
    Networks from Overfitting, JMLR 15, 2014; here scaled in training, so that nothing is left to do outside it.
    """

    halves = True

    def __init__(self, shape: tuple[int, ...], rate: float) -> None:
        if not 0 <= number("Dropout: rate", rate) < 1:
            raise ValueError(f"Dropout: rate must be at least 0 and less than 1, got {rate}")
        self.params = {}
        self.in_shape = self.out_shape = tuple(shape)
        self.rate = float(rate)

    @recorded
    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        self._check_any(x)
        y = self._dropped(x.data, "y", workspace)
        return Tiles(y, x.batch, rectified=x.rectified), (y, x.batch)

    @recorded
    def backward_tiles(
        self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True
    ) -> tuple[Tiles | None, Params]:
        y, batch = cache
        self._check_dy(dy, y, batch)
        # What the forward pass dropped is drawn again, not kept.
        return Tiles(self._dropped(dy.data, "dx", workspace), batch, masked=dy.masked), {}

    def _dropped(self, x: Any, name: str, workspace: Workspace) -> Any:
        if not workspace.training:
            return x
        if workspace.position is None:
            raise ValueError(f"{self!r}: training needs the workspace's position, which decides what is dropped")
        out = workspace.array(name, x.shape, x.dtype)
        workspace.kernels.dropout(x, workspace.position, workspace.stream, self.rate, out)
        return out

    def forward_few(self, x: Any, workspace: Workspace) -> Any:
        """x: nothing is dropped."""
        return x

    def export(self, graph: Graph, path: str) -> None:
        """Add nothing: outside training y = x."""

    def config(self) -> dict[str, Any]:
        """What makes this layer again."""
        return {"shape": list(self.in_shape), "rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any], pattern: SparsityPattern | None, params: Params) -> Dropout:
        return cls(tuple(config["shape"]), config["rate"])

    def __repr__(self) -> str:
        return f"Dropout({spell(self.in_shape)}, {self.rate})"
