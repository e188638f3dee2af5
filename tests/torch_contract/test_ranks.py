"""Several processes: `DistributedDataParallel` on gloo, shared memory, and modules handed from one to another."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import distributed, nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from .subjects import OURS, SUBJECTS, Subject, each_subject  # noqa: E402

STEPS = 20
pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)


def trained(subject: Subject, rank: int, **options: Any) -> tuple[Any, Any]:
    """A module that begins with other values and connections on each rank, after some steps on other batches; and what
    it answers to the same.
    """
    module = subject.make(10 + rank)
    model = DistributedDataParallel(module, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    torch.manual_seed(rank)
    for k in range(STEPS):
        optimizer.zero_grad()
        (model(subject.x(2 + k % 3)) - 1).square().mean().backward()
        optimizer.step()
    torch.manual_seed(7)
    return module.state_dict(), model(subject.x()).detach()


def sharded(subject: Subject) -> str:
    """What FSDP says, or that it gives what the module gives."""
    from torch.distributed.fsdp import fully_shard

    x, module = subject.x(), subject.make(1)
    expected = module(x)
    try:
        fully_shard(module)
        found = module(x)
    except (TypeError, RuntimeError, NotImplementedError, ValueError) as error:
        return str(error)
    return "right" if torch.allclose(found, expected) else "wrong"


def on_a_rank(rank: int, folder: str, shared: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        found = {name: trained(subject, rank) for name, subject in SUBJECTS.items()}
        found["static graph"] = trained(SUBJECTS["SparseLinear"], rank, static_graph=True)
        found["views of buckets"] = trained(SUBJECTS["SparseLinear"], rank, gradient_as_bucket_view=True)
        torch.save(found, f"{folder}/{rank}.pt")
        told = {name: sharded(subject) for name, subject in OURS.items()}
        torch.save(told, f"{folder}/told{rank}.pt")
        if rank == 0:  # what one process writes to memory that is shared, the other reads
            with torch.no_grad():
                for module in shared.values():
                    for parameter in module.parameters():
                        parameter.mul_(2)
        distributed.barrier()
    finally:
        gc.collect()  # models before the group: the last to let go of it may wait for its threads with the GIL in hand
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two processes have written, and the modules whose memory they shared."""
    where = tmp_path_factory.mktemp("ranks")
    shared = {name: subject.make(1).share_memory() for name, subject in SUBJECTS.items()}
    for module in shared.values():
        module.requires_grad_(False)
    torch.multiprocessing.spawn(on_a_rank, (str(where), shared), nprocs=2)
    return where, shared


@pytest.mark.parametrize("name", [*SUBJECTS, "static graph", "views of buckets"])
def test_ranks_of_other_seeds_answer_alike_after_some_steps(name: str, folder: tuple[Path, Any]) -> None:
    (one, y), (other, z) = (torch.load(folder[0] / f"{rank}.pt")[name] for rank in range(2))
    assert torch.equal(y, z) and bool(torch.isfinite(y).all())
    assert list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)
    if name in SUBJECTS:
        module = SUBJECTS[name].make(3)
        module.load_state_dict(one)
        torch.manual_seed(7)
        torch.testing.assert_close(module(SUBJECTS[name].x()), y)


@pytest.mark.parametrize("name", OURS)
def test_fsdp_is_right_or_refused(name: str, folder: tuple[Path, Any]) -> None:
    for rank in range(2):
        said = torch.load(folder[0] / f"told{rank}.pt")[name]
        assert said == "right" or ("\n" not in said and ("SparseLinear" in said or name in said)), said


@each_subject
def test_memory_is_shared_between_processes(subject: Subject, folder: tuple[Path, Any]) -> None:
    name = next(each for each, other in SUBJECTS.items() if other is subject)
    module, mine, x = folder[1][name], subject.make(1), subject.x()
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.mul_(2)
    assert torch.equal(module(x), mine(x))


@each_subject
def test_a_parallel_model_has_the_modules_own_state(subject: Subject) -> None:
    """`DataParallel` without devices is the module itself."""
    module, x = subject.make(1), subject.x()
    model = nn.DataParallel(module)
    assert torch.equal(model(x), module(x))
    assert list(model.state_dict()) == [f"module.{name}" for name in module.state_dict()]
