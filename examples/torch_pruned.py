"""PyTorch: prune a model with its own tools, then train what is left in sparse storage."""

import torch
from torch import nn
from torch.nn.utils import prune

from sparsecore.interop.torch import sparsify


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    prune.l1_unstructured(model[0], "weight", 0.9)
    x, labels = torch.randn(512, 64), torch.randint(10, (512,))
    masked = model(x)
    sparsify(model)
    print(model)
    assert torch.allclose(model(x), masked, atol=1e-5)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
    assert losses[-1] < 0.5 * losses[0]


if __name__ == "__main__":
    main()
