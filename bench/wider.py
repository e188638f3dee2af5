"""What width costs at a fixed number of connections: whole steps of a ResNet-20 made wider, with activations in float32
and in bfloat16, in turns: `python -m bench.wider --threads 2`."""

from __future__ import annotations

import argparse

from sparsecore.study.making.scale import RESNET20
from sparsecore.study.studies.equal import sparsity_at

from .deep_problem import deep_problem
from .engines.sparsecore import Step
from .environment import settle
from .tables import markdown
from .timing import Budget, interleaved

NETWORKS = ((1, "dense"), (2, "random"), (3, "random"), (3, "rows:4"), (3, "block:4,4"))
"""By how much each is wider, and how it is wired."""
ACTIVATIONS = ("float32", "bfloat16")


def main(threads: int = 1, *, quick: bool = False) -> None:
    batch, budget = (16, Budget(0, 1, 0)) if quick else (128, Budget(12, 6))
    named, steps = [], []
    for width, topology in NETWORKS:
        sparsity = sparsity_at(RESNET20, width) if width > 1 else 0.0
        problem = deep_problem("resnet20", topology, sparsity, batch, width)
        named.append([f"{width}×", topology, f"{sparsity:.1%}", f"{problem.connections:,}"])
        steps += [Step(problem, threads, activations=kind) for kind in ACTIVATIONS]
    times = interleaved([step.run for step in steps], budget)
    body = []
    for k, names in enumerate(named):
        wide, half = times[2 * k : 2 * k + 2]
        body.append([*names, f"{wide:.0f}", f"{half:.0f}", f"{wide / times[0]:.2f}×", f"{half / times[1]:.2f}×"])
    head = [
        "width",
        "wired",
        "sparse layers",
        "connections",
        *ACTIVATIONS,
        *(f"{kind} over dense" for kind in ACTIVATIONS),
    ]
    print(markdown(f"A step of ResNet-20, batch {batch}, {threads} thread{'s' * (threads > 1)}, ms", head, body))


if __name__ == "__main__":
    command = argparse.ArgumentParser(prog="python -m bench.wider", description=__doc__)
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--quick", action="store_true", help="a look at whether it runs")
    given = command.parse_args()
    settle(given.threads)
    main(given.threads, quick=given.quick)
