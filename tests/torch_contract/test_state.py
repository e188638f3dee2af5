"""States, copies, moves and hooks: what a module holds, and what others may do with it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402

from .subjects import Subject, each_subject, one_line  # noqa: E402


def same(one: Any, other: Any, x: Any) -> bool:
    return torch.equal(one(x), other(x))


@each_subject
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_loads_into_another_module(subject: Subject, assign: bool) -> None:
    one, other, x = subject.make(1), subject.make(2), subject.x()
    assert not same(one, other, x)
    held = dict(other.named_parameters())
    state = copy.deepcopy(one.state_dict())
    assert str(other.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
    assert same(one, other, x)
    assert all((now is held[name]) is not assign for name, now in other.named_parameters())
    assert list(other.state_dict()) == list(one.state_dict())
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())


@each_subject
def test_a_file_holds_a_state(subject: Subject) -> None:
    one, other, x, file = subject.make(1), subject.make(2), subject.x(), io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same(one, other, x)


@each_subject
def test_a_state_of_a_model_has_its_names_and_shares_its_memory(subject: Subject) -> None:
    module = subject.make(1)
    model = nn.ModuleDict({"inner": module})
    state, own = model.state_dict(), module.state_dict()
    assert list(state) == [f"inner.{name}" for name in own]
    for name, parameter in module.named_parameters():
        assert state[f"inner.{name}"].data_ptr() == parameter.data_ptr()
        assert not state[f"inner.{name}"].requires_grad
    assert all(value.requires_grad for name, value in module.state_dict(keep_vars=True).items()
               if name in dict(module.named_parameters()))  # fmt: skip


@each_subject
def test_a_state_that_lacks_something_loads_only_if_it_may(subject: Subject) -> None:
    one, other, x = subject.make(1), subject.make(1), subject.x()
    names = [name for name in one.state_dict() if name.endswith("bias")]
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.mul_(2)
    state = {name: value for name, value in one.state_dict().items() if name not in names} | {"more": torch.zeros(1)}
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\)[\s\S]*Unexpected key\(s\)"):
        other.load_state_dict(state)
    found = other.load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (names, ["more"])
    assert all(torch.equal(other.state_dict()[name], before[name]) for name in names)
    other.load_state_dict({name: one.state_dict()[name] for name in names}, strict=False)
    assert same(one, other, x)


@each_subject
def test_a_state_of_another_shape_is_refused(subject: Subject) -> None:
    module, x = subject.make(1), subject.x()
    expected = module(x)
    for name, value in module.state_dict().items():
        with pytest.raises(RuntimeError, match="Error"):
            module.load_state_dict(module.state_dict() | {name: torch.cat([value, value])})
        assert torch.equal(module(x), expected)


def saved(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": saved}


@each_subject
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_computes_the_same_and_shares_nothing(subject: Subject, copied: Any) -> None:
    module, x = subject.make(1).eval(), subject.x()
    next(module.parameters()).requires_grad_(False)
    module(x).sum().backward()
    other = copied(module)
    assert same(module, other, x) and not other.training
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in module.parameters()]
    expected = module(x)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(module(x), expected) and not other(x).any()


@each_subject
def test_memory_that_is_shared(subject: Subject) -> None:
    """Between processes it is tried in test_ranks.py."""
    module, x = subject.make(1), subject.x()
    expected = module(x)
    assert module.share_memory() is module
    assert all(each.is_shared() for each in (*module.parameters(), *module.buffers()))
    assert torch.equal(module(x), expected)
    module(x).sum().backward()


@each_subject
def test_other_dtypes_and_back(subject: Subject) -> None:
    module, x = subject.make(1), subject.x()
    expected, held = module(x), list(module.parameters())
    assert module.double() is module and all(p.dtype == torch.float64 for p in module.parameters())
    torch.testing.assert_close(module(x.double()), expected.double(), rtol=1e-5, atol=1e-5)
    with pytest.raises((TypeError, RuntimeError)) as caught:
        module(x)
    one_line(caught.value)
    module.to(torch.float32)
    assert torch.equal(module(x), expected)
    assert all(now is then for now, then in zip(module.parameters(), held, strict=True))
    module(x).sum().backward()
    there = module.to(memory_format=torch.channels_last)(x)
    assert torch.equal(there, expected) or not subject.ours, "ours have the same bits; PyTorch's, by processor"
    torch.testing.assert_close(there, expected)


@each_subject
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_half_computes_or_refuses_by_one_line(subject: Subject, narrow: Any) -> None:
    module, x = subject.make(1), subject.x()
    expected = module(x)
    module.to(narrow)
    if subject.ours:
        with pytest.raises(TypeError, match=r"float32 or float64, got torch\.b?float16: call \.float\(\)") as caught:
            module(x.to(narrow))
        one_line(caught.value)
    else:
        assert module(x.to(narrow)).dtype == narrow
    torch.testing.assert_close(module.float()(x), expected, rtol=0.02, atol=0.02)


@each_subject
def test_the_meta_device_and_back(subject: Subject) -> None:
    module, x = subject.make(1), subject.x()
    state, expected = copy.deepcopy(module.state_dict()), module(x)
    module.to("meta")
    assert all(each.is_meta for each in (*module.parameters(), *module.buffers()))
    module.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(module(x), expected)


@each_subject
def test_hooks_of_passes(subject: Subject) -> None:
    module, x, seen = subject.make(1), subject.x().requires_grad_(), []
    handles = [
        module.register_forward_pre_hook(lambda m, given: seen.append(("before", given[0].shape))),
        module.register_forward_hook(lambda m, given, y: seen.append(("after", y.shape))),
        module.register_full_backward_pre_hook(lambda m, dy: seen.append(("dy", dy[0].shape))),
        module.register_full_backward_hook(lambda m, dx, dy: seen.append(("dx", dx[0].shape))),
    ]
    y = module(x)
    y.sum().backward()
    assert seen == [("before", x.shape), ("after", y.shape), ("dy", y.shape), ("dx", x.shape)]
    for handle in handles:
        handle.remove()
    module(x).sum().backward()
    assert len(seen) == 4


@each_subject
def test_hooks_that_change_what_passes(subject: Subject) -> None:
    """By powers of two, which round nothing: what attention cancels of thirds and fifths is more than a tolerance."""
    module, x = subject.make(1), subject.x().requires_grad_()
    plain = module(2 * x)
    (wanted,) = torch.autograd.grad(plain, x, torch.ones_like(plain))
    module.register_forward_pre_hook(lambda m, given: (2 * given[0],))
    module.register_forward_hook(lambda m, given, y: 4 * y)
    module.register_full_backward_hook(lambda m, dx, dy: (8 * dx[0],))
    y = module(x)
    assert torch.equal(y, 4 * plain)
    assert torch.equal(torch.autograd.grad(y, x, torch.ones_like(y))[0], 32 * wanted)


@each_subject
def test_hooks_of_states(subject: Subject) -> None:
    module, other = subject.make(1), subject.make(2)

    def renamed(m: Any, state: dict[str, Any], prefix: str, meta: Any) -> None:
        for name in list(state):
            state[f"old.{name}"] = state.pop(name)

    def named(m: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in list(state):
            state[name.removeprefix("old.")] = state.pop(name)

    told: list[str] = []
    module.register_state_dict_pre_hook(lambda m, prefix, keep: told.append("saves"))
    module.register_state_dict_post_hook(renamed)
    other.register_load_state_dict_pre_hook(named)
    other.register_load_state_dict_post_hook(lambda m, keys: told.append("loaded"))
    state = module.state_dict()
    assert all(name.startswith("old.") for name in state)
    other.load_state_dict(state)
    assert told == ["saves", "loaded"] and same(module, other, subject.x())


@each_subject
def test_hooks_of_tensors_and_of_accumulated_gradients(subject: Subject) -> None:
    module, x, seen = subject.make(1), subject.x().requires_grad_(), []
    x.register_hook(lambda dx: 2 * dx)
    for name, parameter in module.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: seen.append(name))
    module(x).sum().backward()
    assert sorted(seen) == sorted(name for name, _ in module.named_parameters())
    doubled = x.grad
    y = x.detach().requires_grad_()
    module(y).sum().backward()
    torch.testing.assert_close(doubled, 2 * y.grad)


@each_subject
def test_a_functional_call_leaves_the_module_as_it_is(subject: Subject) -> None:
    module, other, x = subject.make(1), subject.make(2), subject.x()
    own, theirs = module(x), other(x)
    state = dict(other.named_parameters()) | dict(other.named_buffers())
    assert torch.equal(torch.func.functional_call(module, state, (x,)), theirs)
    assert torch.equal(module(x), own)
