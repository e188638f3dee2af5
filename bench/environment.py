"""The environment to time in, settled before NumPy is imported: threads of every library, BLAS's own kernels."""

from __future__ import annotations

import os
import sys

THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""They make OpenBLAS use kernels for another processor, and beside a slow dense baseline all others look fast."""


AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
"""They make Numba compile for AVX2: sixteen registers of 256 bits."""


def settled(threads: int, avx2: bool = False) -> dict[str, str]:
    """The environment to time in: every library on `threads` threads, BLAS on its own kernels.

    With `avx2` this engine is compiled for AVX2; the other libraries choose their kernels as ever.
    """
    kept = {name: value for name, value in os.environ.items() if name not in FORCED}
    return kept | dict.fromkeys(THREADS, str(threads)) | (AVX2 if avx2 else {})


def settle(threads: int, avx2: bool = False) -> None:
    """Start this program again in a settled environment, unless it is in one."""
    wanted = settled(threads, avx2)
    if wanted == dict(os.environ):
        return
    forced = [name for name in FORCED if name in os.environ]
    if forced:
        print(f"note: {' and '.join(forced)} would slow the dense baseline down; starting again without.", flush=True)
    os.execve(sys.executable, sys.orig_argv, wanted)
