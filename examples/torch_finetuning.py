"""PyTorch: pre-train a small transformer, make it 90% sparse, fine-tune it on a CPU, beside the same one dense.

Its texts are images of digits in sixteen pieces of 7×7 pixels. It is pre-trained as BERT is, to fill in pieces that are
missing, and fine-tuned to say which digit it is. Takes one to two minutes; `--quick` is a check of the program.
"""

import copy
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparsecore.data import load
from sparsecore.interop.torch import SparseLinear, sparsify

QUICK = "--quick" in sys.argv[1:]
WIDTH, DEPTH, EPOCHS = (32, 1, 1) if QUICK else (256, 2, 3)
BATCH, PIECES, PIXELS = 32, 16, 49


class Reader(nn.Module):
    """A transformer over pieces of an image, with one head that fills in pieces and one that names the digit."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(PIXELS, WIDTH), nn.Parameter(0.02 * torch.randn(PIECES, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.fill, self.name = nn.Linear(WIDTH, PIXELS), nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(self.embed(x) + self.place)
        return features


def pieces(images: torch.Tensor) -> torch.Tensor:
    """Images of 28×28 pixels as (batch, pieces, pixels of a piece), normalised."""
    cut = images.reshape(-1, 4, 7, 4, 7).transpose(2, 3).reshape(-1, PIECES, PIXELS)
    return (cut / 255 - 0.1307) / 0.3081


def filled(model: Reader, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """The error in pieces that were taken out, a quarter of all."""
    gone = torch.rand(x.shape[:2]) < 0.25
    return functional.mse_loss(model.fill(model(x.masked_fill(gone[..., None], 0)))[gone], x[gone])


def named(model: Reader, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model.name(model(x).mean(1)), y)


def groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Layers' weights, which decay, and all else. The weight of a sparse layer has one axis, as biases have: told by
    its layer, not by its axes."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | SparseLinear)]
    decays = {id(layer.weight) for layer in layers}
    with_decay = [each for each in model.parameters() if id(each) in decays]
    others = [each for each in model.parameters() if id(each) not in decays]
    return [{"params": with_decay, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def trained(model: Any, loss_of: Any, data: Any, epochs: int, rate: float) -> tuple[Any, float]:
    """An exponential average of the model over its steps, and the seconds of a step."""
    optimizer = torch.optim.AdamW(groups(model, 0.01), rate)
    x, y = data
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
    began = time.perf_counter()
    for k in range(steps):
        if k % (len(x) // BATCH) == 0:
            order = torch.randperm(len(x))
        at = order[BATCH * k % len(x) :][:BATCH]
        optimizer.zero_grad()
        loss_of(model, x[at], y[at]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
    return average.module, (time.perf_counter() - began) / steps


def accuracy(model: Any, data: Any) -> float:
    x, y = data
    with torch.no_grad():
        answers = torch.cat([model.name(model(part).mean(1)) for part in x.split(500)])
    return float((answers.argmax(1) == y).float().mean())


def main() -> None:
    torch.manual_seed(0)
    images = load("mnist-subset")
    some = 256 if QUICK else 8000
    train, test = (
        (pieces(torch.tensor(split.x[:some])), torch.tensor(split.y[:some]).long())
        for split in (images.train, images.test)
    )
    pretrained, _ = trained(Reader(), filled, train, 1, 1e-3)

    found = {}
    for what in ("dense", "sparse"):
        model = copy.deepcopy(pretrained)
        if what == "sparse":  # the largest tenth of each layer's weights; what is small already stays dense
            sparsify(model, 0.9, skip=["embed", "fill", "name"])
            print(model.sparsified)
        torch.manual_seed(1)
        model, seconds = trained(model, named, train, EPOCHS, 1e-3)
        parameters = sum(each.numel() for each in model.encoder.parameters())
        found[what] = accuracy(model, test), seconds
        print(f"{what}: {100 * found[what][0]:.1f}% right, {1e3 * seconds:.0f} ms a step, {parameters:,} parameters")
    print(f"{found['dense'][1] / found['sparse'][1]:.1f} times as fast")

    torch.save(model.state_dict(), "reader.pt")  # the connections are in it
    torch.manual_seed(2)
    again: Any = sparsify(Reader(), 0.9, skip=["embed", "fill", "name"])  # has others until it loads
    again.load_state_dict(torch.load("reader.pt"))
    assert accuracy(again, test) == found["sparse"][0]
    if not QUICK:
        assert found["sparse"][0] > found["dense"][0] - 0.02 > 0.85, "a tenth of the weights is enough"


if __name__ == "__main__":
    main()
