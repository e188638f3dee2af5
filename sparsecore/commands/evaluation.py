"""`python -m sparsecore.evaluate`: its arguments, the evaluation, and the lines that it prints."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from ..console.arguments import CACHE, Parser
from ..data import Dataset, load
from ..data.arrays import LOSSES
from ..data.normalisation import Normalisation
from ..data.outline import Outline
from ..errors import figure
from ..network import Network
from ..runs.checkpoint import read
from ..runs.config import activations_in, dataset_in, loading
from ..runs.kinds import ACTIVATIONS, DEVICE, NAME, THREADS, typed
from ..runs.pictures import can_draw
from ..runs.strict import as_line
from ..runtime import memory
from ..runtime.devices import set_threads
from ..training.divergence import NotFiniteError
from ..training.evaluation import Evaluation, as_read_by, check_fit, scores_of
from ..training.needs import answering
from ..training.state import Record
from ..training.step import Totals
from .answers import Answers, check_file, draw
from .latency import Latency, latencies
from .report import score

PROGRAM = "python -m sparsecore.evaluate"
EXAMPLE = f"{PROGRAM} runs/radix"


class Arguments(NamedTuple):
    """What stood on the command line."""

    path: str
    dataset: str | None = None
    target: str | None = None
    loss: str | None = None
    data_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"
    activations: str | None = None
    best: bool = False
    latency: bool = False
    predictions: str | None = None
    plot: str | None = None
    json: bool = False


def evaluated(arguments: list[str]) -> list[str]:
    """Evaluate as a command line says; returns the lines to print. Raises ValueError."""
    asked = parser()
    given = Arguments(**vars(asked.parse_args(arguments)))
    table = check_file("--predictions", given.predictions, (".csv", ".npz")) if given.predictions is not None else None
    picture = check_file("--plot", given.plot, (".png",)) if given.plot is not None else None
    if picture is not None and not can_draw():
        raise ValueError("--plot: needs matplotlib, not installed here: pip install 'sparsecore[plot]'")
    checkpoint = read(given.path, best=given.best)
    name = given.dataset or dataset_in(checkpoint.state.get("config"))
    if name is None:
        asked.error(f"{given.path} does not say what it was trained on: say --dataset")
    config = checkpoint.state.get("config")
    how = loading(config, name)
    how |= {name: value for name, value in (("target", given.target), ("loss", given.loss)) if value is not None}
    dataset = load(name, data_dir=given.data_dir, **how)
    dataset = as_read_by(checkpoint.network, dataset)
    if dataset.numbers and (table is not None or picture is not None):
        flag = "--plot" if table is None else "--predictions"
        raise ValueError(f"{flag}: is for classes, and {given.path} tells numbers; leave it out")
    if given.threads is not None:
        set_threads(given.threads)
    checkpoint.network.to(activations=given.activations or activations_in(config))
    check_fit(checkpoint.network, dataset)
    if given.device == "cpu":
        memory.check(answering(checkpoint.network, Outline.of(dataset)), f"evaluating {given.path}")
    totals = totals_of(checkpoint.network, dataset, given.device)
    network = _normalising(checkpoint.network, dataset)
    answers = None if dataset.numbers else answers_of(network, dataset)
    if answers is not None and table is not None:
        answers.write(table)
    if answers is not None and picture is not None:
        draw(answers, picture, f"{given.path} on {dataset.name}: {totals.accuracy:.2%}")
    found = latencies(network, dataset) if given.latency else []
    lines = _lines(network, dataset, totals, answers, found, as_json=given.json)
    return lines if given.json else [*lines, *(str(path) for path in (table, picture) if path is not None)]


def answers_of(network: Network, dataset: Dataset) -> Answers:
    """What a network that normalises answers to a test split."""
    probabilities = network.predict_proba(dataset.test.x)
    return Answers(dataset.test.y, probabilities.reshape(len(dataset.test), -1), dataset.names)


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
    totals = Evaluation(network, dataset.test, _normalisation(network, dataset), network.device, dataset.answers)()
    if not isfinite(totals.loss):
        raise NotFiniteError(
            f"{network!r} cannot be evaluated on {dataset.name}: its loss is {totals.loss}, so its outputs are too "
            f"large for {network.dtype}"
        )
    return totals


def _normalisation(network: Network, dataset: Dataset) -> Normalisation:
    """The network's, or else the data set's."""
    return network.normalisation or dataset.normalisation


def _normalising(network: Network, dataset: Dataset) -> Network:
    """The network, which takes the data set's samples as they are stored."""
    network.normalisation = _normalisation(network, dataset)
    return network


def parser() -> Parser:
    """The parser of this command."""
    made = Parser(PROGRAM, "Evaluate a trained network on a test split.", EXAMPLE)
    made.add_argument("path", metavar="DIR", help="a run's folder, or a .safetensors file")
    made.add_argument("--best", action="store_true", help="the best epoch on the validation split, not the last")
    made.add_argument("--dataset", type=typed(NAME), help="the run's own if not given")
    made.add_argument("--target", metavar="COLUMN", help="of a .csv file; the run's own if not given")
    made.add_argument(
        "--loss", choices=LOSSES, help="mse for numbers, cross-entropy for classes; the run's own if not given"
    )
    made.add_argument("--data-dir", help=CACHE)
    made.add_argument("--threads", type=typed(THREADS), help="on a CPU: one for each core if not given")
    made.add_argument("--device", type=typed(DEVICE), help="as for python -m sparsecore.train; cpu if not given")
    made.add_argument(
        "--activations", type=typed(ACTIVATIONS), metavar="DTYPE",
        help="float32 or bfloat16; the run's own if not given",
    )  # fmt: skip
    made.add_argument(
        "--latency", action="store_true", help="also how long it takes to answer 1, 16 and 256 samples, compiled"
    )
    made.add_argument(
        "--predictions", metavar="FILE",
        help="write label, answer and probabilities of each sample, as .csv or .npz (not written if not given)",
    )  # fmt: skip
    made.add_argument(
        "--plot", metavar="FILE", help="draw confusions and calibration, as .png (not drawn if not given)"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _lines(
    network: Network, dataset: Dataset, totals: Totals, answers: Answers | None, found: list[Latency], *, as_json: bool
) -> list[str]:
    found_out = scores_of(dataset.answers, {"test": dataset.test})("test", totals)
    if dataset.answers is not None and len(dataset.answers.std) == 1:
        found_out["test_rmse"] = (2 * totals.mean_loss) ** 0.5 * dataset.answers.std[0]
    if as_json:
        record = {
            "dataset": dataset.name,
            "source": dataset.source,
            "samples": totals.samples,
            **dict(reversed(found_out.items())),
            "connections": network.connections,
            "sparsity": network.sparsity,
        } | (answers.record() if answers is not None else {})
        return [as_line(record | ({"latency": [each.record() for each in found]} if found else {}))]
    answer = (
        f"test {'R²' if dataset.numbers else 'accuracy'} {score(found_out, 'test')}, loss "
        f"{figure(totals.mean_loss, '.4f')}{_error(found_out)}; {network.connections:,} connections, "
        f"sparse layers {network.sparsity:.1%} sparse"
    )
    return [dataset.source, answer, *(answers.lines() if answers is not None else []), *(each.line() for each in found)]


def _error(scores: Record) -> str:
    """The root of the mean squared error, in the units of what is told."""
    return f", root mean squared error {figure(scores['test_rmse'], '.4g')}" if "test_rmse" in scores else ""
