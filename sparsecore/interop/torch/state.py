"""Modules whose pattern is two buffers: what is loaded, copied, averaged or broadcast is what they compute with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import torch
from torch import nn
from torch._C._functorch import is_batchedtensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack as beneath_transforms
from torch.compiler import is_compiling

from ...errors import one_line
from ...storage.pattern import SparsityPattern
from .dense import picked
from .given import real_tensor
from .written import KIND, NAMES, Seen, buffer_of, holds, pattern_in


class PatternModule(nn.Module):
    """The state of a sparse module."""

    weight: nn.Parameter
    _pattern: SparsityPattern
    _seen: Seen

    @abstractmethod
    def _wire(self, pattern: SparsityPattern) -> None:
        """Take a pattern, and write it."""

    @property
    def pattern(self) -> SparsityPattern:
        """The pattern that the buffers hold.

        Raises
        ------
        ValueError
            If somebody has written what is no pattern of this module's shape, or not one of its number of weights.
        """
        self._look()
        return self._pattern

    def _look(self) -> None:
        """Notice what was written to the buffers: at every use. What is being compiled is looked at when it runs."""
        if is_compiling():
            return
        buffers = self._buffers
        if not self._seen.still(buffers["indptr"], buffers["indices"]):
            self._heed()

    def _heed(self) -> None:
        """Take what the buffers hold, and write it as it is meant: whole, in float64."""
        if self.weight.is_meta and all(getattr(self._buffers[name], "is_meta", False) for name in NAMES):
            return  # nothing is held yet: the connections are those that the module was made with
        held = (self._buffers[name] for name in NAMES)
        if any(isinstance(each, torch.Tensor) and is_batchedtensor(each) for each in held):
            raise ValueError(f"{type(self).__name__}: cannot map over connections, as vmap does with buffers that are "
                             "stacked: leave indptr and indices out, and give weights of one pattern")  # fmt: skip
        with beneath_transforms():  # within them, whatever is made of a tensor has no numbers
            try:
                pattern = None if self._holds(self._pattern) else self._held()
            except (TypeError, ValueError, RuntimeError) as error:  # the last is PyTorch's, of tensors without numbers
                wanted, said = "{}×{}".format(*self._pattern.shape), one_line(str(error).splitlines()[0], 200)
                whose = f"{type(self).__name__}: indptr and indices"
                raise ValueError(f"{whose} hold no {wanted} pattern for its weight: {said}") from None
            if pattern is not None:
                with torch.inference_mode(False), torch.no_grad():
                    (self._write if pattern == self._pattern else self._wire)(pattern)
            self._seen = Seen(*(self._buffers[name] for name in NAMES))

    def _held(self) -> SparsityPattern:
        pattern = pattern_in(self._pattern.shape, *(self._buffers[name] for name in NAMES))
        if self.weight.shape != (pattern.nnz,):
            raise ValueError(f"{pattern.nnz:,} connections, but weight has shape {tuple(self.weight.shape)}")
        return pattern

    def _holds(self, pattern: SparsityPattern) -> bool:
        return all(holds(self._buffers[name], getattr(pattern, name)) for name in NAMES)

    def _write(self, pattern: SparsityPattern) -> None:
        """Write the pattern to the buffers."""
        for name in NAMES:
            numbers, held = buffer_of(getattr(pattern, name), self.weight.device), self._buffers.get(name)
            same = held is not None and (held.shape, held.dtype) == (numbers.shape, KIND)
            if held is not None and same and not held.is_inference():
                held.copy_(numbers)  # a state_dict that shares the weight's memory shares theirs
            else:
                self.register_buffer(name, numbers)
        self._seen = Seen(*(self._buffers[name] for name in NAMES))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move to a device, or give other values: the pattern goes along, and outlasts `half` and `to_empty`."""
        with suppress(ValueError):
            self._look()  # before it may go to the meta device, which holds no numbers
        before = {name: self._buffers[name] for name in NAMES}
        super()._apply(fn, recurse)
        for name, held in before.items():
            now = self._buffers[name]
            if held is None or now is None or now is held or now.is_meta:
                continue
            # What was on the meta device had no numbers: those that the module was made with.
            wanted = buffer_of(getattr(self._pattern, name), now.device) if held.is_meta else held
            if now.dtype != held.dtype or not torch.equal(now.cpu(), wanted.cpu()):
                self._buffers[name] = wanted.to(now.device, copy=True)
        self._seen = Seen()  # in shared memory they lie elsewhere
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Whatever a state holds, the next use computes with: a single number that was written unnoticed, too."""
        if not self._holds(self._pattern):
            self._seen = Seen()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        try:
            state_dict = state_dict | self._given(state_dict, prefix)
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{prefix}pattern: {error}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _given(self, state_dict: Any, prefix: str) -> dict[str, torch.Tensor]:
        """Take the pattern of a state; what is loaded in place of some of its entries."""
        indptr, indices, weight = names = [prefix + name for name in (*NAMES, "weight")]
        if not all(name in state_dict for name in names):
            dense = state_dict.get(weight)
            if "weight" not in self._parameters:  # it is computed from others, which the state has
                return {}
            if given := {name: state_dict[prefix + name] for name in NAMES if prefix + name in state_dict}:
                held = {name: each.to(KIND) if isinstance(each, torch.Tensor) else each for name, each in given.items()}
                if not all(holds(each, getattr(self.pattern, name)) for name, each in held.items()):
                    alone = ", ".join(name for name in (*NAMES, "weight") if prefix + name not in state_dict)
                    raise ValueError(f"other connections come without {alone}, and would take the values of these")
                return {}
            if not isinstance(dense, torch.Tensor) or dense.ndim < 2:
                return {}
            buffers = {prefix + name: buffer_of(getattr(self.pattern, name), dense.device) for name in NAMES}
            return {weight: self._picked(dense)} | buffers
        values = real_tensor("state_dict", weight, state_dict[weight])
        real_tensor("state_dict", prefix + "bias", state_dict.get(prefix + "bias", values))
        pattern = pattern_in(self._pattern.shape, state_dict[indptr], state_dict[indices])
        if values.shape != (pattern.nnz,):
            raise ValueError(f"weight must have shape ({pattern.nnz},), got {tuple(values.shape)}")
        given = {prefix + name: state_dict[prefix + name].to(KIND) for name in NAMES}
        if pattern != self._pattern or any(self._buffers[n].shape != given[prefix + n].shape for n in NAMES):
            self._wire(pattern)
        return given

    def _picked(self, dense: torch.Tensor) -> torch.Tensor:
        """A dense layer's values at the connections that there are; all others must be zero, or they would be lost."""
        values, lost = picked(dense, self.pattern, getattr(self, "kernel_size", ()))
        if lost:
            many = f"{lost:,} of a dense weight's {dense.numel():,} values"
            raise ValueError(f"{many} are not zero where there is no connection: load before sparsify, or as zeros")
        return values
