"""`python -m sparsecore.inspect`: the structure of a trained network, in numbers and pictures.

Exit status: 0, or 2 for a command that cannot be followed or a file that cannot be used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console.output import answer, write_anything

if TYPE_CHECKING:
    from ..console.arguments import Parser

PROGRAM = "python -m sparsecore.inspect"
EXAMPLE = f"{PROGRAM} runs/pruned --pictures pictures"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return answer(PROGRAM, _inspected, arguments, "interrupted")


def _inspected(arguments: list[str]) -> list[str]:
    """Inspect as a command line says; returns the lines to print. Raises ValueError."""
    from ..runs.checkpoint import read, save
    from ..runs.strict import as_line
    from .dead import dead_lines, remove_dead
    from .moves import tried_of
    from .pictures import draw
    from .report import describe

    asked = parser()
    options: dict[str, Any] = vars(asked.parse_args(arguments))
    if ("remove_dead" in options) != ("out" in options):
        asked.error("--remove-dead and --out go together")
    if Path(options.get("out", "")).suffix == ".npz":  # which would be read as one
        asked.error(f"--out: expected a name such as a.safetensors, which is what is written, got {options['out']}")
    if "out" in options and Path(options["out"]).exists():
        asked.error(f"--out: {options['out']} is there already; choose another name")
    if "out" in options and os.path.abspath(options["out"]) == os.path.abspath(options.get("pictures", "")):
        asked.error(f"--out, --pictures: expected a file and a folder, got {options['out']} for both")
    checkpoint = read(options["path"], best=options.get("best", False))
    network, path = checkpoint.network, Path(options["path"])
    tried = tried_of(checkpoint)
    facts, out = describe(network, tried), options.get("out")
    if out is not None:
        smaller, config = remove_dead(network), checkpoint.state.get("config")
        save(smaller, out, state={"config": config} if config else None)
    try:
        pictures = draw(network, Path(options.get("pictures", path.with_name(path.name + ".pictures"))), tried)
    except BaseException:
        if out is not None:
            Path(out).unlink(missing_ok=True)
        raise
    lines = [as_line(facts)] if "json" in options else _lines(facts)
    if "json" not in options:
        lines += [f"picture: {picture}" for picture in pictures] or ["no pictures: matplotlib is not installed"]
    if out is not None and "json" not in options:
        lines += [*dead_lines(network), f"{out}: {smaller!r}, {smaller.connections:,} connections"]
    return lines


def parser() -> Parser:
    """The parser of this command."""
    from ..console.arguments import Parser

    made = Parser(PROGRAM, "Look at the structure of a trained network.", EXAMPLE)
    made.add_argument("path", metavar="FILE", help="a run's folder or a checkpoint")
    made.add_argument("--best", action="store_true", help="the best epoch on the validation split, not the last")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument(
        "--pictures",
        metavar="DIR",
        help="folder for layers.png, inputs.png and moves.png (FILE's name with .pictures if not given)",
    )
    made.add_argument(
        "--remove-dead", action="store_true", help="write the network without its dead neurons to --out"
    )
    made.add_argument(
        "--out", metavar="FILE", help="for --remove-dead, such as smaller.safetensors (none if not given)"
    )
    return made


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['network']}: {facts['connections']:,} connections, sparse layers {facts['sparsity']:.1%} sparse, "
             f"all layers {facts['global_sparsity']:.1%}"]  # fmt: skip
    for layer, units in zip(facts["layers"], facts["units"][1:], strict=True):
        name = layer["name"] if layer["layer"].isdecimal() else f"{layer['layer']}, {layer['name']}"
        lines.append(f"{name}: {layer['connections']:,} connections, {layer['sparsity']:.1%} sparse")
        for which, what, none in (
            ("fan_in", "inputs of an output", "outputs_without_inputs"),
            ("fan_out", "outputs of an input", "inputs_without_outputs"),
        ):
            least, median, most = layer[which]
            lines.append(f"  {what}: {least:g} to {most:g}, median {median:g}; {layer[none]} have none")
        if "tried" in layer:
            places = layer["shape"][0] * layer["shape"][1]
            lines.append(f"  places where a connection has ever been: {layer['tried']:,} of {places:,} "
                         f"({layer['tried'] / places:.1%})")  # fmt: skip
        groups = ", ".join(f"{count} of {size}" for size, count in layer["equal_rows"].items())
        lines.append(f"  groups of outputs with the same inputs: {groups or 'none'}")
        lines.append(f"  dead outputs: {units['dead']} of {units['count']}; {units['not_reached']} that no input "
                     f"reaches, {units['not_used']} that reach no output")  # fmt: skip
    dead = facts["units"][0]
    lines.append(f"dead inputs: {dead['dead']} of {dead['count']}")
    paths = facts["paths"]
    total, least, most = (_whole(paths[name]) for name in ("total", "least", "most"))
    lines.append(f"paths from inputs to outputs: {total}, {least} to {most} between two; "
                 f"{paths['pairs_joined']:,} of {paths['pairs']:,} pairs are joined")  # fmt: skip
    return lines


def _whole(count: float) -> str:
    """A count that is kept as a float: in as many digits as it is exact to."""
    return f"{count:,.0f}" if count <= 1 << 53 else f"about {count:.4g}"


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
