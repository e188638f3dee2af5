"""What to measure, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

from .timing import Budget


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
    quick : bool
        The smallest sizes that still run all of the code: a check, not a measurement.
    """

    model: str = "lenet300"
    batches: tuple[int, ...] = ()
    sparsities: tuple[float, ...] = ()
    threads: int = 1
    quick: bool = False

    def budget(self, seconds: float) -> Budget:
        if self.quick:
            return Budget(seconds=0, rounds=2, turn=0)
        # BLAS's idle threads spin for some 25 ms before they sleep, and would take a processor from whoever is next.
        return Budget(seconds, turn=0.02, pause=0.04) if self.threads > 1 else Budget(seconds)
