"""Averages over a model's parameters and buffers, by PyTorch and by hand: what is averaged computes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402
from torch.optim import swa_utils  # noqa: E402

from .subjects import Subject, call, each_subject  # noqa: E402

DECAY, STEPS = 0.9, 12


def training(model: Any, subject: Subject) -> Any:
    """Steps of training, one each time it is asked."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(subject.x()) - 1).square().mean().backward()
        optimizer.step()
        yield {name: each.detach().clone() for name, each in model.named_parameters()}


def agree(module: Any, expected: dict[str, Any], subject: Subject) -> None:
    """It computes with these parameters, and with the connections that the model has."""
    x = subject.x()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], check_dtype=False)
    torch.testing.assert_close(module(x), call(subject.make(1), expected, x))


def moving(mean: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    return {name: DECAY * mean[name] + (1 - DECAY) * value for name, value in values.items()}


@each_subject
@pytest.mark.parametrize("many", [False, True], ids=["one by one", "at once"])
def test_an_exponential_average_with_buffers(subject: Subject, many: bool) -> None:
    model = subject.make(1)
    of_values = {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(DECAY)} if many else {
        "avg_fn": swa_utils.get_ema_avg_fn(DECAY)
    }  # fmt: skip
    average, expected = swa_utils.AveragedModel(model, use_buffers=True, **of_values), None
    for values in training(model, subject):
        average.update_parameters(model)
        expected = values if expected is None else moving(expected, values)
    agree(average.module, expected, subject)


@each_subject
def test_an_exponential_average_by_hand_over_the_whole_state(subject: Subject) -> None:
    """As timm's ModelEma does: over everything that `state_dict` holds, which it copies before."""
    model = subject.make(1)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    expected = {name: each.detach().clone() for name, each in model.named_parameters()}
    for values in training(model, subject):
        with torch.no_grad():
            for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                mean.copy_(DECAY * mean + (1 - DECAY) * value)
        expected = moving(expected, values)
        agree(average, expected, subject)
    again = subject.make(2)
    again.load_state_dict(average.state_dict())
    agree(again, expected, subject)


@each_subject
def test_stochastic_weight_averaging(subject: Subject) -> None:
    """The mean of all, batch norms updated afterwards, rates by its own schedule."""
    model = nn.Sequential(subject.make(1), nn.Flatten(), nn.LazyBatchNorm1d(affine=False))
    model(subject.x())
    average = swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    seen: list[Any] = []
    for _ in range(6):
        optimizer.zero_grad()
        model(subject.x(5)).square().mul(torch.arange(5)[:, None]).mean().backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        seen.append({name: each.detach().clone() for name, each in model[0].named_parameters()})
    agree(average.module[0], {name: torch.stack([each[name] for each in seen]).mean(0) for name in seen[0]}, subject)
    batches = [subject.x(6) for _ in range(3)]
    swa_utils.update_bn(batches, average)
    wanted = torch.stack([average.module[0](x).flatten(1).mean(0) for x in batches]).mean(0)
    torch.testing.assert_close(average.module[2].running_mean, wanted.detach(), rtol=1e-4, atol=1e-5)
