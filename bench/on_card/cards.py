"""What is published of three cards, and what is assumed: everything that predictions know of hardware."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """A GPU: bytes, operations and seconds.

    Memory, arithmetic and the cache's size are the data sheets'. The second-level cache's rate and the time of a launch
    that does next to nothing, one after another in a CUDA graph, are what others report for such cards: assumptions.

    Attributes
    ----------
    name, arch : str
    memory, cache : float
        Bytes a second, from memory and from the second-level cache.
    holds : float
        Bytes of that cache.
    flops : float
        Operations of float32 a second, without tensor cores.
    launch : float
        Seconds of an empty launch in a graph.
    """

    name: str
    arch: str
    memory: float
    cache: float
    holds: float
    flops: float
    launch: float

    def seconds(self, requested: float, flops: float) -> float:
        """Of a launch whose data are in the second-level cache, as a network of LeNet's size is."""
        return self.launch + max(requested / self.cache, flops / self.flops)


H200 = Card("H200", "sm_90", memory=4.8e12, cache=5.5e12, holds=50e6, flops=67e12, launch=2.0e-6)
H100 = Card("H100", "sm_90", memory=3.35e12, cache=5.5e12, holds=50e6, flops=67e12, launch=2.0e-6)
T4 = Card("T4", "sm_75", memory=0.32e12, cache=1.3e12, holds=4e6, flops=8.1e12, launch=3.0e-6)
CARDS = (H200, H100, T4)


def like(name: str) -> Card | None:
    """The card of which a driver's name, such as "NVIDIA H200", speaks."""
    return next((card for card in CARDS if card.name in name), None)
