"""What a training step costs a GPU, on paper. `python -m tests.cuda.cost` prints the tables of kernels/cuda/README.md.

Bytes are counted on the emulated device, registers and occupancy are the compiler's; times are predicted from the
figures of two cards and have never been measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from sparsecore.models.lenet300 import SIZES, lenet300

from bench.on_card.cards import H100, T4, Card
from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.network import Network
from sparsecore.runtime.devices import CUDA
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import fit_radix_net, uniform_random
from sparsecore.training.losses import CrossEntropy
from sparsecore.training.optimizers import SGD

from . import nvrtc
from .emulator import stand_in
from .machines import machine

LANES, BATCH = 16, 128


CARDS = (H100, T4)


class Launch(NamedTuple):
    """One launch of a step: what it was asked to do, which kernel did, the bytes it read and wrote, its operations."""

    what: str
    kernel: str
    read: int
    written: int
    flops: int


def step_launches(network: Network, batch: int, optimizer: SGD) -> list[Launch]:
    """All launches of one training step, in order, on the emulated device."""
    found: list[Launch] = []
    with machine("forward", checking=True) as device, _listed(found, device) as kernels:
        network.to(device)
        shape, workspace = network.layers[0].in_shape, Workspace(device, kernels)
        samples = Split(np.zeros((batch, prod(shape)), np.uint8), np.zeros(batch, np.int32))
        store = Batches(samples, shape, [0.3], [0.3], device)
        grads = device.zeros(network.params.shape, network.dtype)
        for path, pieces in network.views(grads).items():
            for name, piece in pieces.items():
                workspace.at(path).put(name, piece)
        x, labels = store.pack(workspace)
        logits, caches = network.forward(x, workspace)
        network.backward(CrossEntropy()(logits, labels, workspace), caches, workspace)
        optimizer.step(network.params, grads, workspace)
        network.to("cpu")
        optimizer.to("cpu")
    return found


@contextlib.contextmanager
def _listed(found: list[Launch], device: CUDA) -> Iterator[Any]:
    """A launcher whose launches are counted and listed."""
    now = ["", 0]

    class Listing:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any, **named: Any) -> None:
                flops = 0
                if name in ("spmm", "sddmm"):
                    grid = arguments[1]
                    connections = (arguments[2] if name == "spmm" else arguments[4]).size
                    flops = 2 * connections * grid.outer * grid.ys * grid.lines * LANES
                now[:] = name, flops
                getattr(device.launcher(), name)(*arguments, **named)

            return call

    plain = stand_in.RawKernel._launch

    def counted(kernel: Any, *arguments: Any) -> None:
        with stand_in.sectors() as sectors:
            plain(kernel, *arguments)
        found.append(Launch(now[0], kernel.name, 32 * sectors[0], 32 * sectors[1], now[1]))
        now[1] = 0

    stand_in.RawKernel._launch = counted  # type: ignore[method-assign]
    try:
        yield Listing()
    finally:
        stand_in.RawKernel._launch = plain  # type: ignore[method-assign]


def dense_seconds(sizes: tuple[int, ...], batch: int, card: Card) -> tuple[int, float]:
    """Launches and time of the dense step by cuBLAS: at the card's full rate, with nothing but products and one launch
    for each of bias and ReLU, their gradients, the loss and the update."""
    pairs = list(pairwise(sizes))
    products = [(a, b) for a, b in pairs] * 2 + pairs[1:]
    others = 2 * len(pairs) + 2
    times = [card.seconds(4 * (a * b + batch * (a + b)), 2 * batch * a * b) for a, b in products]
    return len(products) + others, sum(times) + others * card.launch


def step_table(network: Network, sizes: tuple[int, ...], batch: int) -> str:
    """One row a launch."""
    launches = step_launches(network, batch, SGD(0.1, 0.9))
    lines = [
        "| launch | kernel | KB read | KB written | MFLOP | registers | occupancy | µs H100 | µs T4 |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    totals = [0.0, 0.0]
    for each in launches:
        times = [card.seconds(each.read + each.written, each.flops) for card in CARDS]
        totals = [total + seconds for total, seconds in zip(totals, times, strict=True)]
        compiled = [_compiled(each.kernel, card.arch) for card in CARDS]
        registers = ", ".join(str(one.registers) for one in compiled)
        occupancy = ", ".join(f"{one.occupancy(card.arch):.0%}" for one, card in zip(compiled, CARDS, strict=True))
        lines.append(
            f"{traffic(each)} {registers} | {occupancy} | "
            + " | ".join(f"{1e6 * seconds:.1f}" for seconds in times) + " |"
        )  # fmt: skip
    read, written = sum(each.read for each in launches), sum(each.written for each in launches)
    flops = sum(each.flops for each in launches)
    lines.append(
        f"| {len(launches)} launches | | {read / 1e3:,.0f} | {written / 1e3:,.0f} | {flops / 1e6:.1f} | | | "
        + " | ".join(f"{1e6 * total:.0f}" for total in totals) + " |"
    )  # fmt: skip
    dense = [dense_seconds(sizes, batch, card) for card in CARDS]
    lines.append(
        f"| dense, by cuBLAS: {dense[0][0]} launches | | | | {_dense_flops(sizes, batch) / 1e6:.1f} | | | "
        + " | ".join(f"{1e6 * seconds:.0f}" for _, seconds in dense) + " |"
    )  # fmt: skip
    return "\n".join(lines)


def traffic(launch: Launch) -> str:
    """The beginning of a row: what does not depend on a compiler."""
    kilobytes = f"{launch.read / 1e3:,.1f} | {launch.written / 1e3:,.1f}"
    return f"| {launch.what} | {launch.kernel} | {kilobytes} | {launch.flops / 1e6:.2f} |"


def region_table(batch: int) -> str:
    """Where gather is no longer bound by its launch, and where it overtakes a dense product."""
    rows: dict[str, list[str]] = {}
    for card in CARDS:
        for together, name in ((1, "rows that share nothing"), (4, "groups of four rows")):
            connection = batch * 4 / together / card.cache  # one run of x for each connection of a group
            even = max(0.0, 1 - 2 * batch / card.flops / connection)
            for what, figure in (
                ("a connection, ps", f"{1e12 * connection:.0f}"),
                ("bound by its launch below, connections", f"{card.launch / connection:,.0f}"),
                ("ahead of a dense product at full rate from a sparsity of", f"{even:.0%}"),
            ):
                rows.setdefault(f"{name}: {what}", []).append(figure)
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    names = " | ".join(card.name for card in CARDS)
    return "\n".join([f"| gather at batch {batch} | {names} |", "|---|--:|--:|", *lines])


def _dense_flops(sizes: tuple[int, ...], batch: int) -> int:
    pairs = list(pairwise(sizes))
    return 2 * batch * (3 * sum(a * b for a, b in pairs) - pairs[0][0] * pairs[0][1])


def _compiled(name: str, arch: str) -> nvrtc.Kernel:
    family = next(family for family in nvrtc.FAMILIES if name in nvrtc.compiled(family, 4, arch))
    return nvrtc.compiled(family, 4, arch)[name]


def wirings() -> dict[str, list[SparsityPattern]]:
    """How LeNet-300-100 is wired in the tables."""
    rng = np.random.default_rng(0)
    return {
        "random 90%": [uniform_random(300, 784, 0.9, rng), uniform_random(100, 300, 0.9, rng)],
        "RadiX-Net 90%": list(fit_radix_net([[10, 10]], SIZES[:-1]).patterns),
    }


def main() -> None:
    for name, wiring in wirings().items():
        print(f"A step of LeNet-300-100, {name}, batch {BATCH}, float32:\n")
        print(step_table(lenet300(wiring), SIZES, BATCH) + "\n")
    print(region_table(BATCH))


if __name__ == "__main__":
    main()
