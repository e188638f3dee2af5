"""What a run will take of memory, said before any of it is taken; a run that does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ..console.arguments import UsageError
from ..data.outline import Outline, outline
from ..network import Network
from ..runs.config import RunConfig
from ..runtime import memory
from ..runtime.ranks import Ranks
from ..runtime.tiles import LANES
from ..storage.pattern import SparsityPattern
from ..storage.sizes import Pair
from ..topology.wiring import Link
from ..training.loop import check_batches
from ..training.needs import LayerNeeds, Needs, needs
from .configured import augmentation_of, of_a_field, optimizer_of, rates_of, wiring_of
from .recipes import fitted, model_of, resolved

PROGRAM = 158_000_000
"""Bytes of Python, its libraries and the compiled kernels."""

ROW = 64
"""Bytes of a layer's output without any connections: its bias with gradient and state, and where its row begins."""


@dataclass(frozen=True)
class Plan:
    """What a run will take, and what there is.

    Attributes
    ----------
    config : RunConfig
        As the run would have it.
    needs : Needs
        Of one rank.
    ranks : int
        That share the machine's memory.
    available : int or None
        Bytes that each of them can have, what this process has of its program included; None where the system does
        not tell.
    batch_that_fits : int or None
        Of a run that does not fit: a batch that would, 0 if none. None of a run that fits.
    """

    config: RunConfig
    needs: Needs
    ranks: int = 1
    available: int | None = None
    batch_that_fits: int | None = None

    @property
    def total(self) -> int:
        """Bytes of this machine's memory that one rank takes, the program's own included."""
        return PROGRAM + (self.needs.total if self.on_cpu else self.needs.host)

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes."""
        return not self.config.device.startswith("cuda")

    @property
    def fits(self) -> bool:
        """Whether there is enough memory, as far as the system tells."""
        return self.available is None or self.total <= self.available

    @property
    def refusal(self) -> str:
        """Why a run that does not fit is refused, and what would fit; one line."""
        each = f" for each of {self.ranks} ranks" if self.ranks > 1 else ""
        why = f"the run takes about {self.total:,} bytes of memory{each}, and {self.available:,} are available: "
        if self.batch_that_fits:
            return f"{why}a batch of {self.batch_that_fits} would fit (--batch-size {self.batch_that_fits})"
        return f"{why}no batch size would fit; ask for fewer connections"

    def record(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        own = vars(self.needs) | {"layers": [each._asdict() for each in self.needs.layers]}
        device = {} if self.on_cpu else {"on_device": self.needs.computing}
        return {"model": self.config.model, "dataset": self.config.dataset, "ranks": self.ranks, **own,
                "program": PROGRAM, "total": self.total, **device, "available": self.available,
                "fits": self.fits, "batch_that_fits": self.batch_that_fits}  # fmt: skip

    def lines(self) -> list[str]:
        """A table for people, in millions of bytes."""
        found = self.needs
        rows: list[tuple[str, ...]] = [("layer", "connections", "parameters and state", "pattern", "activations")]
        rows += [
            (each.path, f"{each.connections:,}", *map(_millions, (each.numbers, each.pattern, each.activations)))
            for each in found.layers
        ]
        sums = [sum(getattr(each, name) for each in found.layers) for name in LayerNeeds._fields[1:]]
        rows.append(("all layers", f"{sums[0]:,}", *map(_millions, sums[1:])))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        others = {
            "batches and loss": found.step, "evaluation": found.evaluation, "data set": found.samples,
            "data set as steps read it": found.batches, "changes of structure": found.change,
            "while plans are made": found.making, "program": PROGRAM,
        }  # fmt: skip
        width = max(map(len, others))
        said = [f"{name.ljust(width)}  {_millions(nbytes):>9}" for name, nbytes in others.items()]
        whole = f"{_millions(self.total)} MB at most" + (f" for each of {self.ranks} ranks" if self.ranks > 1 else "")
        on_gpu = "" if self.on_cpu else f", and {_millions(found.computing)} MB on {self.config.device}"
        there = "unknown" if self.available is None else f"{_millions(self.available)} MB"
        title = f"{self.config.model} on {self.config.dataset}, batches of {found.batch_size}: memory in MB"
        return [title, *table, *said, f"takes {whole}{on_gpu}; available: {there}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"Plan({self.config.model}, batches of {self.needs.batch_size}, {_millions(self.total)} MB)"


def plan(config: RunConfig, *, ranks: int = 1) -> Plan:
    """What a run will take of memory. Nothing of it is taken; a data set of one's own is read, to know its sizes.

    Parameters
    ----------
    config : RunConfig
        Its batch size is that of a rank.
    ranks : int
        Processes that train together on this machine, each with all of the network.

    Raises
    ------
    ConfigError
        If the configuration cannot be followed; one line that names the field.
    DataError, CheckpointError
        If a file cannot be used.
    """
    config = resolved(config)
    sizes = outline(str(config.dataset), data_dir=config.data_dir, target=config.target, loss=config.loss)
    network = None
    if config.start_from is not None:
        from ..runs.checkpoint import read

        network = read(config.start_from).network
    try:
        found = _advised(planned(config, sizes, network, ranks), sizes, network)
    except ValueError as error:
        raise of_a_field(error) from None
    if ranks == 1:
        _check_times(found.config, sizes.train - round(config.validation * sizes.train))
    return found


def _check_times(config: RunConfig, samples: int) -> None:
    """Refuse a run whose steps do not hold what it is to do in them, as it would itself."""
    assert config.batch_size is not None and config.epochs is not None
    steps, pruning = -(-samples // config.batch_size), None
    if config.prune is not None:
        from .pruning import Pruning

        pruning = Pruning(config, steps * config.epochs)
    elif config.rewire is not None:
        from .rewiring import schedule_of_moves

        schedule_of_moves(config, steps * config.epochs)
    rates_of(config, steps, pruning)


def of_a_rank(config: RunConfig, ranks: Ranks | None) -> tuple[RunConfig, int]:
    """A run as each of its ranks makes it, with the largest part of a batch, and how many share this machine."""
    if ranks is None:
        return config, 1
    if config.batch_size is not None:
        config = replace(config, batch_size=-(-config.batch_size // ranks.size))
    return config, ranks.here


def check(config: RunConfig, ranks: int, sizes: Outline, network: Network | None = None) -> None:
    """Refuse a run that does not fit into memory, before any of it is made.

    Raises
    ------
    UsageError
        One line that names a batch that would fit, or says that none would.
    """
    found = _advised(planned(config, sizes, network, ranks), sizes, network)
    if not found.fits:
        raise UsageError(found.refusal)


def _advised(found: Plan, sizes: Outline, network: Network | None) -> Plan:
    """A plan that says which batch would fit, if it does not fit itself."""
    if found.fits:
        return found
    low, high = 0, -(-found.needs.batch_size // LANES)
    while high - low > 1:  # a batch of `low` tiles fits, if that is not 0; one of `high` does not
        middle = (low + high) // 2
        fits = planned(found.config, sizes, network, found.ranks, middle * LANES, found.available).fits
        low, high = (middle, high) if fits else (low, middle)
    return replace(found, batch_that_fits=low * LANES)


def planned(
    config: RunConfig, sizes: Outline, network: Network | None = None, ranks: int = 1, batch_size: int | None = None,
    available: int | None = None,
) -> Plan:  # fmt: skip
    """The plan of a resolved configuration, for data of these sizes and, if it starts from one, a network."""
    held_out = round(config.validation * sizes.train)
    if None in (config.epochs, config.batch_size, config.warm_up):
        config = fitted(config, sizes.train - held_out)
    assert config.batch_size is not None
    batch = min(batch_size if batch_size is not None else config.batch_size, sizes.train - held_out)
    if network is not None:
        connections: dict[str, int] | None = None
        wired: Sequence[str] = network.sparse
    else:
        network, connections, wired = _unwired(config, sizes)
    network.to(activations=config.activations)
    samples = sizes.train - held_out
    check_batches(network, samples, batch, samples % batch or batch)
    moving = config.rewire is not None
    optimizer = optimizer_of(config)
    found = needs(
        network, sizes, optimizer, batch_size=batch, connections=connections, held_out=held_out,
        alike=prod(config.radix[0]) if config.radix is not None else 1,
        augment=augmentation_of(config, sizes.shape), device="cpu" if config.device in ("cpu", "auto") else "cuda",
        moving=(tuple(wired) if moving else (), (1, 1)), changing=_changing(config, wired),
    )  # fmt: skip
    return Plan(config, found, ranks, available if available is not None else _available(ranks))


def _available(ranks: int) -> int | None:
    """Bytes that each of so many ranks can have: what of the program is there already is planned too."""
    left = memory.available(ranks)
    return None if left is None else left + min(memory.resident(), PROGRAM)


def _unwired(config: RunConfig, sizes: Outline) -> tuple[Network, dict[str, int], list[str]]:
    """The model's network without any connections, how many each layer will have, and which layers are wired."""
    model, wiring = model_of(config), wiring_of(config)
    own = {name: getattr(config, name) for name in model.own}
    hidden = config.hidden if config.hidden is not None else model.hidden
    if config.radix is not None and config.widths is not None:
        if len(config.widths) != 1 + len(hidden):  # patterns say what is wrong, before any is made
            wiring.patterns(model.links(sizes.shape, every=config.sparse_all, classes=sizes.classes, hidden=hidden,
                                        **own), 0)  # fmt: skip
        hidden = tuple(prod(config.radix[0]) * width for width in config.widths[1:])
    given: Any = {"classes": sizes.classes, "hidden": hidden, **own}
    links = model.links(sizes.shape, every=True, **given)
    inner = model.links(sizes.shape, every=config.sparse_all, **given)
    first = next(k for k in range(len(links)) if links[k : k + len(inner)] == inner)
    if (rows := sum(link.outputs for link in links) * ROW) > (memory.available() or rows):
        raise UsageError(f"the outputs of all layers alone take about {rows:,} bytes of memory, more than are "
                         "available: no batch size would fit; ask for fewer")  # fmt: skip
    counts = [prod(_shape(link)) for link in links]
    counts[first : first + len(inner)] = wiring.counts(inner)
    network = model.build(
        [_empty(link) for link in links], sizes.shape, classes=sizes.classes, every=True, format=config.format,
        seed=config.seed, **own,
    )  # fmt: skip
    paths = list(network.patterns)
    return network, dict(zip(paths, counts, strict=True)), paths[first : first + len(inner)]


def _shape(link: Link) -> Pair:
    return link.outputs, link.inputs * prod(link.kernel_size)


def _empty(link: Link) -> SparsityPattern:
    return SparsityPattern(_shape(link), np.zeros(link.outputs + 1, np.int32), np.zeros(0, np.int32))


def _changing(config: RunConfig, wired: Sequence[str]) -> Any:
    """Which layers' connections change in the run, and how many are left by the largest change, as `needs` takes it."""
    if config.prune is None and config.rewire is None:
        return None
    return tuple(wired), config.rewire is not None


def _millions(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f}"
