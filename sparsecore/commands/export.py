"""`sparsecore export`: a trained network for other programs, as ONNX or as arrays.

Exit status: 0, 1 if onnxruntime does not compute what the network does, or 2 for a command that cannot be followed or a
file that cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console.output import answer

if TYPE_CHECKING:
    from ..console.arguments import Parser
    from ..network import Network

PROGRAM = "python -m sparsecore.export"
EXAMPLE = f"{PROGRAM} runs/radix --onnx network.onnx --normalise"
ONNX_ALONE = ("normalise", "sparse", "fold", "input", "output")
SAMPLES = 4
"""That a model is tried on."""
SLACK = {"float32": 1e-4, "float64": 1e-5}
"""How far a model's logits may be from the network's, of the largest: sums have another order, convolutions float32."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return answer(PROGRAM, _exported, arguments, "interrupted")


def parser() -> Parser:
    """The parser of this command."""
    from ..console.arguments import Parser

    made = Parser(PROGRAM, "Write a trained network for other programs.", EXAMPLE)
    made.add_argument("path", metavar="DIR", help="a run's folder, or a .safetensors file")
    for name, what in ("onnx", "an ONNX model"), ("npz", "arrays: CSR weights and biases"):
        made.add_argument(
            f"--{name}", nargs="?", const="", metavar="FILE",
            help=f"write {what} (not written if not given), to DIR/model.{name} if no file is named",
        )  # fmt: skip
    model = made.add_argument_group("the ONNX model")
    model.add_argument(
        "--normalise", action="store_true", help="normalise in the model, which then takes samples as they are stored"
    )
    model.add_argument("--sparse", action="store_true", help="store weights sparse: a small file, not for all runtimes")
    model.add_argument("--fold", action="store_true", help="take batch norms into the weights before them")
    model.add_argument("--input", metavar="NAME", help="of the input (x if not given)")
    model.add_argument("--output", metavar="NAME", help="of the output (logits if not given)")
    return made


def _exported(arguments: list[str]) -> list[str]:
    """Export as a command line says; returns the lines to print. Raises ValueError, or FloatingPointError."""
    from ..interop.export import to_npz
    from ..runs.checkpoint import read

    asked = parser()
    given: dict[str, Any] = vars(asked.parse_args(arguments))
    files = {name: _file(given["path"], given[name], name) for name in ("onnx", "npz") if name in given}
    if not files:
        asked.error("expected --onnx or --npz, or both")
    if "onnx" not in files and (other := [name for name in ONNX_ALONE if name in given]):
        asked.error(f"--{other[0]}: goes with --onnx only")
    for name, file in files.items():
        if file.exists():
            asked.error(f"--{name}: {file} is there already; choose another name")
        if not file.absolute().parent.is_dir():
            asked.error(f"--{name}: {file}: there is no such folder to write to")
    if len({file.absolute() for file in files.values()}) < len(files):
        asked.error(f"--onnx, --npz: expected two files, got {files['npz']} for both")
    if "onnx" in files and find_spec("onnx") is None:
        raise ValueError("--onnx: needs onnx, not installed here: pip install 'sparsecore[onnx]'")
    network = read(given["path"]).network
    lines = []
    if "onnx" in files:
        about = _model(network, files["onnx"], given)
        lines = [_line(files["onnx"]), about]
    if "npz" in files:
        to_npz(network, files["npz"])
        lines.append(_line(files["npz"]))
    return lines


def _file(path: str, given: str, name: str) -> Path:
    """The file that is named, or else one beside the checkpoint."""
    if given:
        return Path(given)
    checkpoint = Path(path)
    return checkpoint / f"model.{name}" if checkpoint.is_dir() else checkpoint.with_suffix(f".{name}")


def _line(file: Path) -> str:
    return f"{file}: {file.stat().st_size:,} bytes"


def _model(network: Network, file: Path, given: dict[str, Any]) -> str:
    """Write the model and try it, if onnxruntime is installed: what is to be said of it. What differs does not stay."""
    from ..interop.export import to_onnx

    names = given.get("input", "x"), given.get("output", "logits")
    raw = "normalise" in given
    to_onnx(network, file, sparse="sparse" in given, fold="fold" in given, normalise=raw, names=names)
    takes = "samples as they are stored" if raw else "normalised samples"
    about = f"  takes {names[0]}, {takes}; gives {names[1]}"
    if find_spec("onnxruntime") is None:
        return f"{about}; not tried, for onnxruntime is not installed"
    difference, largest = _tried(network, file, raw)
    if not difference <= SLACK[network.dtype.name] * max(largest, 1.0):
        file.unlink()
        raise FloatingPointError(f"{file}: onnxruntime's logits differ by {difference:.3g}, where the largest is "
                                 f"{largest:.3g}: nothing was kept")  # fmt: skip
    return f"{about}; onnxruntime's differ by {difference:.1e} at most, where the largest is {largest:.3g}"


def _tried(network: Network, file: Path, raw: bool) -> tuple[float, float]:
    """The largest difference of the logits of samples drawn at random, and the largest logit."""
    import numpy as np
    import onnxruntime

    rng = np.random.default_rng(0)
    shape = (SAMPLES, *network.layers[0].in_shape)
    norm = network.normalisation
    if raw and norm is not None and norm.dtype == "uint8":
        x: Any = rng.integers(0, 256, shape, np.uint8)
    else:
        x = rng.standard_normal(shape).astype(np.float32 if raw else network.dtype)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    wanted = network.logits(x, normalised=not raw)
    difference = np.abs(found.reshape(wanted.shape).astype(np.float64) - wanted)
    return float(difference.max()), float(np.abs(wanted).max())
