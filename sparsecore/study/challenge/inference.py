"""All samples through all layers: a window of layers at a time, and each thread with samples of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...kernels.layout import LANES
from ...kernels.tuning import PEN_LINES, WINDOW_BYTES
from .flow import Flow, Herd, Passed
from .inputs import Inputs
from .networks import Weights
from .packed import Packed, packed

Array = NDArray[Any]
Tell = Callable[[str, int, int], None]


class Answer(NamedTuple):
    """What a network says of its inputs, and what that took.

    Attributes
    ----------
    categories : int64 array
        The samples that are left after the last layer, in order.
    lives : int64 array, shape (layers,)
        How many there were after each layer.
    connections : int64 array, shape (layers,)
    samples : int
    seconds : list of float
        Of each repeat.
    making : float
        Seconds in which layers were generated, or read, and ordered.
    window : (int, int)
        The most layers that were in memory at a time, and their bytes.
    pens : int
        Bytes of what threads compute in.
    """

    categories: Array
    lives: Array
    connections: Array
    samples: int
    seconds: list[float]
    making: float
    window: tuple[int, int]
    pens: int

    @property
    def median(self) -> float:
        """Seconds, the median of the repeats."""
        return median(self.seconds)

    @property
    def worked(self) -> int:
        """Connections of inputs that were alive before their layer."""
        alive = np.concatenate([[self.samples], self.lives[:-1]])
        return int(alive @ self.connections)

    @property
    def nominal(self) -> int:
        """Connections of all inputs, alive or dead: the challenge's counting."""
        return self.samples * int(self.connections.sum())


def infer(
    inputs: Inputs, network: Iterator[Weights], bias: float, *, threads: int = 1, repeats: int = 1,
    window: int = WINDOW_BYTES, tell: Tell = lambda what, done, total: None,
) -> Answer:  # fmt: skip
    """Send the inputs through a network that is made while they go.

    Parameters
    ----------
    inputs : Inputs
    network : iterator of Weights
        At least one layer.
    bias : float
        Of every neuron: added to each sum that is not zero.
    threads : int
        Each takes samples of its own, so that results have the same bits for any number.
    repeats : int
        How often each window is gone through and timed.
    window : int
        Bytes of layers that are in memory at a time; at least one layer is.
    tell : callable
        Is told "layers", how many have been made, and 0; and "samples", how many have gone through a window, in all
        repeats, and how many will.
    """
    place: Array = np.arange(inputs.neurons)
    bits: Array | None = inputs.words
    herds = _all(inputs)
    lives: list[Array] = []
    connections: list[int] = []
    seconds, making, most, pens = np.zeros(repeats), 0.0, (0, 0), 0
    while True:
        began = perf_counter()
        layers: list[Packed] = []
        held = 0
        while held < window and (weights := next(network, None)) is not None:
            layer = packed(weights, place, PEN_LINES)
            layers.append(layer)
            held += layer.nbytes
            place = np.argsort(layer.order)
            connections.append(len(layer.data))
            tell("layers", len(connections), 0)
        making += perf_counter() - began
        if not layers:
            break
        flows = [Flow(layers, len(lives), bias, bits) for _ in range(threads)]
        most, pens = max(most, (len(layers), held)), max(pens, sum(flow.nbytes for flow in flows))
        count = sum(len(herd.names) for herd in herds)
        for repeat in range(repeats):
            taken = partial(_taken, herds, tell, repeat * count, repeats * count)
            took, found = _timed(flows, taken)
            seconds[repeat] += took
        lives += list(np.sum([passed.lives for passed in found], axis=0))
        herds, bits = [herd for passed in found for herd in passed.left], None
    names = [herd.names for herd in herds]
    left = np.sort(np.concatenate(names)) if names else np.empty(0, np.int64)
    return Answer(
        left, np.array(lives), np.array(connections), inputs.samples, list(seconds), making, most, pens
    )  # fmt: skip


def _all(inputs: Inputs) -> list[Herd]:
    lanes = PEN_LINES * LANES
    every = np.arange(inputs.samples)
    return [Herd(every[first : first + lanes], None) for first in range(0, inputs.samples, lanes)]


def _taken(herds: list[Herd], tell: Tell, done: int, total: int) -> Iterator[Herd]:
    """The herds one by one, each told of before it is taken."""
    for herd in herds:
        tell("samples", done, total)
        done += len(herd.names)
        yield herd


def _timed(flows: list[Flow], taken: Callable[[], Iterator[Herd]]) -> tuple[float, list[Passed]]:
    """Seconds that all samples took through a window, and what came of them in each thread."""
    began = perf_counter()
    queue = Queue(taken())
    with ThreadPoolExecutor(len(flows)) as pool:
        others = [pool.submit(flow.run, queue) for flow in flows[1:]]
        try:
            found = [flows[0].run(queue), *(other.result() for other in others)]
        finally:
            queue.close()  # where an interrupt ends it: others stop after what they have begun
    return perf_counter() - began, found


class Queue:
    """What several threads take from one iterator."""

    def __init__(self, source: Iterator[Herd]) -> None:
        self._source, self._lock, self._open = source, Lock(), True

    def __iter__(self) -> Iterator[Herd]:
        return self

    def __next__(self) -> Herd:
        with self._lock:
            if not self._open:
                raise StopIteration
            return next(self._source)

    def close(self) -> None:
        """Give nothing any more."""
        self._open = False
