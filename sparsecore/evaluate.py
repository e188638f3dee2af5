"""`python -m sparsecore.evaluate`: how well a trained network does.

Exit status: 0, or 2 for a command that cannot be followed or a checkpoint that cannot be used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from .console.output import answer, write_anything

PROGRAM = "python -m sparsecore.evaluate"
EXAMPLE = f"{PROGRAM} runs/radix"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return answer(PROGRAM, _evaluated, arguments, "interrupted")


def _evaluated(arguments: list[str]) -> list[str]:
    """What is to be printed. Raises ValueError."""
    from .console.arguments import PLACES, Parser, integer, place
    from .data import load
    from .data.normalisation import Normalisation
    from .runs.checkpoint import read
    from .runtime.devices import set_threads
    from .training.evaluation import Evaluation, check_fit

    parser = Parser(PROGRAM, "Evaluate a trained network on a test split.", EXAMPLE)
    parser.add_argument("path", metavar="DIR", help="a run's folder, or a .safetensors file")
    parser.add_argument("--dataset", help="the run's own if not given")
    parser.add_argument("--data-dir", help="folder of fetched data sets")
    parser.add_argument("--threads", type=integer("a whole number from 1 to 256", 2, 1, 256))
    parser.add_argument("--device", type=place, help=PLACES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options: dict[str, Any] = vars(parser.parse_args(arguments))

    checkpoint = read(options["path"])
    network, config = checkpoint.network, checkpoint.state.get("config")
    kept = config.get("options") if isinstance(config, dict) else None
    name = options.get("dataset") or (kept.get("dataset") if isinstance(kept, dict) else None)
    if not isinstance(name, str):
        parser.error(f"{options['path']} does not say what it was trained on: say --dataset")
    dataset = load(name, data_dir=options.get("data_dir"))
    check_fit(network, dataset)
    if "threads" in options:
        set_threads(options["threads"])
    normalisation = network.normalisation or Normalisation(dataset.shape, dataset.mean, dataset.std)
    network.to(options.get("device", "cpu"))
    totals = Evaluation(network, dataset.test, normalisation, network.device)()
    record = {
        "dataset": dataset.name,
        "samples": totals.samples,
        "test_accuracy": totals.accuracy,
        "test_loss": totals.mean_loss,
        "connections": network.connections,
        "sparsity": network.sparsity,
    }
    if "json" in options:
        return [json.dumps(record)]
    return [dataset.source, f"test accuracy {totals.accuracy:.2%}, loss {totals.mean_loss:.4f}; "
            f"{network.connections:,} connections, sparse layers {network.sparsity:.1%} sparse"]  # fmt: skip


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
