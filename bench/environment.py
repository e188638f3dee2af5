"""The environment to time in, settled before NumPy is imported: threads of every library, BLAS's own kernels."""

from __future__ import annotations

import os
import sys

THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""They make OpenBLAS use kernels for another processor, and beside a slow dense baseline all others look fast."""


def settled(threads: int) -> dict[str, str]:
    """The environment to time in: every library on `threads` threads, BLAS on its own kernels."""
    kept = {name: value for name, value in os.environ.items() if name not in FORCED}
    return kept | dict.fromkeys(THREADS, str(threads))


def settle(threads: int) -> None:
    """Start this program again in a settled environment, unless it is in one."""
    wanted = settled(threads)
    if wanted == dict(os.environ):
        return
    forced = [name for name in FORCED if name in os.environ]
    if forced:
        print(f"note: {' and '.join(forced)} would slow the dense baseline down; starting again without.", flush=True)
    os.execve(sys.executable, sys.orig_argv, wanted)
