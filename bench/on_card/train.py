"""Part (d): the main job, LeNet-300-100 as a RadiX-Net on the embedded digits, on the card; and beside it on the
processor, if there is time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from . import results


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for device in ("cuda", "cpu"):
            _train(device, folder)


def _train(device: str, folder: str) -> None:
    from sparsecore import RunConfig, run
    from sparsecore.training.callbacks import Callback

    class Written(Callback):
        def recorded(self, record: Any) -> None:
            results.write("train", {"on": device, **record})

    given: dict[str, Any] = {"dataset": _few_digits(Path(folder)), "epochs": 1} if results.small() else {
        "dataset": "mnist-subset"
    }  # fmt: skip
    run(RunConfig(model="lenet300", radix=((10, 10),), device=device, **given), callbacks=[Written()])


def _few_digits(folder: Path) -> str:
    """The first of the embedded digits, as somebody's own."""
    from sparsecore.data import load

    digits, path = load("mnist-subset").train, folder / "digits.npz"
    np.savez(path, x=digits.x[:320].reshape(-1, 28, 28), y=digits.y[:320])
    return str(path)


if __name__ == "__main__":
    main()
