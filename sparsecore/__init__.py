"""Train sparse neural networks in sparse storage: a weight that is not stored costs nothing."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .commands.training import run
    from .interop.operator import SparseOperator
    from .layers import Layer, ReLU, SparseLinear
    from .network import Network
    from .runs.checkpoint import CheckpointError, load, save
    from .runs.config import RunConfig
    from .runs.trainer import Trainer
    from .runtime.devices import get_threads, set_threads
    from .storage.pattern import SparsityPattern
    from .training.optimizers import SGD, Adam, AdamW

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CheckpointError",
    "Layer",
    "Network",
    "ReLU",
    "RunConfig",
    "SparseLinear",
    "SparseOperator",
    "SparsityPattern",
    "Trainer",
    "get_threads",
    "load",
    "run",
    "save",
    "set_threads",
]

# In a checkout `kernels/` and `models/` stand beside this folder, not inside it. An installed package has
# both as subfolders and finds them first.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))
del _root, Path

from ._package import MOVED as _MOVED  # noqa: E402
from ._package import VERSION as _VERSION  # noqa: E402

__version__ = _VERSION

_MODULES = {
    "SGD": "training.optimizers",
    "Adam": "training.optimizers",
    "AdamW": "training.optimizers",
    "CheckpointError": "runs.checkpoint",
    "Layer": "layers",
    "Network": "network",
    "ReLU": "layers",
    "RunConfig": "runs.config",
    "SparseLinear": "layers",
    "SparseOperator": "interop.operator",
    "SparsityPattern": "storage.pattern",
    "Trainer": "runs.trainer",
    "get_threads": "runtime.devices",
    "load": "runs.checkpoint",
    "run": "commands.training",
    "save": "runs.checkpoint",
    "set_threads": "runtime.devices",
}


def __getattr__(name: str) -> Any:
    """The names above, each imported when it is first asked for: `import sparsecore` itself costs nothing."""
    if name in _MOVED:
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
