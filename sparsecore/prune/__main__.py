"""`python -m sparsecore.prune`: prune a network that was trained earlier, or remove what pruning has left without use.

Exit status: 0, or 2 for a command that cannot be followed or a file that cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console.output import answer, write_anything

if TYPE_CHECKING:
    from ..console.arguments import Parser
    from ..network import Network
    from .saliency import Saliencies
    from .shrink import PrunedLayer

PROGRAM = "python -m sparsecore.prune"
EXAMPLE = f"{PROGRAM} runs/dense --sparsity 0.95 --out pruned.safetensors"
EACH = 32
"""Bytes a connection while connections are ranked, and what is left is made and written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return answer(PROGRAM, _pruned, arguments, "interrupted; nothing was written")


def _pruned(arguments: list[str]) -> list[str]:
    """Prune as a command line says; returns the lines to print. Raises ValueError."""
    from ..runs.checkpoint import save
    from ..runtime import memory

    asked = parser()
    options: dict[str, Any] = vars(asked.parse_args(arguments))
    goals = [name for name in ("sparsity", "threshold", "quality") if name in options]
    if len(goals) > 1 or not (goals or "compact" in options):
        asked.error("expected one of --sparsity, --threshold and --quality, or --compact alone or with one of them")
    if "sparsity" not in options and (other := {"by", "global"} & options.keys()):
        asked.error(f"--{other.pop()}: goes with --sparsity only")
    if options.get("by", "magnitude") == "magnitude" and (other := {"dataset", "data_dir"} & options.keys()):
        asked.error(f"--{other.pop().replace('_', '-')}: goes with --by gradient and --by curvature only")
    if not goals and "allow_empty" in options:
        asked.error("--allow-empty: goes with pruning, and --compact removes nothing that is in use")
    out = Path(options["out"])
    if out.suffix == ".npz":  # which would be read as one
        asked.error(f"--out: expected a name such as a.safetensors, which is what is written, got {out}")
    if out.exists():
        asked.error(f"--out: {out} is there already; choose another name")
    network, config = _read(Path(options["path"]))
    memory.check(network.connections * EACH + network.table.values.nbytes, f"pruning {options['path']}")
    lines = []
    if goals:
        pruned = _prune(network, options, config, asked)
        network.sparse = network.sparse or tuple(line.layer for line in pruned)
        lines = [_line(line) for line in pruned]
    if "compact" in options:
        network, more = _compacted(network)
        lines += more
    save(network, out, state={"config": config} if config else None)
    total = f"{out}: {network.connections:,} connections, {network.global_sparsity:.1%} of all possible ones removed"
    return [*lines, total]


def _compacted(network: Network) -> tuple[Network, list[str]]:
    """The network without its dead channels and neurons, and lines that name them."""
    from ..inspect.dead import dead_lines, remove_dead

    smaller = remove_dead(network)
    before, after = network.table.values.size, smaller.table.values.size
    return smaller, [*dead_lines(network), f"{before:,} parameters before, {after:,} after"]


def parser() -> Parser:
    """The parser of this command."""
    from ..console.arguments import CACHE, Parser
    from ..runs.kinds import GOALS, GRANULARITY, POSITIVE, typed
    from .pruner import SALIENCIES

    made = Parser(PROGRAM, "Prune a trained network.", EXAMPLE)
    made.add_argument(
        "path", metavar="FILE", help="a run's folder, a checkpoint, or an .npz or .safetensors file of dense weights"
    )
    made.add_argument(
        "--sparsity", type=typed(GOALS), metavar="S",
        help="of each sparse layer afterwards (of every layer if none is), or of each layer: 0.9, or 0.9,0.9,0; "
             "nothing is pruned if not given",
    )  # fmt: skip
    made.add_argument(
        "--threshold", type=typed(POSITIVE), metavar="T", help="instead: |w| below this goes (none if not given)"
    )
    made.add_argument(
        "--quality", type=typed(POSITIVE), metavar="Q",
        help="instead: |w| below Q of its layer's std goes (none if not given)",
    )  # fmt: skip
    made.add_argument(
        "--by", choices=tuple(SALIENCIES), help="what ranks connections: magnitude (default), or others, that need data"
    )
    made.add_argument(
        "--granularity", type=typed(GRANULARITY), metavar="UNIT",
        help="what goes as a whole: weight (default), channel, rows:G or block:G,H",
    )  # fmt: skip
    made.add_argument("--global", action="store_true", help="rank the connections of all layers together")
    made.add_argument(
        "--compact", action="store_true",
        help="remove channels and neurons that no input reaches or no output uses, alone or after pruning",
    )  # fmt: skip
    made.add_argument("--allow-empty", action="store_true", help="let a layer lose all its connections")
    made.add_argument("--dataset", help="for --by; the run's own if not given")
    made.add_argument("--data-dir", help=CACHE)
    made.add_argument(
        "--out", required=True, default=argparse.SUPPRESS, metavar="FILE",
        help="file to write, such as a.safetensors; must be given",
    )  # fmt: skip
    return made


