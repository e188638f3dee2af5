"""What other people's programs may import: all of it is there, and old paths lead to the same modules."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparsecore._package import MOVED
from tests.test_imports import sources

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONAL = {f"sparsecore.interop.{name}": name for name in ("torch", "jax", "sklearn")}

PUBLIC = {
    "sparsecore": (
        "SGD", "Adam", "AdamW", "CheckpointError", "Layer", "Network", "ReLU", "RunConfig", "SparseLinear",
        "SparseOperator", "SparsityPattern", "Trainer", "get_threads", "load", "run", "save", "set_threads",
    ),
    "sparsecore.data": ("NAMES", "DataError", "Dataset", "Split", "load"),
    "sparsecore.gradcheck": ("gradcheck",),
    "sparsecore.inspect": ("count_paths", "dead_units", "describe", "groups_of_equal_rows", "remove_dead"),
    "sparsecore.interop.export": ("to_npz", "to_onnx", "to_scipy"),
    "sparsecore.interop.jax": ("as_function",),
    "sparsecore.interop.operator": ("SparseOperator",),
    "sparsecore.interop.sklearn": ("SparseMLPClassifier", "SparseMLPRegressor"),
    "sparsecore.interop.torch": (
        "Left", "Moved", "Moving", "Replaced", "SparseConv1d", "SparseConv2d", "SparseConvTranspose2d", "SparseLinear",
        "SparseMultiheadAttention", "Summary", "densify", "from_torch", "rewire", "sparsify", "to_torch",
    ),
    "sparsecore.kernels.cpu": ("sddmm", "spmm"),
    "sparsecore.layers": (
        "KINDS", "ArrayLayer", "AvgPool2d", "BatchNorm", "Dropout", "Flatten", "GlobalAvgPool", "Layer", "MaxPool2d",
        "PadChannels", "ReLU", "Residual", "Sequential", "SparseConv2d", "SparseLinear", "register",
    ),
    "sparsecore.models.lenet300": ("lenet300",),
    "sparsecore.models.lenet5": ("lenet5",),
    "sparsecore.prune": (
        "REGROW", "RIGL", "SET", "Method", "PruneError", "PrunedLayer", "PruningSchedule", "Rewired", "Rewirer",
        "RewiringSchedule", "at_random", "by_quality", "by_threshold", "curvature", "folded", "gradient", "gradual",
        "iterative", "magnitude", "of_all", "of_candidates", "one_time", "refresh", "rewind", "shrink", "to_sparsity",
    ),
    "sparsecore.runtime.devices": (
        "CPU", "CUDA", "Device", "DeviceError", "cpu", "cuda", "default_threads", "device", "get_threads", "gpu",
        "place_of", "set_threads",
    ),
    "sparsecore.topology": (
        "ExpanderKind", "FittedRadixNet", "SpectralGap", "dense", "expander", "filters", "fit_radix_net",
        "radix_layer", "radix_net", "spectral_gap", "uniform_random",
    ),
}  # fmt: skip
"""What must not go, whatever an `__all__` says."""

LAST_RELEASE = {
    "checkpoint": ("Checkpoint", "CheckpointError", "load", "read", "save"),
    "export": ("to_npz", "to_onnx", "to_scipy"),
    "loss": ("CrossEntropy",),
    "operator": ("SparseOperator",),
    "optim": ("SGD",),
    "pattern": ("SparsityPattern",),
    "plan": ("Plan",),
    "radix": ("FittedRadixNet", "fit_radix_net", "radix_layer", "radix_net"),
    "schedule": ("constant", "cosine", "step_decay", "warm_up"),
    "step": ("Step", "Totals"),
    "store": ("Store",),
    "tiles": ("LANES",),
    "trainer": ("Trainer",),
}
"""Names of the last release in modules that have moved: what its documentation and examples import, and more."""


def module(name: str) -> object:
    for package, needed in OPTIONAL.items():
        if name.startswith(package) and find_spec(needed) is None:
            pytest.skip(f"needs {needed}")
    return importlib.import_module(name)


def imported(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of ours in a program; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sparsecore":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "sparsecore")


def documented() -> set[tuple[str, str]]:
    """What the README, the documentation and the examples import."""
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    programs = [path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.py"))]
    return {found for text in blocks + programs for found in imported(text)}


def declared() -> list[str]:
    """Modules that say by `__all__` what is public in them."""
    return [name for name, path in sources().items() if "\n__all__ = " in path.read_text("utf-8")]


@pytest.mark.parametrize("name", [name for name in declared() if not name.startswith("bench")])
def test_all_that_a_module_declares_is_there(name: str) -> None:
    found = module(name)
    names = found.__all__  # type: ignore[attr-defined]
    assert [each for each in names if not hasattr(found, each)] == []
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("name", "each"), sorted(documented()))
def test_what_the_documentation_imports_is_there(name: str, each: str) -> None:
    assert hasattr(module(name), each) if each else module(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_stay(name: str) -> None:
    found = module(name)
    assert [each for each in PUBLIC[name] if not hasattr(found, each)] == []
    assert set(getattr(found, "__all__", ())) <= set(PUBLIC[name]), "a name that becomes public is listed here"


@pytest.mark.parametrize("old", LAST_RELEASE)
def test_names_of_the_last_release_are_where_they_were(old: str) -> None:
    found = importlib.import_module(f"sparsecore.{old}")
    assert [each for each in LAST_RELEASE[old] if not hasattr(found, each)] == []


LAZILY = """
import sys, warnings
warnings.simplefilter("error")
from importlib import import_module
import sparsecore
from sparsecore._package import MOVED
loaded = [name for name in sys.modules if name.startswith("sparsecore.") and name != "sparsecore._package"]
assert not loaded, loaded
for old, new in sorted(MOVED.items()):
    first = import_module(f"sparsecore.{old}")
    assert first is import_module(f"sparsecore.{new}"), old
    assert first.__name__ == first.__spec__.name == f"sparsecore.{new}", (old, first.__spec__)
    assert sys.modules[f"sparsecore.{old}"] is first
    package = sys.modules[f"sparsecore.{old}".rpartition(".")[0]]
    assert getattr(package, old.rpartition(".")[2]) is first, old
print(len(MOVED))
"""


def test_old_paths_give_the_same_modules_without_a_warning_and_only_when_used() -> None:
    run = subprocess.run([sys.executable, "-c", LAZILY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{len(MOVED)}\n", "")


def test_an_old_path_is_an_attribute_too() -> None:
    code = "import sparsecore; print(sparsecore.optim.SGD is sparsecore.SGD, sparsecore.store.Store.__module__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "sparsecore.data.batches"]


def test_nothing_stands_in_an_old_path() -> None:
    """Where a file has the old path, the file would be imported, and the new module not be found under it."""
    assert [old for old in MOVED if f"sparsecore.{old}" in sources()] == []
    assert [new for new in MOVED.values() if f"sparsecore.{new}" not in sources()] == []
