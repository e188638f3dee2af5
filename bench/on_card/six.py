"""One training step of LeNet-300-100 as a RadiX-Net, launch by launch: what profilers and sanitizers look at.

Its six kernels are those that all time goes to: `pack_samples`, `spmm`, `cross_entropy`, `sddmm`, `reorder` and `sgd`.
`python -m bench.on_card.six` runs a step to compile them, and one more between the profiler's start and stop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import results

KERNELS = ("pack_samples", "spmm", "cross_entropy", "sddmm", "reorder", "sgd")


def main() -> None:
    import cupy

    from bench.problem import training_problem
    from sparsecore.runtime.devices import cuda

    sizes, topology = ((60, 40, 20, 10), "random") if results.small() else ((784, 300, 100, 10), "radix")
    problem, device = training_problem(sizes, topology, 0.9, 16 if results.small() else 128), cuda()
    device_step(problem, device)
    cupy.cuda.runtime.profilerStart()
    loss = device_step(problem, device)
    cupy.cuda.runtime.profilerStop()
    if not np.isfinite(loss):
        raise SystemExit(f"the loss of a step is {loss}")


def device_step(problem: Any, device: Any) -> float:
    """The first step of a new network on uint8 samples, which is launched plainly; its mean loss."""
    from sparsecore.data.batches import Batches
    from sparsecore.data.dataset import Split
    from sparsecore.training.optimizers import SGD
    from sparsecore.training.step import Step

    network = problem.network().to(device)
    x = np.random.default_rng(0).integers(0, 256, problem.x.shape).astype(np.uint8)
    store = Batches(Split(x, problem.labels), (x.shape[1],), [0.3], [0.3], device)
    step = Step(network, store, SGD(problem.rate, 0.9))
    step.run(0, len(x))
    return step.totals().mean_loss


if __name__ == "__main__":
    main()
