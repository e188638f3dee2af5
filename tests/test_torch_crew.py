"""Modules on PyTorch's own threads: the same bits, from any thread, beside others, and in forked children."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from sparsecore.interop.torch import SparseConv2d, SparseLinear, function  # noqa: E402
from sparsecore.interop.torch.crew import crew  # noqa: E402
from sparsecore.runtime.devices import set_threads  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    set_threads(2)
    yield
    torch.set_num_threads(before)
    set_threads(None)


needed = pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="this PyTorch has no OpenMP")


def modules() -> list[tuple[Any, tuple[int, ...]]]:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    image = SparseConv2d(uniform_random(32, 16 * 9, 0.9, rng), 3, padding=1)
    return [
        (SparseLinear(784, 300, sparsity=0.9), (130, 784)),
        (SparseLinear(64, 1024, sparsity=0.5), (700, 64)),
        (image, (20, 16, 12, 12)),
    ]


def passes(module: Any, x: Any) -> list[Any]:
    """The output, and all gradients."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(torch.cos(y.detach()))
    return [y.detach(), x.grad, module.weight.grad.clone(), module.bias.grad.clone()]


@needed
def test_it_is_used_unless_somebody_has_asked_for_another_number() -> None:
    found = crew()
    assert found is not None and found.threads == 2
    set_threads(None)
    assert crew() is found and found.threads == 2
    torch.set_num_threads(3)
    assert crew() is found and found.threads == 3
    torch.set_num_threads(2)
    set_threads(2)
    torch.set_num_threads(1)
    assert crew() is None
    torch.set_num_threads(2)
    set_threads(1)
    assert crew() is None
    set_threads(3)
    assert crew() is None


@needed
def test_bits_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    lists, team = [], crew()

    class Counted:
        def run(self, *given: Any) -> None:
            lists.append(given[-1])
            team.run(*given)

    for module, shape in modules():
        x = torch.randn(shape)
        set_threads(1)
        alone = passes(module, x)
        set_threads(2)
        with monkeypatch.context() as patched:
            patched.setattr(function, "crew", Counted)
            for _ in range(5):
                assert all(torch.equal(a, b) for a, b in zip(passes(module, x), alone, strict=True))
    assert len(lists) == 30 and max(lists) > 1  # fifteen passes there and back, some of them cut into parts


def test_many_python_threads_at_once() -> None:
    found: list[Any] = []

    def work(module: Any, x: Any, right: list[Any]) -> None:
        for _ in range(30):
            with torch.no_grad():
                y = module(x)
            if not torch.equal(y, right[0]):
                found.append(module)

    jobs = [(module, x, passes(module, x)) for module, shape in modules() for x in (torch.randn(shape),)]
    workers = [threading.Thread(target=work, args=job) for job in jobs * 2]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not found and not any(worker.is_alive() for worker in workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_on_threads_of_its_own() -> None:
    module, shape = modules()[0]
    x = torch.randn(shape)
    with torch.no_grad():
        right = module(x)  # by PyTorch's threads, of which the child has none: not even its copies are safe there
        child = os.fork()
        if child == 0:
            right_there = False
            try:
                right_there = crew() is None and np.array_equal(module(x).numpy(), right.numpy())
            finally:
                os._exit(0 if right_there else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needed
def test_having_lost_time_it_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsecore.kernels.cpu.crew import ENTERED
    from sparsecore.kernels.cpu.threads import ALONE

    module, shape = modules()[0]
    x = torch.randn(shape)
    right = passes(module, x)
    team = crew()
    entered = int(team._words[ENTERED])
    team._words[ALONE] = 2**62
    try:
        found = passes(module, x)
    finally:
        team._words[ALONE] = 0
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert int(team._words[ENTERED]) == entered


def test_a_region_that_ends_late_is_time_lost() -> None:
    """One that a thread without a processor holds open: the caller soon computes alone, and not in such regions."""
    from sparsecore.kernels.cpu.call import WORDS
    from sparsecore.kernels.cpu.crew import Crew

    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    regions = 0

    @kind
    def parallel(member: int, data: int, threads: int, flags: int) -> None:
        nonlocal regions
        regions += 1
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(member)(data)
        time.sleep(0.002)

    slow = Crew(ctypes.cast(parallel, ctypes.c_void_p).value)
    slow.threads = 2
    for _ in range(100):
        slow.run(np.zeros(WORDS, np.int64), 0, 2)
    assert 1 <= regions <= 10
