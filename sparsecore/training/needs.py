"""What a run will take of memory, found by recording its steps on paper: nothing that is counted is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..data.augmentation import Augmentation
from ..data.normalisation import Normalisation
from ..data.outline import Outline
from ..layers.layer import Layer
from ..layers.sparse import SparseLayer
from ..network import Network
from ..runtime.paper import Paper, bytes_of, sized
from ..runtime.recording import shallow
from ..storage.conv_plan import ConvPlan
from ..storage.counted import CountedPattern, arrays_of, counted
from .evaluation import Evaluation, loss_of, store_of
from .optimizers import Optimizer
from .step import Step

Moving = tuple[tuple[str, ...], tuple[int, int]]
Changing = tuple[tuple[str, ...], bool]


class LayerNeeds(NamedTuple):
    """What one layer takes, in bytes.

    Attributes
    ----------
    path : str
    connections : int
    numbers : int
        Parameters, their gradients and the optimizer's columns, and what else the table keeps.
    pattern : int
        Which connections there are, and how they are walked forward and back.
    activations : int
        Buffers of a step, of all batch sizes of an epoch.
    """

    path: str
    connections: int
    numbers: int
    pattern: int
    activations: int


@dataclass(frozen=True)
class Needs:
    """What a run takes of memory, in bytes.

    Attributes
    ----------
    batch_size : int
        Samples of a step, of each rank.
    layers : tuple of LayerNeeds
    step : int
        Buffers of a step that are no layer's: the packed batch, its labels, the loss.
    evaluation : int
        Buffers of evaluations.
    batches : int
        Samples and labels as steps read them.
    samples : int
        The data set as it was loaded, which stays on the host.
    change : int
        What a change of structure needs while it lasts, and what is kept for it.
    making : int
        What is needed beside, and only before the first step, while patterns are bound to their uses.
    """

    batch_size: int
    layers: tuple[LayerNeeds, ...]
    step: int
    evaluation: int
    batches: int
    samples: int
    change: int
    making: int

    @property
    def computing(self) -> int:
        """On the device that computes, while the run trains: what lies on a GPU, if it is one."""
        own = sum(each.numbers + each.pattern + each.activations for each in self.layers)
        return own + self.step + self.evaluation + self.batches

    @property
    def host(self) -> int:
        """On the host of a GPU: the data set, the patterns, and what changes of structure take."""
        return self.samples + self.change + self.making + sum(each.pattern for each in self.layers)

    @property
    def total(self) -> int:
        """At the largest moment of a run on the CPU: before the first step, when nothing has touched the buffers of
        steps, or in training."""
        kept = self.samples + self.batches + sum(each.numbers + each.pattern for each in self.layers)
        return max(kept + self.making, self.samples + self.computing + self.change)


def needs(
    network: Network, data: Outline, optimizer: Optimizer, *, batch_size: int, connections: Mapping[str, int] | None =
    None, alike: int = 1, held_out: int = 0, augment: Augmentation | None = None, device: str = "cpu",
    moving: Moving = ((), (1, 1)), changing: Changing | None = None,
) -> Needs:  # fmt: skip
    """What training a network on data of these sizes takes.

    Parameters
    ----------
    network : Network
        Nothing of it is copied, and its arrays are not read.
    data : Outline
    optimizer : Optimizer
        Stays as it is.
    batch_size : int
        Of a rank.
    connections : mapping of path to int, optional
        How many each layer will have; as many as it has if not given.
    alike : int
        How many rows of a layer that is not full share their columns, as a RadiX-Net's do.
    held_out : int
        Training samples of the validation split.
    augment : Augmentation, optional
    device : str
        "cpu", or "cuda", which need not be there.
    moving : (paths, (int, int))
        The layers whose connections move, and how many neighbours move together: see `Network.let_move`.
    changing : (paths, bool), optional
        The layers that lose connections in the run, or whose connections move, which the second says.
    """
    paper = Paper(device)
    twin = on_paper(network, paper, connections, alike, moving)
    normalisation = _normalisation(data)
    answers = None if not data.numbers else network.answers
    train = data.split(data.train - held_out)
    splits = [data.split(count) for count in (held_out, data.test) if count]
    learns = shallow(optimizer)
    learns.columns, learns._device = {}, None
    batches = store_of(twin, train, normalisation, paper, augment, answers=answers)
    step = Step(twin, batches, learns, paper, loss=loss_of(answers))
    for size in {batch_size, len(train) % batch_size or batch_size}:
        step.prepare(size)
    evaluations = [Evaluation(twin, split, normalisation, paper, answers) for split in splits]
    for each in evaluations:
        each.prepare()
    layers = tuple(_layers(twin, step, 2 + len(learns.columns)))
    buffers = sum(bytes_of(each.arrays()) for each in step._workspaces.values())
    return Needs(
        batch_size, layers, buffers - sum(each.activations for each in layers),
        sum(bytes_of(each.arrays()) for every in evaluations for each in every._step._workspaces.values()),
        sum(bytes_of(vars(each).values()) for each in (batches, *(every._batches for every in evaluations))),
        sum(data.nbytes(count) for count in (data.train, data.test)), _change(twin, len(learns.columns), changing),
        max((_making(layer) for _, layer in twin.walk()), default=0),
    )  # fmt: skip


def answering(network: Network, data: Outline) -> int:
    """Bytes that it takes to evaluate a network on a test split and to ask it for probabilities, beside both.

    Nothing of it is taken, and the network stays as it is.
    """
    paper = Paper()
    twin = on_paper(network, paper, None, 1, ((), (1, 1)))
    split, normalisation = data.split(data.test), _normalisation(data)
    asked = Evaluation(twin, split, normalisation, paper, network.answers if data.numbers else None)
    asked.prepare()
    buffers = bytes_of(array for each in asked._step._workspaces.values() for array in each.arrays())
    plans = bytes_of(array for _, layer in twin.walk() for array in arrays_of(getattr(layer, "plan", ())))
    return 2 * buffers + plans + bytes_of(vars(asked._batches).values())


def on_paper(
    network: Network, device: Paper, connections: Mapping[str, int] | None, alike: int, moving: Moving
) -> Network:
    """A twin of a network with as many connections a layer, none of whose arrays is in memory."""
    twin = shallow(network)
    patterns = network.patterns
    counts = {path: pattern.nnz for path, pattern in patterns.items()} | dict(connections or {})
    twin.root = _twin(network.root, device)
    twin._by_path = twin._tree()
    for path, count in counts.items():
        layer, (paths, together) = twin._sparse_layer(path), moving
        pattern = CountedPattern(layer.pattern.shape, count, alike)
        plan = layer.plan_of(pattern, moving=path in paths, together=together if path in paths else (1, 1))
        layer.take_pattern(pattern, counted(plan))
        layer.params["weight"] = sized((count,), network.dtype)
    vars(twin).pop("table")
    twin.flatten()
    return twin


def _normalisation(data: Outline) -> Normalisation:
    """One such as the data's, whose numbers do not matter."""
    return Normalisation(data.shape, (0.5,) * data.channels, (1.0,) * data.channels, data.dtype)


