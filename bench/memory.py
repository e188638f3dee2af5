"""What runs take of memory beside what `--plan` says, each in a process of its own: `python -m bench.memory`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .tables import markdown

STATUS = Path("/proc/self/status")
WIDE: dict[str, Any] = {"model": "lenet300", "hidden": (6000, 2000)}
MIDDLE: dict[str, Any] = {"model": "lenet300", "hidden": (3000, 1000)}
RUNS: dict[str, dict[str, Any]] = {
    "LeNet-300-100, dense": {"model": "lenet300", "dense": True},
    "784-3000-1000-10, dense, 512": MIDDLE | {"dense": True, "batch_size": 512},
    "784-6000-2000-10, 90%, Adam": WIDE | {"random": True, "sparsity": 0.9, "optimizer": "adam"},
    "784-6000-2000-10, RadiX-Net, 1,024": WIDE | {"radix": [[10, 10]], "batch_size": 1024},
    "784-3000-1000-10, 90%, SET, Adam": MIDDLE | {"sparsity": 0.9, "rewire": "set", "every": 5, "epochs": 2,
                                                  "optimizer": "adam"},
    "784-6000-2000-10, 95%, RigL": WIDE | {"sparsity": 0.95, "rewire": "rigl", "every": 5, "epochs": 2},
    "784-6000-2000-10, 95%, regrowth": WIDE | {"sparsity": 0.95, "rewire": "regrow", "every": 5, "epochs": 2},
    "784-3000-1000-10, pruned gradually": MIDDLE | {"dense": True, "prune": "gradual", "prune_to": 0.9,
                                                    "prune_every": 5},
    "784-3000-1000-10, pruned once, Adam": MIDDLE | {"dense": True, "prune": "one-time", "prune_to": 0.9,
                                                     "optimizer": "adam"},
    "LeNet-5, dense": {"model": "lenet5", "dense": True},
    "LeNet-5, wide, 80%, 64, Adam": {"model": "lenet5", "random": True, "sparsity": 0.8, "hidden": (40, 100, 2000),
                                     "optimizer": "adam", "batch_size": 64},
    "LeNet-5, 80%, COO, 512, Adam": {"model": "lenet5", "random": True, "sparsity": 0.8, "format": "coo",
                                     "optimizer": "adam", "batch_size": 512},
    "ResNet-20, dense": {"model": "resnet20", "dense": True},
    "ResNet-20, twice as wide, 90%, 32": {"model": "resnet20", "random": True, "sparsity": 0.9, "width": 2.0,
                                          "batch_size": 32},
    "VGG-11, dense, 64, Adam": {"model": "vgg11", "dense": True, "optimizer": "adam", "batch_size": 64},
    "VGG-11, 90%, 32": {"model": "vgg11", "random": True, "sparsity": 0.9, "batch_size": 32},
    "VGG-11, half as wide, 90%, RigL": {"model": "vgg11", "sparsity": 0.9, "width": 0.5, "rewire": "rigl", "every": 1,
                                        "epochs": 2},
}  # fmt: skip
"""Configurations, by what a table calls them; batches of 128 where nothing else is said."""


def given(name: str, images: str) -> dict[str, Any]:
    """The fields of a run; `images` is the file that deep networks read."""
    deep = RUNS[name]["model"] in ("resnet20", "vgg11")
    return {"dataset": images if deep else "mnist-subset", "epochs": 1, "batch_size": 128} | RUNS[name]


def write_images(path: Path) -> str:
    """A data set of 500 coloured images of noise in ten classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (500, 3, 32, 32), dtype=np.uint8), np.arange(500) % 10
    np.savez(path, x=x[:300], y=y[:300], x_test=x[300:], y_test=y[300:])
    return str(path)


def peak(config: dict[str, Any]) -> int:
    """Bytes that a process has at most which does nothing but this run, and compiles nothing for it."""
    command = [sys.executable, "-m", "bench.memory", json.dumps(config)]
    found = [subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
             for _ in range(2)]  # fmt: skip
    return min(int(each.stdout.split()[-1]) for each in found)  # the first may compile kernels, which takes memory


def planned(config: dict[str, Any]) -> int:
    """Bytes that `--plan` says."""
    from sparsecore import RunConfig
    from sparsecore.commands.plan import plan

    return plan(RunConfig(**config)).total


def main(names: list[str]) -> None:
    body = []
    with TemporaryDirectory() as folder:
        images = write_images(Path(folder) / "images.npz")
        for name in names or RUNS:
            config = given(name, images)
            said, taken = planned(config), peak(config)
            body.append([name, f"{said / 1e6:,.0f}", f"{taken / 1e6:,.0f}", f"{100 * (said / taken - 1):+.0f}%"])
            print(*body[-1], file=sys.stderr, flush=True)
    print(markdown("Memory of whole processes, in MB", ["run", "planned", "taken", "planned over taken"], body))


def _run(config: dict[str, Any]) -> None:
    from sparsecore import RunConfig, run

    with TemporaryDirectory() as folder:  # a run writes checkpoints, which takes no memory
        run(RunConfig(**config), out=Path(folder) / "run")
    (line,) = (line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    print(int(line.split()[1]) << 10)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("{"):
        _run(json.loads(sys.argv[1]))
    else:
        main(sys.argv[1:])
