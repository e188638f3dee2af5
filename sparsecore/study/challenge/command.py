"""`python -m sparsecore.challenge`: the Sparse DNN Graph Challenge, its networks inferred layer by layer, and timed.

Exit status: 0, 1 if the categories are not those of a file, 2 for a command or a file that cannot be followed, 130 or
143 when it was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...console.output import answer, complain

if TYPE_CHECKING:
    from rich.progress import Progress

    from ...console.arguments import Parser
    from .inference import Answer
    from .inputs import Inputs

PROGRAM = "python -m sparsecore.challenge"
EXAMPLE = f"{PROGRAM} --neurons 1024 --layers 120"
SIZES = (1024, 4096, 16384, 65536)
ALL = 60_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    wrong: list[str] = []
    status = answer(PROGRAM, lambda words: _answered(words, wrong), arguments, "interrupted")
    return complain(PROGRAM, wrong[0], 1) if wrong and not status else status


def parser() -> Parser:
    """The parser of this command."""
    from ...console.arguments import CACHE, Parser, integer

    made = Parser(PROGRAM, "Infer a network of the Sparse DNN Graph Challenge, and time it.", EXAMPLE)
    made.add_argument("--neurons", type=int, choices=SIZES, help="of a layer (1024 if not given)")
    counts = {
        "layers": ("layers of the network (120 if not given)", 120, 100_000),
        "samples": ("the first so many inputs (60000 if not given)", ALL, ALL),
        "threads": ("each with samples of its own (one for each core if not given)", 2, 1024),
        "repeats": ("times that all is inferred; the median counts (5 if not given)", 5, 1000),
    }
    for name, (about, example, most) in counts.items():
        kind = integer(f"a whole number from 1 to {most}", example, 1, most)
        made.add_argument(f"--{name}", type=kind, metavar="N", help=about)
    files = made.add_argument_group("official files, .tsv or .tsv.gz")
    files.add_argument("--images", metavar="FILE", help="of inputs (made from MNIST if not given)")
    files.add_argument("--weights", metavar="DIR", help="with a file for each layer (generated if not given)")
    files.add_argument("--categories", metavar="FILE", help="of what must come out (not checked if not given)")
    made.add_argument("--data-dir", help=CACHE)
    made.add_argument("--json", action="store_true", help="print one JSON object instead")
    return made


def _answered(arguments: list[str], wrong: list[str]) -> list[str]:
    """Infer as a command line says; returns the lines to print, and adds to `wrong` what disagrees with a file."""
    from ...runtime.processors import default_threads
    from . import networks
    from .inference import infer
    from .tables import categories

    given: dict[str, Any] = vars(parser().parse_args(arguments))
    neurons, layers, samples = given.get("neurons", 1024), given.get("layers", 120), given.get("samples", ALL)
    threads = given.get("threads") or default_threads()
    wanted = categories(Path(given["categories"]), samples) if "categories" in given else None
    if "weights" in given:
        network = networks.read(Path(given["weights"]), neurons, layers)
    else:
        network = networks.generated(neurons, layers)
    with Shown(layers) as shown:
        began = perf_counter()
        inputs, source = _inputs(given, samples, neurons, shown)
        reading = perf_counter() - began
        found = infer(
            inputs, network, networks.BIASES[neurons], threads=threads, repeats=given.get("repeats", 5), tell=shown.show
        )  # fmt: skip
    if wanted is not None:
        wrong += _differences(found.categories, wanted, given["categories"])
    about = {
        "neurons": neurons, "layers": layers, "samples": samples, "threads": threads, "inputs": source,
        "network": given.get("weights", "generated"), "seconds_inputs": reading,
    }  # fmt: skip
    return _json(about, found, wanted is not None, wrong) if given.get("json") else _lines(about, found, inputs, given)


def _inputs(given: dict[str, Any], samples: int, neurons: int, shown: Shown) -> tuple[Inputs, str]:
    """The inputs, and what they are."""
    import numpy as np

    from ...data import load
    from .inputs import THRESHOLD, from_digits, read

    def tell(done: int) -> None:
        shown.show("inputs", done, samples)

    if "images" in given:
        return read(Path(given["images"]), samples, neurons, tell), given["images"]
    data = load("mnist", data_dir=given.get("data_dir"))
    if data.name != "mnist":
        raise ValueError("mnist is not here and could not be fetched: python -m sparsecore.data fetch mnist")
    side = int(neurons**0.5)
    about = f"MNIST at {side}×{side}, one where above {THRESHOLD} (not the official files)"
    return from_digits(np.asarray(data.train.x), samples, neurons, tell), about


def _differences(found: Any, wanted: Any, file: str) -> list[str]:
    """A line on where the categories are not those of a file, if they are not."""
    import numpy as np

    missing, more = np.setdiff1d(wanted, found), np.setdiff1d(found, wanted)
    if not len(missing) and not len(more):
        return []
    first = min([*missing[:1], *more[:1]]) + 1
    return [f"{file}: {len(missing)} of its categories did not come out, {len(more)} others did; the first: {first}"]


def _lines(about: dict[str, Any], found: Answer, inputs: Inputs, given: dict[str, Any]) -> list[str]:
    """For people."""
    shown = [k for k in range(len(found.lives)) if k < 12 or (k + 1) % 120 == 0 or k + 1 == len(found.lives)]
    held, size = found.window
    lines = [
        f"network: {about['neurons']} neurons, {about['layers']} layers, {found.connections.sum():,} connections, "
        f"{about['network']}: {found.making:.2f} s",
        f"inputs: {inputs.samples:,}, {about['inputs']}: {about['seconds_inputs']:.2f} s",
        "alive after layer " + ", ".join(f"{k + 1}: {found.lives[k]:,}" for k in shown),
        f"categories: {len(found.categories):,} of {inputs.samples:,} ({len(found.categories) / inputs.samples:.1%})"
        + (f", compared with {given['categories']}" if "categories" in given else ""),
        f"inference: {found.median:.3f} s, median of {len(found.seconds)} ({min(found.seconds):.3f} to "
        f"{max(found.seconds):.3f}), threads: {about['threads']}",
        f"worked: {found.worked / found.median / 1e9:.1f} GE/s (live inputs × stored connections)",
        f"nominal: {found.nominal / found.median / 1e9:.1f} GE/s (all inputs, as the challenge counts)",
        f"memory: {_peak() / 1e6:,.0f} MB at most; {held} layers at a time ({size / 1e6:,.1f} MB), "
        f"inputs {inputs.words.nbytes / 1e6:,.1f} MB, pens {found.pens / 1e6:,.1f} MB",
    ]
    return lines


def _json(about: dict[str, Any], found: Answer, checked: bool, wrong: list[str]) -> list[str]:
    """For programs."""
    import json

    record = about | {
        "connections": int(found.connections.sum()), "alive": found.lives.tolist(),
        "categories": (found.categories + 1).tolist(), "checked": checked, "agrees": not wrong if checked else None,
        "seconds": found.median, "repeats": found.seconds, "seconds_network": found.making,
        "worked_edges": found.worked, "nominal_edges": found.nominal,
        "worked_edges_per_second": found.worked / found.median,
        "nominal_edges_per_second": found.nominal / found.median,
        "peak_bytes": _peak(), "window_layers": found.window[0], "window_bytes": found.window[1],
        "pens_bytes": found.pens,
    }  # fmt: skip
    return [json.dumps(record)]


def _peak() -> int:
    """The most bytes that this process has had in memory; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


class Shown:
    """Progress bars on standard error, if that is a terminal."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Shown:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """So many inputs, layers or samples are done, of so many."""
        if self._progress is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what)
        self._progress.update(self._tasks[what], completed=done, total=total or self._layers)
