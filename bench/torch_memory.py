"""How much memory a training takes at most: measured in a process of its own, above what that had before the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
STEPS = 3


def peak(name: str, layout: str, batch: int, threads: int, sizes: int = 0, *, small: bool) -> dict[str, float] | None:
    """MiB of a training above those of the process before the model is built.

    Parameters
    ----------
    name, layout
        As of `torch_models.Training`.
    sizes : int
        Of as many batch sizes, from `batch` downwards, answers and steps of training follow.

    Returns
    -------
    dict or None
        "peak": at most during the first steps. "after": what stays when they are over; "grown": what the other sizes
        add to that. None where the system does not say.
    """
    if not STATUS.exists():
        return None
    arguments = [name, layout, str(batch), str(threads), str(sizes), str(int(small))]
    command = [sys.executable, "-m", "bench.torch_memory", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _mib(field: str) -> float:
    """VmRSS, what the process has now, or VmHWM, what it has had at most."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main(name: str, layout: str, batch: int, threads: int, sizes: int, small: bool) -> None:
    import torch

    from sparsecore.runtime.devices import set_threads

    from .engines.torch_models import MODELS, Training

    set_threads(threads)
    torch.set_num_threads(threads)
    torch.ones(8, 8, requires_grad=True).mm(torch.ones(8, 8)).sum().backward()  # threads and BLAS have what they need
    if name == "bert":
        MODELS[name].make(*MODELS[name].small)  # imports transformers
    before = _mib("VmRSS")
    training = Training(name, layout, batch, small)
    for _ in range(STEPS):
        training.run()
    found = {"peak": _mib("VmHWM") - before, "after": _mib("VmRSS") - before}
    for size in range(batch - 1, batch - 1 - sizes, -1):
        training.x, training.labels = training.batch(size)
        training.run()
        training.answer(size)
    found["grown"] = _mib("VmRSS") - before - found["after"]
    print(json.dumps(found))


if __name__ == "__main__":
    name, layout, *numbers = sys.argv[1:]
    batch, threads, sizes, small = map(int, numbers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    main(name, layout, batch, threads, sizes, bool(small))
