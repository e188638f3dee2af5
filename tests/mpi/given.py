"""Starting jobs under mpiexec."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
HERE = {
    "PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PYTHONFAULTHANDLER": "1",
}  # fmt: skip
"""Where Open MPI is not asked to, it does not start as root, nor more ranks than there are processors."""

PACED = """
import sys, time
from sparsecore import train
from sparsecore.training.step import Step

run = Step.run

def paced(*given):
    time.sleep(0.02)
    run(*given)

Step.run = paced
sys.exit(train.main(sys.argv[1:]))
"""
"""`python -m sparsecore.train` where no step takes less: a run of a hundred steps can be met under way."""

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None, reason="needs MPI and mpi4py: pip install 'sparsecore[mpi]'"
)


def command(ranks: int, *words: str) -> list[str]:
    """The words that start Python on these words: that many times together, or once alone."""
    python = [sys.executable, *words]
    return python if ranks == 1 else [str(MPIEXEC), "-n", str(ranks), *python]


def started(ranks: int, *words: str, cwd: Path | None = None, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a job to its end."""
    return subprocess.run(
        command(ranks, *words), cwd=cwd, env=os.environ | HERE, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
