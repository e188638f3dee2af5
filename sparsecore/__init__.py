"""Train sparse neural networks in sparse storage: a weight that is not stored costs nothing."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `kernels/` and `models/` stand beside this folder, not inside it. An installed package has
# both as subfolders and finds them first.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))
del _root, Path
