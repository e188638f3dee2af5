"""`python -m sparsecore.evaluate`: its arguments, the evaluation, and the lines that it prints."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from ..console.arguments import CACHE, Parser
from ..data import Dataset, load
from ..data.normalisation import Normalisation
from ..errors import figure
from ..network import Network
from ..runs.checkpoint import read
from ..runs.config import dataset_in
from ..runs.kinds import DEVICE, NAME, THREADS, typed
from ..runs.strict import as_line
from ..runtime.devices import set_threads
from ..training.divergence import NotFiniteError
from ..training.evaluation import Evaluation, check_fit
from ..training.step import Totals
from .latency import Latency, latencies

PROGRAM = "python -m sparsecore.evaluate"
EXAMPLE = f"{PROGRAM} runs/radix"


class Arguments(NamedTuple):
    """What stood on the command line."""

    path: str
    dataset: str | None = None
    data_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"
    latency: bool = False
    json: bool = False


def evaluated(arguments: list[str]) -> list[str]:
    """Evaluate as a command line says; returns the lines to print. Raises ValueError."""
    asked = parser()
    given = Arguments(**vars(asked.parse_args(arguments)))
    checkpoint = read(given.path)
    name = given.dataset or dataset_in(checkpoint.state.get("config"))
    if name is None:
        asked.error(f"{given.path} does not say what it was trained on: say --dataset")
    dataset = load(name, data_dir=given.data_dir)
    if given.threads is not None:
        set_threads(given.threads)
    totals = totals_of(checkpoint.network, dataset, given.device)
    found = latencies(_normalising(checkpoint.network, dataset), dataset) if given.latency else []
    return _lines(checkpoint.network, dataset, totals, found, as_json=given.json)


def totals_of(network: Network, dataset: Dataset, device: str) -> Totals:
    """Loss and accuracy of a network on a test split.

    Raises
    ------
    ValueError
        If they do not fit.
    NotFiniteError
        If parameters or the loss are not finite: there is no answer of such a network that could be right or wrong.
    """
    check_fit(network, dataset)
    network.to(device)
    totals = Evaluation(network, dataset.test, _normalisation(network, dataset), network.device)()
    if not isfinite(totals.loss):
        raise NotFiniteError(
            f"{network!r} cannot be evaluated on {dataset.name}: its loss is {totals.loss}, so its outputs are too "
            f"large for {network.dtype}"
        )
    return totals


def _normalisation(network: Network, dataset: Dataset) -> Normalisation:
    """The network's, or else the data set's."""
    return network.normalisation or Normalisation(dataset.shape, dataset.mean, dataset.std)


def _normalising(network: Network, dataset: Dataset) -> Network:
    """The network, which takes the data set's samples as they are stored."""
    network.normalisation = _normalisation(network, dataset)
    return network


def parser() -> Parser:
    """The parser of this command."""
    made = Parser(PROGRAM, "Evaluate a trained network on a test split.", EXAMPLE)
    made.add_argument("path", metavar="DIR", help="a run's folder, or a .safetensors file")
    made.add_argument("--dataset", type=typed(NAME), help="the run's own if not given")
    made.add_argument("--data-dir", help=CACHE)
    made.add_argument("--threads", type=typed(THREADS), help="on a CPU: one for each core if not given")
    made.add_argument("--device", type=typed(DEVICE), help="as for python -m sparsecore.train; cpu if not given")
    made.add_argument(
        "--latency", action="store_true", help="also how long it takes to answer 1, 16 and 256 samples, compiled"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _lines(
    network: Network, dataset: Dataset, totals: Totals, found: list[Latency], *, as_json: bool
) -> list[str]:
    if as_json:
        record = {
            "dataset": dataset.name,
            "source": dataset.source,
            "samples": totals.samples,
            "test_accuracy": totals.accuracy,
            "test_loss": totals.mean_loss,
            "connections": network.connections,
            "sparsity": network.sparsity,
        }
        return [as_line(record | ({"latency": [each.record() for each in found]} if found else {}))]
    answer = (
        f"test accuracy {totals.accuracy:.2%}, loss {figure(totals.mean_loss, '.4f')}; {network.connections:,} "
        f"connections, sparse layers {network.sparsity:.1%} sparse"
    )
    return [dataset.source, answer, *(each.line() for each in found)]
