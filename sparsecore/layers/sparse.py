"""What layers with connections share: a pattern, values in its order and a bias."""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from ..runtime.arrays import narrowed, plain_array, real_numbers, unfit
from ..runtime.border import Border
from ..runtime.recording import is_recorded, shallow
from ..runtime.replay import addresses
from ..runtime.tiles import LANES, Tiles, tiles_of
from ..runtime.workspace import SampledRows, Workspace
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair
from .initial import initial_values
from .layer import Layer, Params
from .replay import backward_of, forward_of
from .sampling import Sampling

if TYPE_CHECKING:
    import scipy.sparse

Format = Literal["csr", "coo"]


class SparseLayer(Layer):
    """A layer whose weights are the stored connections of a pattern. Only these cost memory, arithmetic or gradients.

    Attributes
    ----------
    pattern : SparsityPattern
    relu : bool
    format : {"csr", "coo"}
    """

    starts = MappingProxyType({"bias": 0.0})

    pattern: SparsityPattern
    plan: Any

    @property
    def halves(self) -> bool:
        """But in COO on a GPU."""
        return self.format == "csr" or self.device.name == "cpu"

    def __init__(
        self, pattern: SparsityPattern, weight: Any, bias: Any, *, relu: bool, format: Format,
        rng: np.random.Generator | None, dtype: Any,
    ) -> None:  # fmt: skip
        if weight is None:
            weight = initial_values(pattern, rng if rng is not None else np.random.default_rng(), dtype)
        if bias is None:
            bias = np.zeros(pattern.shape[0], dtype)
        biased = bias is not False
        self.relu, self.format = relu, format
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"{self!r}: dtype must be float32 or float64, got {kind}")
        weight = real_numbers(weight, self, "weight", truths=False)
        given = {"weight": (weight, pattern.nnz)} | ({"bias": (bias, pattern.shape[0])} if biased else {})
        params = {}
        for name, (array, count) in given.items():
            array = real_numbers(array, self, name, truths=False)
            if np.shape(array) != (count,):
                raise ValueError(f"{self!r}: {name} must have shape ({count},), got {np.shape(array)}")
            params[name] = np.array(narrowed(array, kind, self, name), kind)
        self._set(pattern, params["weight"], params.get("bias"))

    @abstractmethod
    def plan_of(self, pattern: SparsityPattern, *, moving: bool = False, together: Pair = (1, 1)) -> Any:
        """The plan by which this layer walks a pattern; `moving` if it may be patched later.

        `together` says how many neighbouring outputs, and inputs, move together.
        """

    @abstractmethod
    def cache_of(self, x: Tiles, y: Any, workspace: Workspace) -> Any:
        """What `forward_tiles` returns for `backward_tiles`, when x has given the output y."""

    def borders(self, batch: int, *, whole: bool) -> tuple[Border, Border]:
        """The borders that x and dy of a batch are packed into, or of a chunk if it is not the whole."""
        return self.x_border, self.dy_border

    def backward(
        self, dy: Any, cache: Any, workspace: Workspace | None = None, *, need_dx: bool = True
    ) -> tuple[Any, Params]:
        if isinstance(cache, _Rows) and isinstance(dy, Tiles):  # x was given as an ordinary array
            own = self._own(workspace)
            x, seen = self._pack(cache.x, self.in_shape, "x", own), cache.seen
            if seen is None:
                seen = own.array("y", (len(x.data), *self.out_shape, LANES), self.dtype)
            self._check_same(cache.pattern)
            cache = self.cache_of(x, seen, own)
        return super().backward(dy, cache, workspace, need_dx=need_dx)

    def _forward_rows(self, rows: Any, x: Any, workspace: Workspace) -> tuple[Any, Any]:
        """A few tiles at a time where these do not all fit a cache; x is copied, since its caller may write over it."""
        if not self._chunked(len(rows), workspace):
            return super()._forward_rows(rows, x, workspace)
        self._check_values()
        kept, seen = workspace.array("x", rows.shape, self.dtype), None
        np.copyto(kept, rows)
        if self.relu:
            seen = workspace.array("y", (tiles_of(len(rows)), *self.out_shape, LANES), self.dtype)
        y = workspace.device.empty((len(rows), *self.out_shape), self.dtype)
        replay = forward_of(self, len(rows), self.dtype.name, biased=self.bias is not None)
        replay.run(*addresses(kept, self.weight, self.bias, y, seen))
        return y, _Rows(kept, seen, self.pattern)

    def _backward_rows(
        self, rows: Any, dy: Any, cache: Any, workspace: Workspace, need_dx: bool
    ) -> tuple[Any, Params]:
        if not isinstance(cache, _Rows):
            return super()._backward_rows(rows, dy, cache, workspace, need_dx)
        self._check_values()
        self._check_same(cache.pattern)
        if len(rows) != len(cache.x):
            raise ValueError(f"{self!r}: dy must be of the {len(cache.x)} samples that x had, got {len(rows)}")
        rows = np.ascontiguousarray(rows)
        grads = {name: workspace.array(name, array.shape, self.dtype) for name, array in self.params.items()}
        dx = workspace.device.empty((len(rows), *self.in_shape), self.dtype) if need_dx else None
        replay = backward_of(
            self, len(rows), self.dtype.name, biased=self.bias is not None, need_dx=need_dx
        )
        replay.run(*addresses(rows, cache.x, cache.seen, self.weight, dx, grads["weight"], grads.get("bias")))
        workspace.sample_rows(rows, cache.x, cache.seen)
        return dx, grads

    def _chunked(self, batch: int, workspace: Workspace) -> bool:
        """Whether arrays of a batch are packed a few tiles at a time: on the CPU, by its own kernels."""
        own = workspace.device.name == "cpu" and not workspace.kernels_given
        return (
            own and tiles_of(batch) > self.plan.chunk(self.dtype.itemsize)
            and is_recorded(self.forward_tiles, self.backward_tiles)
        )  # fmt: skip

    def gradient_at(self, pattern: SparsityPattern, workspace: Workspace) -> Any:
        """The gradient that connections have, stored or not, from the last backward pass in a workspace.

        Parameters
        ----------
        pattern : SparsityPattern
            Of this layer's shape; whose gradient is wanted.
        workspace : Workspace
            This layer's own, of the pass.

        Returns
        -------
        array of shape (pattern.nnz,), on the device
            For stored connections the bits of the pass. It is written over by the next call. After a pass over ordinary
            arrays it is made from the dy that was given, which must not have been written over since.

        Raises
        ------
        ValueError
            If there was no backward pass, or the pattern has another shape.
        """
        if pattern.shape != self.pattern.shape:
            raise ValueError(f"{self!r}: the pattern must have shape {self.pattern.shape}, got {pattern.shape}")
        if (sampled := workspace.sampled) is None:
            raise ValueError(f"{self!r}: has no gradient: there was no backward pass in this workspace")
        played = workspace.played
        if isinstance(sampled, SampledRows):
            return self._gradient_of_rows(pattern, sampled, played)
        if played.sampling is None or not played.sampling.takes(pattern, sampled):
            played.sampling = Sampling(self._plan_once(pattern), sampled, self.device, self.dtype)
        return played.sampling.gradient(pattern, played.kernels)

    def _gradient_of_rows(self, pattern: SparsityPattern, sampled: SampledRows, workspace: Workspace) -> Any:
        """The same after a pass over ordinary arrays."""
        found = workspace.array("gradient of others", (pattern.nnz,), self.dtype)
        known = workspace.sampled_plan
        if known is None or known.pattern is not pattern:
            known = workspace.sampled_plan = self._plan_once(pattern)
        other = shallow(self)
        other.take_pattern(pattern, known)
        replay = backward_of(other, len(sampled.dy), self.dtype.name, biased=False, need_dx=False)
        replay.run(*addresses(sampled.dy, sampled.x, sampled.seen, None, None, found, None))
        return found

    def _plan_once(self, pattern: SparsityPattern) -> Any:
        """The plan of connections whose gradient is sampled.

        Looking for rows that share their columns pays for whole rows only; others are looked at once, and go.
        """
        once = pattern.nnz == 0 or int(pattern.fan_in.max()) < pattern.shape[1]
        return self.plan_of(pattern, moving=once, together=self.plan.together)

    def prune(self, keep: Any) -> None:
        """Store only the connections where `keep`, a boolean array of shape (nnz,), is true.

        For a layer used alone; one in a network is changed by `Network.rewire`.
        """
        mask = plain_array(keep, "keep")
        pattern = self.pattern.select(mask)
        self._set(pattern, self.device.pick(self.weight, np.flatnonzero(mask)), self.bias)

    def with_params(self, weight: Any, bias: Any) -> Self:
        """The same layer, its plan included, with these arrays as its parameters: shared, not copied."""
        twin = shallow(self)
        twin.params = _named(weight, bias)
        return twin

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The weights as a CSR array of the pattern's shape that shares this layer's values; copies of a GPU's."""
        return self.pattern.to_scipy(self.device.get(self.weight))

    @property
    def weight(self) -> Any:
        """Values of the stored connections, in CSR order."""
        return self.params["weight"]

    @property
    def bias(self) -> Any:
        """One number a row, or None in a layer without biases."""
        return self.params.get("bias")

    @property
    def _without_bias(self) -> dict[str, bool]:
        """What a config says of biases: nothing where there are some, as files have always said."""
        return {} if "bias" in self.params else {"bias": False}

    @staticmethod
    def _bias_of(config: dict[str, Any], params: Params) -> Any:
        """The bias that a config and its parameters speak of, as the constructors take it."""
        if config.get("bias", True) is False and "bias" not in params:
            return False
        if "bias" in config:
            raise ValueError("bias must be false, with no biases given, or not be said")
        return params["bias"]

    def _check_values(self) -> None:
        """Refuse values that do not fit the pattern: anyone may write to `params`, and kernels trust it."""
        kind = self.dtype
        for name, array in self.params.items():
            count = self.pattern.nnz if name == "weight" else self.pattern.shape[0]
            self._check_device(array, name)
            if array.shape != (count,) or array.dtype != kind or unfit(array, written=False):
                raise ValueError(
                    f"{self!r}: {name} must be a contiguous array of {count} {kind} numbers, got {array.dtype} "
                    f"{array.shape}"
                )

    def _check_same(self, pattern: SparsityPattern) -> None:
        """Refuse the cache of a forward pass with other connections: its gradients would be of these."""
        if pattern != self.pattern:
            raise ValueError(f"{self!r}: the cache is of other connections than the layer has now: call forward again")

    def _set(self, pattern: SparsityPattern, weight: Any, bias: Any) -> None:
        """Take a pattern and the parameters that go with it."""
        self.take_pattern(pattern, self.plan_of(pattern))
        self.params = _named(weight, bias)

    def take_pattern(self, pattern: SparsityPattern, plan: Any) -> None:
        """Use another pattern and its plan from now on; the caller replaces the parameters."""
        self.pattern, self.plan = pattern, plan


class _Rows(NamedTuple):
    """The cache of a pass over ordinary arrays: x, the tiles of y if there is a ReLU, and the pattern."""

    x: Any
    seen: Any
    pattern: SparsityPattern


def _named(weight: Any, bias: Any) -> dict[str, Any]:
    return {"weight": weight} | ({} if bias is None else {"bias": bias})


def checked_pattern(pattern: Any, layer: str) -> SparsityPattern:
    """The pattern, if it is one; `layer` names the caller in the message.

    Raises
    ------
    TypeError
        If it is not a SparsityPattern.
    """
    if not isinstance(pattern, SparsityPattern):
        raise TypeError(f"{layer}: pattern must be a SparsityPattern, got {type(pattern).__name__}")
    return pattern