def _twin(layer: Layer, device: Paper) -> Any:
    """A layer, and all that it holds, with arrays on paper."""
    twin = shallow(layer)
    for name, value in vars(layer).items():
        if isinstance(value, Layer):
            vars(twin)[name] = _twin(value, device)
    if layer.children:
        twin.children = {name: _twin(child, device) for name, child in layer.children.items()}
        if hasattr(layer, "layers"):
            twin.layers = list(twin.children.values())
    twin.params = {name: device.put(array) for name, array in layer.params.items()}
    if layer.kept:
        twin.kept = {name: device.put(array) for name, array in layer.kept.items()}
    twin._device = device
    return twin


def _layers(network: Network, step: Step, columns: int) -> Iterator[LayerNeeds]:
    """The leaves of the tree, in order; `columns` as wide as the parameters, one of them the gradients."""
    for path, layer in network.walk():
        if layer.children:
            continue
        pattern = getattr(layer, "pattern", None)
        trained, kept = (sum(array.nbytes for array in arrays.values()) for arrays in (layer.params, layer.kept))
        found = {id(array): array for each in ("pattern", "plan") for array in arrays_of(getattr(layer, each, ()))}
        activations = sum(bytes_of(each.at(path).arrays()) for each in step._workspaces.values())
        yield LayerNeeds(
            path, 0 if pattern is None else pattern.nnz, trained * columns + kept, bytes_of(found.values()), activations
        )


def _making(layer: Layer) -> int:
    """Bytes that are needed for a moment when a layer's pattern is bound to its use."""
    if not isinstance(layer, SparseLayer):
        return 0
    return layer.pattern.nnz * (CONV_MAKING if isinstance(layer.plan, ConvPlan) else LINEAR_MAKING)


def _change(network: Network, columns: int, changing: Changing | None) -> int:
    """Bytes of a change of structure: where connections come from, and the table's next columns beside the old ones.

    Where connections move, all places that were ever tried are noted too, in bits that are counted as bytes.
    """
    if changing is None:
        return 0
    paths, move = changing
    patterns = [network.patterns[path] for path in paths]
    connections, places = sum(each.nnz for each in patterns), sum(each.shape[0] * each.shape[1] for each in patterns)
    numbers = network.dtype.itemsize * (1 + columns)
    if move:
        return connections * (numbers + 8 + 4) + places // 8 + max(each.nnz for each in patterns) * MOVING
    return connections * (numbers + 8 + 8)


MOVING = 30
"""Bytes a connection while one layer's connections are chosen: candidates, their places and gradients."""
CONV_MAKING, LINEAR_MAKING = 120, 8
"""Bytes a connection while a plan is made: coordinates, orders and offsets of 64 bits, which go afterwards."""
