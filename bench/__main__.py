"""`python -m bench`: times this engine beside others, prints tables, and writes rows and a plot if you want."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .environment import settle
from .options import ConvShape, Options

BENCHES = (
    "step", "gather", "sample", "scaling", "epoch", "profile", "conv", "embed", "latency", "busy", "large", "torch",
    "roofline",
)  # fmt: skip
OF = {"lenet300": BENCHES, "lenet5": ("step", "conv"), "resnet20": ("step",), "vgg11": ("step",)}
"""Benchmarks of each model."""
CASES = ("resnet18-32", "resnet18-128", "bert-32")
"""Models and batch sizes of torch."""
MODULES = {"step": "steps", "torch": "torch_training"}
"""Where a benchmark is not in the module of its name."""


def main() -> None:
    command = parser()
    arguments = command.parse_args()
    if others := [bench for bench in arguments.bench if bench not in OF[arguments.model]]:
        command.error(f"{others[0]} is not for {arguments.model}, which has {', '.join(OF[arguments.model])}")
    if arguments.registers and platform.machine().lower() not in ("x86_64", "amd64"):
        command.error(f"--registers {arguments.registers} is for x86, and this processor is {platform.machine()}")
    if arguments.activations != "float32" and (arguments.bench != ["step"] or arguments.device != "cpu"):
        command.error("--activations bfloat16 is for step, on a CPU")
    settle(arguments.threads, arguments.registers == 256)
    # Only now: importing NumPy loads BLAS, which reads the environment once.
    from sparsecore.runs.pictures import can_draw

    from . import machine
    from .engines import has_torch
    from .plot import plot

    for flag, path in (("--json", arguments.json), ("--plot", arguments.plot)):  # before all is measured, not after it
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            sys.exit(f"{flag}: expected a file in a folder that is there, got {path}")
    if arguments.plot and not can_draw():
        sys.exit("--plot needs matplotlib: pip install 'sparsecore[plot]'")
    batches, sparsities = tuple(arguments.batch), tuple(arguments.sparsity)
    shapes = tuple(arguments.shape)
    options = Options(
        arguments.model, batches, sparsities, arguments.threads, shapes, arguments.activations, arguments.quick,
        tuple(arguments.only),
    )  # fmt: skip
    if arguments.device != "cpu":
        on_gpu(arguments, options)
        return
    print(f"{machine.describe()}\n")
    rows = machine.ceiling(options)
    sgemm = rows[0]["gflops"]
    print(f"Ceiling: sgemm {rows[0]['model']}, {options.threads} thread(s): {sgemm:.0f} GFLOP/s\n")
    if not has_torch():
        print("PyTorch is not installed: its rows are left out (pip install 'sparsecore[peers]').\n")
    for bench in arguments.bench or OF[arguments.model]:
        found, table = measured(bench, options, sgemm)
        rows += found
        print(table, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        try:
            plot(rows, arguments.plot)
        except ValueError as error:
            sys.exit(f"--plot: {error}")


def on_gpu(arguments: argparse.Namespace, options: Options) -> None:
    """The same on a GPU, timed by its own clock."""
    from . import cuda

    try:
        gpu = cuda.gpu(arguments.device)
    except ValueError as error:
        sys.exit(str(error))
    if other := [bench for bench in arguments.bench if bench not in cuda.BENCHES]:
        sys.exit(f"{other[0]}: with --device cuda there are {', '.join(cuda.BENCHES)}")
    print(f"{cuda.describe(gpu)}\n")
    rows = []
    for bench in arguments.bench or cuda.BENCHES:
        found = cuda.measure(options, bench, gpu)
        rows += found
        print(cuda.table(found), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measured(bench: str, options: Options, sgemm: float) -> tuple[list[dict[str, Any]], str]:
    """Rows of one benchmark, and its tables; each is in a module of its own."""
    if bench in ("gather", "sample"):
        from . import kernels

        rows = kernels.measure(options, bench)
        return rows, kernels.table(rows, sgemm)
    module = import_module(f"bench.{MODULES.get(bench, bench)}")
    rows = module.measure(options)
    return rows, module.table(rows)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    found.add_argument("bench", nargs="*", type=_bench, metavar="BENCH", help=f"{', '.join(BENCHES)}; all if none")
    found.add_argument("--model", choices=list(OF), default="lenet300")
    found.add_argument("--batch", type=_positive, nargs="+", default=[], metavar="N")
    found.add_argument("--sparsity", type=_fraction, nargs="+", default=[], metavar="S", help="such as 0.9")
    found.add_argument("--shape", type=_shape, nargs="+", default=[], help="of conv: 16x32@28, 16x32@28/2k1")
    found.add_argument("--only", type=_case, nargs="+", default=[], metavar="ROW", help=f"of torch: {', '.join(CASES)}")
    found.add_argument("--device", default="cpu", metavar="cpu|cuda", help="cuda:1 is the second GPU; needs CuPy")
    found.add_argument("--threads", type=_positive, default=1, metavar="N", help="of every engine")
    found.add_argument(
        "--activations", choices=["float32", "bfloat16"], default="float32",
        help="bfloat16: of step, this engine and PyTorch's dense step in bfloat16 beside all others",
    )  # fmt: skip
    found.add_argument("--registers", type=int, choices=[256], help="compile this engine as for a laptop with AVX2")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    found.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time against connections")
    found.add_argument("--quick", action="store_true", help="the smallest of everything: a check, not a measurement")
    return found


def _bench(text: str) -> str:
    if text not in BENCHES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(BENCHES)}, got {text!r}")
    return text


def _case(text: str) -> str:
    if text not in CASES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(CASES)}, got {text!r}")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _shape(text: str) -> ConvShape:
    try:
        return ConvShape.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


if __name__ == "__main__":
    main()
