"""What to measure, and how long it may take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .timing import Budget


class ConvShape(NamedTuple):
    """A convolution, with as much padding as keeps the size of its images where the stride is 1.

    Written as 16x32@28: from 16 to 32 channels, on 28×28 pixels; 16x32@28/2 has a stride of 2, and 16x32@28/2k1 filters
    of 1×1.

    Attributes
    ----------
    channels, filters : int
        Channels in and out.
    side : int
        Pixels along an image that comes in.
    stride : int
    kernel : int
        Pixels along a filter.
    """

    channels: int
    filters: int
    side: int
    stride: int = 1
    kernel: int = 3

    @classmethod
    def parse(cls, text: str) -> ConvShape:
        """The shape that is written so.

        Raises
        ------
        ValueError
            If none is.
        """
        form = r"(?P<channels>\d+)x(?P<filters>\d+)@(?P<side>\d+)(/(?P<stride>\d+))?(k(?P<kernel>\d+))?"
        found = re.fullmatch(form, text, re.ASCII)
        shape = found and cls(**{name: int(size) for name, size in found.groupdict().items() if size})
        if not shape or min(shape) < 1:
            raise ValueError(f"must be written as 16x32@28, 16x32@28/2 or 16x32@28/2k1, got {text!r}")
        return shape

    def __str__(self) -> str:
        stride, kernel = f"/{self.stride}" * (self.stride != 1), f"k{self.kernel}" * (self.kernel != 3)
        return f"{self.channels}x{self.filters}@{self.side}{stride}{kernel}"


@dataclass(frozen=True)
class Options:
    """As given on the command line.

    Attributes
    ----------
    model : str
        A key of `problem.MODELS`.
    batches, sparsities : tuple
        Empty for a benchmark's own.
    threads : int
        Of every engine.
    shapes : tuple of ConvShape
        Of convolutions; empty for the benchmark's own.
    only : tuple of str
        Rows of a benchmark that has names for them; empty for all.
    activations : {"float32", "bfloat16"}
        bfloat16 adds this engine with such activations, and PyTorch's dense steps in bfloat16.
    quick : bool
        The smallest sizes that still run all of the code: a check, not a measurement.
    """

    model: str = "lenet300"
    batches: tuple[int, ...] = ()
    sparsities: tuple[float, ...] = ()
    threads: int = 1
    shapes: tuple[ConvShape, ...] = ()
    activations: str = "float32"
    quick: bool = False
    only: tuple[str, ...] = ()

    def budget(self, seconds: float) -> Budget:
        if self.quick:
            return Budget(seconds=0, rounds=2, turn=0)
        # BLAS's idle threads spin for some 25 ms before they sleep, and would take a processor from whoever is next.
        return Budget(seconds, turn=0.02, pause=0.04) if self.threads > 1 else Budget(seconds)
