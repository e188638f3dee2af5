"""Models as people train them in PyTorch, dense or made sparse by `sparsify`, and a step of their training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sparsecore.interop.torch import sparsify

SPARSITY = 0.9
LAYOUTS = "contiguous", "channels last"
"""Of images in memory: (batch, channels, height, width), or with channels last."""


class Block(nn.Module):
    """He et al. (2015), figure 5, left: two convolutions, and a way around them."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += around
        out: torch.Tensor = self.relu(y)
        return out


def resnet18(width: int = 64) -> nn.Module:
    """ResNet-18 as torchvision has it, 11,173,962 parameters, with the stem for images of 32×32: 3×3, no pooling."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    channels = width
    for k in range(4):
        out = width << k
        layers += [Block(channels, out, 2 if k else 1), Block(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Texts(nn.Module):
    """An encoder of texts with a head for classes, where transformers is not installed."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, functional.gelu, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        out: torch.Tensor = self.classifier(self.encoder(x)[:, 0])
        return out


VOCABULARY, LENGTH = 8000, 128


def bert(width: int = 256, depth: int = 4) -> nn.Module:
    """BERT of transformers (Devlin et al., 2018) at this size, or an `nn.TransformerEncoder` of it."""
    try:
        import transformers
    except ImportError:
        return Texts(VOCABULARY, LENGTH, width, depth)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=depth, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=LENGTH, num_labels=2,
    )  # fmt: skip
    made: nn.Module = transformers.BertForSequenceClassification(config)
    return made


class Model(NamedTuple):
    """A model, its inputs, and how it is trained."""

    make: Callable[..., nn.Module]
    small: tuple[int, ...]
    inputs: Callable[[int, bool], torch.Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    layouts: tuple[str, ...]


def _images(batch: int, small: bool) -> torch.Tensor:
    return torch.randn(batch, 3, *((8, 8) if small else (32, 32)))


def _tokens(batch: int, small: bool) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, 6 if small else LENGTH))


MODELS = {
    "resnet18": Model(resnet18, (8,), _images, lambda p: torch.optim.SGD(p, 1e-3, 0.9), LAYOUTS),
    "bert": Model(bert, (16, 1), _tokens, lambda p: torch.optim.AdamW(p, 1e-4), ("contiguous",)),
}


class Training:
    """A model under training on one batch, or on batches of several sizes.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    layout : str
        Of `LAYOUTS`, with "sparse, " before it for a model made sparse by `sparsify`.
    small : bool
        The same at a size that takes no time.
    """

    def __init__(self, name: str, layout: str, batch: int, small: bool) -> None:
        torch.manual_seed(0)
        self.of, self.small = MODELS[name], small
        self.model = self.of.make(*(self.of.small if small else ()))
        self.layout = torch.channels_last if layout.endswith("channels last") else torch.contiguous_format
        self.model.to(memory_format=self.layout)
        if layout.startswith("sparse"):
            sparsify(self.model, SPARSITY)
        self.optimizer = self.of.optimizer(self.model.parameters())
        self.x, self.labels = self.batch(batch)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.of.inputs(size, self.small)
        return x.to(memory_format=self.layout) if x.ndim == 4 else x, torch.randint(2, (size,))

    def run(self) -> float:
        """Forward, backward and the optimizer's update; the loss."""
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self._logits(self.x), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def answer(self, size: int) -> None:
        """The model's answers to another number of samples, outside training."""
        self.model.eval()
        with torch.no_grad():
            self._logits(self.batch(size)[0])
        self.model.train()

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        y: Any = self.model(x)
        logits: torch.Tensor = y if isinstance(y, torch.Tensor) else y.logits
        return logits
