"""Imports go one way, kernels <- sparsecore <- models <- the command lines, and importing does no work."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"sparsecore": "sparsecore", "kernels": "sparsecore.kernels", "models": "sparsecore.models", "bench": "bench"}

# The house from its cellar up: a room imports from those above it in this table, and never from those below.
HOUSE = {
    "kernels": "pure functions on arrays",
    "errors": "one line, whatever went wrong",
    "scalars": "single numbers, or what they are not",
    "files": "whole or not at all",
    "console": "words, streams and signals of any command",
    "runtime": "where arrays live and calls run",
    "storage": "which connections there are, and how they are walked",
    "topology": "patterns from rules",
    "data": "samples, in batches",
    "layers": "forward beside backward",
    "network": "layers that make a whole",
    "training": "steps, losses, optimizers, and the loop",
    "gradcheck": "what a layer's author checks",
    "runs": "what a run is, and what it leaves on disk",
    "prune": "networks that lose connections",
    "inspect": "networks looked at",
    "interop": "other libraries",
    "models": "networks by name, with their recipes",
    "commands": "command lines, and what Python users call instead",
    "train": "python -m sparsecore.train",
    "evaluate": "python -m sparsecore.evaluate",
    "study": "many runs, and reports of them",
}
COMMANDS_USERS = {"commands", "train", "evaluate", "study", "__main__"}

RUNTIME = {
    "numpy", "scipy", "numba", "llvmlite", "safetensors", "pooch", "requests", "platformdirs", "PIL", "rich",
}  # fmt: skip
FOR_KERNELS = {"numpy", "numba", "llvmlite", "scipy.sparse", "cupy"}
COMMAND_LINES = {"sparsecore.commands", "sparsecore.train", "sparsecore.evaluate", "sparsecore.study"}
# Where an optional package may be imported at module level; elsewhere only inside the function that needs it.
ROOMS = {
    "cupy": ("sparsecore.kernels.cuda",),
    "torch": ("sparsecore.interop.torch", "bench.engines"),
    "jax": ("sparsecore.interop.jax",),
    "sklearn": ("sparsecore.interop.sklearn",),
    "jinja2": (),
    "matplotlib": (),
    "pytest": ("bench",),
    "threadpoolctl": ("bench",),
}


class Import(NamedTuple):
    target: str
    source: str  # x in `from x import y`, whose target is x.y: a module, or a name in the module x
    line: int
    at_import: bool  # runs when the module is imported


@cache
def sources() -> dict[str, Path]:
    """Every module of the repository but tests, by the name it imports as."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(module: str, text: str, is_package: bool = False) -> Iterator[Import]:
    """All imports of a module, relative ones resolved, those inside functions included."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, alias.name, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else module.split(".")[: module.count(".") + 1 + is_package - node.level]
            source = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                yield Import(f"{source}.{alias.name}", source, node.lineno, at_import)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import and not lazy and not typing_only)

    return visit(ast.parse(text), True)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def room(module: str) -> str:
    """Where in the house a module is; a `__main__` is in none, and stands at the door."""
    parts = module.split(".")
    return "__main__" if parts[-1] == "__main__" else parts[1] if len(parts) > 1 else ""


def runs_back(module: str, target: str) -> bool:
    """Whether a module of the house imports from a room that stands on its own."""
    here, there = room(module), room(target)
    if here in ("", "__main__", "_package"):
        return False
    if there not in HOUSE:
        return there != "_package"  # which imports nothing; the package itself hands out what is in every room
    return list(HOUSE).index(there) > list(HOUSE).index(here)


def rank(module: str) -> int:
    """Position in kernels (0) <- sparsecore (1) <- models (2) <- the command lines (3).

    The package itself is on top as one who imports, since it hands out `run`, and lies at the bottom as a target.
    """
    if within(module, *COMMAND_LINES, "bench") or ".__main__" in module:
        return 3
    return 0 if within(module, "sparsecore.kernels") else 2 if within(module, "sparsecore.models") else 1


def faults(module: str, text: str, is_package: bool = False) -> list[str]:
    """Every import of the module that breaks a rule, with its line."""
    found = []
    for target, source, line, at_import in imports(module, text, is_package):
        package = target.split(".")[0]
        what = f"{module}:{line} imports {target}"
        if package in ("sparsecore", "bench"):
            if module != "sparsecore" and max(rank(source), rank(target)) > rank(module):
                found.append(f"{what}, against kernels <- sparsecore <- models <- command lines")
            elif within(module, *(f"sparsecore.{name}" for name in HOUSE)) and package == "sparsecore":
                if runs_back(module, target):
                    found.append(f"{what}: {room(module)} comes before {room(target) or 'the package itself'}")
                elif room(target) == "commands" and room(module) not in COMMANDS_USERS:
                    found.append(f"{what}: only commands may")
        elif package in sys.stdlib_module_names:
            continue
        elif within(module, "sparsecore.kernels") and not within(target, *FOR_KERNELS):
            found.append(f"{what}: kernels may use only {', '.join(sorted(FOR_KERNELS))}")
        elif at_import and package not in RUNTIME and not within(module, *ROOMS.get(package, ())):
            found.append(f"{what} at module level, where it is optional or undeclared")
    return found


@pytest.mark.parametrize("module", sources())
def test_rules_hold(module: str) -> None:
    path = sources()[module]
    found = faults(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    assert not found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sparsecore.kernels.cpu.x", "import sparsecore"),
        ("sparsecore.kernels.cpu.x", "from sparsecore import models"),
        ("sparsecore.kernels.cpu.x", "from ... import models"),
        ("sparsecore.kernels.cpu.x", "def f():\n    from sparsecore.layers import Linear"),
        ("sparsecore.kernels.x", "import scipy.linalg"),
        ("sparsecore.kernels.x", "import kernels.cpu"),
        ("sparsecore.kernels.x", "import rich"),
        ("sparsecore.x", "from . import models"),
        ("sparsecore.x", "import sparsecore.models.lenet300"),
        ("sparsecore.x", "from sparsecore.train import main"),
        ("sparsecore.x", "import cupy"),
        ("sparsecore.x", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
        ("sparsecore.x", "class A:\n    import matplotlib.pyplot"),
        ("sparsecore.x", "import httpx"),
        ("sparsecore.models.x", "from sparsecore.prune.__main__ import main"),
        ("sparsecore.models.x", "import bench"),
        ("sparsecore.training.x", "from ..runs.trainer import Trainer"),
        ("sparsecore.training.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..runs import state"),
        ("sparsecore.storage.x", "def f():\n    from ..layers import Layer"),
        ("sparsecore.runs.x", "from ..prune.pruner import Pruner"),
        ("sparsecore.runs.x", "from .. import __version__"),
        ("sparsecore.commands.x", "from .. import __version__"),
        ("sparsecore.prune.x", "from ..commands.options import typed"),
        ("sparsecore.console.x", "from ..data import load"),
        ("sparsecore.commands.x", "from ..study.run import Run"),
    ],
)
def test_rules_can_fail(module: str, source: str) -> None:
    assert faults(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sparsecore.kernels.cpu.x", "import math\nfrom ..reference import spmm\nfrom scipy.sparse import csr_array"),
        ("sparsecore.kernels.cuda.x", "import cupy"),
        ("sparsecore.x", "from . import kernels\nfrom sparsecore.kernels import cpu"),
        ("sparsecore.x", "def f():\n    import matplotlib.pyplot"),
        ("sparsecore.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("sparsecore.models.x", "from sparsecore import layers"),
        ("sparsecore.train", "from sparsecore.models import lenet300"),
        ("sparsecore.prune.__main__", "from sparsecore.train import main"),
        ("sparsecore.prune.__main__", "from ..runs.kinds import typed"),
        ("sparsecore.runs.x", "from ..training.loop import Loop"),
        ("sparsecore.commands.x", "from .._package import VERSION"),
        ("sparsecore.study.x", "from ..commands.training import run"),
    ],
)
def test_rules_allow(module: str, source: str) -> None:
    assert not faults(module, source)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others: each circle once, from its first name on."""
    found: set[tuple[str, ...]] = set()

    def reached(module: str) -> set[str]:
        seen, waiting = set(), [module]
        while waiting:
            for target in arrows[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    far = {module: reached(module) for module in arrows}
    for module in arrows:
        if module in far[module]:
            found.add(tuple(sorted(other for other in far[module] if module in far[other])))
    return sorted(map(list, found))


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even inside a function, or for annotations: whoever reads one of them would have to read them all."""
    modules = sources()
    del modules["sparsecore"]  # a table of names, each imported when it is first used
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = imports(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
        targets = {each.target if each.target in modules else each.source for each in found}
        arrows[module] = (targets & modules.keys()) - {module, "sparsecore"}  # which hands out what is in every room
    assert circles(arrows) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}) == [["b", "c"], ["d"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_runtime_imports_are_the_declared_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split("[^a-z0-9-]", requirement)[0] for requirement in project["dependencies"]}
    distributions = packages_distributions()
    assert declared | {"llvmlite"} == {distributions[name][0].lower() for name in RUNTIME}  # llvmlite: numba's own


def test_importing_does_no_work() -> None:
    """No module brings in an optional package or compiles a kernel while it is imported."""
    rooms = {room for names in ROOMS.values() for room in names}
    modules = [m for m in sources() if not within(m, "bench", *rooms) and not m.endswith("__main__")]
    code = f"""
import sys
from numba.core import event
class Compilations(event.Listener):
    def on_start(self, event): print("compiled at import:", event.data["dispatcher"])
    def on_end(self, event): pass
event.register("numba:compile", Compilations())
for module in {modules}: __import__(module)
for name in {sorted(ROOMS)}:
    if name in sys.modules: print("imported:", name)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
