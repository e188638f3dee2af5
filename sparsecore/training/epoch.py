"""The steps of an epoch: the one loop over steps, whatever its caller does between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .step import Step


def steps_of_epoch(
    step: Step, batch_size: int, *, first: int = 0, lr: Callable[[int], float] | None = None,
    until: Callable[[], bool] = lambda: False,
) -> Iterator[int]:  # fmt: skip
    """Run the steps of an epoch, in the order of the step's batches; after each, yield how many have been run.

    Parameters
    ----------
    step : Step
    batch_size : int
        Samples of a step; the last one takes those that are left.
    first : int
        Steps that were run before; this one comes next.
    lr : callable, optional
        The learning rate of a step of this epoch, from 0.
    until : callable
        Called before each step; if true, the epoch ends here.
    """
    samples = len(step.batches)
    for k in range(first, -(-samples // batch_size)):
        if until():
            return
        if lr is not None and step.optimizer is not None:
            follow = getattr(step.optimizer, "follow", None)
            if follow is not None:
                follow(lr(k))
            else:
                step.optimizer.lr = lr(k)
        start = k * batch_size
        step.run(start, min(batch_size, samples - start))
        yield k + 1
