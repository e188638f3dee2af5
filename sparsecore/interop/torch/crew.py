"""PyTorch's own threads, for products under PyTorch: those of ours would have to wait until they go to sleep."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...runtime.devices import cpu


def crew() -> Any:
    """Whose threads run what modules compute: PyTorch's, or None, the engine's own.

    PyTorch's, where it has several, unless somebody has asked the engine for another number.
    """
    device, threads = cpu(), torch.get_num_threads()
    if threads == 1 or (device.given is not None and device.given != threads):
        return None
    found = _crew()
    if found is None or not found.alive:
        return None
    found.threads = threads
    return found


@cache
def _crew() -> Any:
    """The threads of the OpenMP that PyTorch was linked with, if that can be asked for a region."""
    from ...kernels.cpu.crew import Crew

    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if sys.platform != "linux" or not torch.backends.openmp.is_available() or not library.exists():
        return None
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel  # its own, or that of a library which it needs
    except (OSError, AttributeError):
        return None
    return Crew(ctypes.cast(parallel, ctypes.c_void_p).value or 0)
