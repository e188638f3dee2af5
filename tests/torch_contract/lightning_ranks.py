"""What each of two processes that Lightning starts does: a module that can be imported, as `spawn` needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparsecore.interop.torch import SparseLinear


class Model(lightning.LightningModule):  # type: ignore[misc]
    """Makes its modules in each process, where the seeds differ."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            torch.manual_seed(self.global_rank)
            self.net = nn.Sequential(SparseLinear(16, 32, sparsity=0.8), nn.ReLU(), nn.Linear(32, 2))

    def training_step(self, batch: Any, index: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_end(self) -> None:
        torch.save(self.net.state_dict(), f"{self.folder}/{self.global_rank}.pt")


def trained_on_two(folder: Path) -> tuple[Any, Any]:
    """The states that two ranks have come to."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    x = torch.randn(64, 16)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Model(str(folder)), DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8))
    one, other = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    return one, other