def _read(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network in a checkpoint with its run's configuration, or that of a user's own weights."""
    from ..runs.checkpoint import CheckpointError, read
    from .weights import read_weights

    if path.suffix == ".npz":
        return read_weights(path), {}
    try:
        checkpoint = read(path)
    except CheckpointError as error:
        if path.suffix == ".safetensors" and path.is_file() and not _is_ours(path):
            return read_weights(path), {}
        raise error
    config = checkpoint.state.get("config")
    return checkpoint.network, config if isinstance(config, dict) else {}


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    from ..runs.checkpoint import FORMAT

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return True


def _prune(network: Network, options: dict[str, Any], config: dict[str, Any], parser: Parser) -> list[PrunedLayer]:
    from .shrink import by_quality, by_threshold, layer_targets, to_sparsity

    how: Any = {"allow_empty": options.get("allow_empty", False), "granularity": options.get("granularity", "weight")}
    layers = network.sparse or tuple(network.patterns)
    if "threshold" in options:
        return by_threshold(network, options["threshold"], layers=layers, **how)
    if "quality" in options:
        return by_quality(network, options["quality"], layers=layers, **how)
    targets = layer_targets(network, options["sparsity"])
    single = isinstance(targets, float)
    return to_sparsity(
        network, targets, layers=layers if single else None, globally=options.get("global", False),
        saliencies=_saliencies(network, options, config, parser), **how,
    )  # fmt: skip


def _saliencies(network: Network, options: dict[str, Any], config: dict[str, Any], parser: Parser) -> Saliencies | None:
    """How much each connection matters, on the training samples of a data set; None for magnitudes."""
    from ..data import load
    from ..data.outline import Outline
    from ..runs.config import dataset_in, loading
    from ..runtime import memory
    from ..training.evaluation import as_read_by, check_fit, store_of
    from ..training.needs import needs
    from ..training.optimizers import SGD
    from .saliency import SAMPLES, curvature, gradient

    by = options.get("by", "magnitude")
    if by == "magnitude":
        return None
    name = options.get("dataset") or dataset_in(config)
    if name is None:
        parser.error(f"--by {by}: needs data, and {options['path']} does not say which: say --dataset")
    dataset = load(name, data_dir=options.get("data_dir"), **loading(config, name))
    dataset = as_read_by(network, dataset)
    check_fit(network, dataset)
    found = needs(network, replace(Outline.of(dataset), test=0), SGD(1.0), batch_size=min(SAMPLES, len(dataset.train)))
    memory.check(found.computing, f"{options['path']}: --by {by}")
    normalisation = network.normalisation or dataset.normalisation
    batches = store_of(network, dataset.train, normalisation, network.device)
    return {"gradient": gradient, "curvature": curvature}[by](network, batches)


def _line(line: PrunedLayer) -> str:
    name = line.name if line.layer.isdecimal() else f"{line.layer}, {line.name}"
    return (f"{name}: {line.removed:,} connections removed, {line.connections:,} left, "
            f"{line.sparsity:.1%} sparse, threshold {line.threshold:.4g}")  # fmt: skip


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
