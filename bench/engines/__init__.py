"""The engines that are compared: one file each, with what it does in a training step and in a single kernel.

Dense engines are given full patterns only. Each file says how its library is used at its best; where two ways are
close, both are timed as variants and the faster one counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

DENSE, SPARSE, BOTH = "dense", "sparse", "both"


class Timed(Protocol):
    """Something that can be run again and again, and whose result can be checked."""

    def run(self) -> object:
        """What is timed."""

    def result(self) -> Any:
        """What the last run computed: logits (batch, classes), y (out_features, batch), or dW as it is stored."""


class Contender(NamedTuple):
    """One way of doing something.

    Attributes
    ----------
    engine : str
    variant : str
        Which of the engine's ways.
    patterns : str
        What it is made for: "dense", "sparse" or "both".
    make : callable
        Takes a Problem, or a pattern and its operands, and gives something to time.
    most : float
        Connections times batch above which it would take minutes, and has long lost.
    """

    engine: str
    variant: str
    patterns: str
    make: Callable[..., Timed]
    most: float = math.inf

    def suits(self, topology: str, multiplies: int) -> bool:
        return self.patterns in (BOTH, DENSE if topology == "dense" else SPARSE) and multiplies <= self.most


def contenders(what: str, threads: int) -> list[Contender]:
    """All that can do a "step", a "gather" or a "sample"; without PyTorch's where that is not installed.

    Parameters
    ----------
    what : {"step", "gather", "sample"}
    threads : int
        Of sparsecore; the other libraries get theirs from the environment.
    """
    from . import numpy_hand, scipy_csr, sparsecore

    ours = sparsecore.WHAT[what]
    numpys, scipys = numpy_hand.WHAT[what], scipy_csr.WHAT[what]
    found = [Contender("sparsecore", name, BOTH, partial(make, threads=threads)) for name, make in ours.items()]
    found += [Contender("numpy-hand", name, DENSE, make) for name, make in numpys.items()]
    found += [Contender("scipy", name, SPARSE, make, scipy_csr.MOST.get(name, 2e9)) for name, make in scipys.items()]
    if has_torch():
        from . import torch_csr, torch_eager, torch_hand

        for engine, module, patterns in (
            ("torch-eager", torch_eager, DENSE), ("torch-hand", torch_hand, DENSE), ("torch-csr", torch_csr, SPARSE)
        ):  # fmt: skip
            ways = module.WHAT.get(what, {})
            found += [Contender(engine, name, patterns, make, 2e9) for name, make in ways.items()]
    return found


def conv_contenders(what: str, threads: int) -> list[Contender]:
    """All that can do a "step" of LeNet-5, or a "layer" forward and backward; as `contenders`."""
    from . import sparsecore

    ours = {"step": sparsecore.Step, "layer": sparsecore.ConvLayer}[what]
    found = [Contender("sparsecore", "", BOTH, partial(ours, threads=threads))]
    if has_torch():
        from . import torch_conv

        theirs: Any = {"step": torch_conv.STEPS, "layer": torch_conv.LAYERS}[what]
        found += [Contender(engine, name, DENSE, make) for engine in theirs for name, make in theirs[engine].items()]
    return found


def deep_contenders(threads: int) -> list[Contender]:
    """All that can do a step of a deep network; as `contenders`."""
    from . import sparsecore

    found = [Contender("sparsecore", "", BOTH, partial(sparsecore.Step, threads=threads))]
    if has_torch():
        from . import torch_deep

        theirs: Any = torch_deep.STEPS
        found += [Contender(engine, name, DENSE, make) for engine in theirs for name, make in theirs[engine].items()]
    return found


def has_sparselab() -> bool:
    """Whether sparselab can be imported."""
    try:
        import sparselab  # noqa: F401
    except ImportError:
        return False
    return True


def has_torch() -> bool:
    """Whether PyTorch can be imported."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True
