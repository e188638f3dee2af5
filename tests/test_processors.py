"""How many processors there are to use: control groups of both versions, affinity, OpenMP's variables; and which number
of threads a run finds faster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sparsecore
from sparsecore import RunConfig
from sparsecore.commands import build
from sparsecore.commands import threads as commands_threads
from sparsecore.commands.threads import FasterThreads
from sparsecore.runtime import processors, ranks
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.training.callbacks import Callback


@pytest.fixture(autouse=True)
def processors_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    before = cpu().given
    yield
    monkeypatch.undo()
    set_threads(before)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups."""
    monkeypatch.setattr(processors, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "cgroup"


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    "quota, threads",
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8),
     ("max", 8), ("", 8), ("0 100000", 8), ("100000 0", 8), ("many 100000", 8), ("−1 100000", 8)],
)  # fmt: skip
def test_a_quota_of_version_2(groups: Path, quota: str, threads: int) -> None:
    put(groups.parent, membership="0::/job/task")
    put(groups / "job" / "task", cpu__max=quota)
    assert processors.default_threads() == threads


def test_the_narrowest_group_around_decides(groups: Path) -> None:
    put(groups.parent, membership="0::/job/task")
    put(groups / "job" / "task", cpu__max="700000 100000")
    put(groups / "job", cpu__max="300000 100000")
    assert processors.default_threads() == 3
    put(groups, cpu__max="200000 100000")
    assert processors.default_threads() == 2


@pytest.mark.parametrize("quota, threads", [("-1", 8), ("250000", 3), ("100000", 1)])
@pytest.mark.parametrize(
    "controllers, mounted", [("cpu,cpuacct", "cpu,cpuacct"), ("cpu", "cpu"), ("cpu,cpuacct", "cpu")]
)
def test_a_quota_of_version_1(groups: Path, quota: str, threads: int, controllers: str, mounted: str) -> None:
    put(groups.parent, membership=f"5:memory:/other\n4:{controllers}:/slurm/job\n1:name=systemd:/")
    put(groups / "memory" / "other", cpu__cfs_quota_us="1000", cpu__cfs_period_us="1000")
    put(groups / mounted / "slurm" / "job", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert processors.default_threads() == threads


def test_a_container_sees_the_root_of_its_group_alone(groups: Path) -> None:
    put(groups.parent, membership="0::/../../docker/1234")
    put(groups, cpu__max="400000 100000")
    assert processors.default_threads() == 4


def test_without_groups_affinity_decides(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processors.default_threads() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert processors.default_threads() == 1


@pytest.mark.parametrize(
    "number, limit, threads",
    [("4", None, 4), ("+4", None, 4), (" 4 ", None, 4), ("4,2,1", None, 4), (None, "3", 3), ("4", "3", 3),
     ("2", "3", 2), ("0", "0", 8), ("00", None, 8), ("-4", None, 8), ("4.5", None, 8), ("0x4", None, 8),
     ("9" * 5000, "1000000", 8)],
)  # fmt: skip
def test_what_openmp_is_told(
    groups: Path, monkeypatch: pytest.MonkeyPatch, number: str | None, limit: str | None, threads: int
) -> None:
    for name, value in (("OMP_NUM_THREADS", number), ("OMP_THREAD_LIMIT", limit)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert processors.default_threads() == threads


def test_affinity_that_changes_is_followed_where_nobody_chose(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_threads(None)
    assert get_threads() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    cpu().recorder()
    assert get_threads() == 2
    set_threads(3)
    cpu().recorder()
    assert get_threads() == 3


class Steps(Callback):
    """The threads of each step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def stepped(self, trainer: object) -> None:
        self.seen.append(get_threads())


def trained(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], **options: object
) -> tuple[list[int], list[str]]:
    """The threads of each step of a run whose steps take so long on so many threads, and what was said of them."""
    clock, said, steps = [0.0], list[str](), Steps()

    def now() -> float:
        clock[0] += seconds.get(get_threads(), 0.0)
        return clock[0]

    monkeypatch.setattr(commands_threads, "time", SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(build, "FasterThreads", lambda _, most: FasterThreads(said.append, most))
    config = RunConfig(model="lenet300", dataset="mnist-subset", epochs=1, batch_size=16, **options)  # type: ignore[arg-type]
    steps.seen.clear()
    sparsecore.run(config, callbacks=[steps])
    return steps.seen, said


@pytest.mark.parametrize("one, several, threads, line", [
    (3e-3, 2e-3, 3, "3 threads, 1.5 times as fast as one"), (2e-3, 3e-3, 1, "1 thread: 3 take 1.5 times as long"),
])  # fmt: skip
def test_a_run_keeps_the_faster_number_of_threads(
    groups: Path, monkeypatch: pytest.MonkeyPatch, one: float, several: float, threads: int, line: str
) -> None:
    set_threads(None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    seen, said = trained(monkeypatch, {1: one, 3: several})
    trial = commands_threads.TURNS * 2 * commands_threads.STEPS
    assert set(seen[:trial]) == {1, 3} and set(seen[trial:]) == {threads}
    assert said == [line]
    assert get_threads() == 3 and cpu().given is None  # as before


def test_who_says_a_number_gets_it(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_threads(None)
    seen, said = trained(monkeypatch, {}, threads=2)
    assert set(seen) == {2} and not said
    set_threads(3)
    seen, said = trained(monkeypatch, {})
    assert set(seen) == {3} and not said
    seen, said = trained(monkeypatch, {1: 1e-3, 8: 2e-3}, threads="auto")
    assert set(seen) == {1, 8} and len(said) == 1
    assert get_threads() == 3


def test_one_processor_is_not_tried(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_threads(None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    seen, said = trained(monkeypatch, {})
    assert set(seen) == {1} and not said


def test_the_trial_changes_no_bits(groups: Path) -> None:
    config = RunConfig(model="lenet300", dataset="mnist-subset", epochs=1, batch_size=16, threads=1)
    whole = sparsecore.run(config).network.params.copy()
    assert np.array_equal(sparsecore.run(RunConfig(**vars(config) | {"threads": "auto"})).network.params, whole)


@pytest.mark.parametrize("threads", ["many", "", "0", 0, 257, 1.5, True])
def test_what_is_no_number_of_threads_is_refused(threads: object) -> None:
    with pytest.raises(ValueError, match=r"^threads: expected auto, or a whole number from 1 to 256, such as 2, got"):
        RunConfig(model="lenet300", threads=threads)  # type: ignore[arg-type]


# -- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "count"),
    [({}, 1), ({"PMI_SIZE": "4"}, 4), ({"OMPI_COMM_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "3"}, 3),
     ({"PMI_SIZE": "many"}, 1), ({"PMI_SIZE": ""}, 1), ({"PMI_SIZE": "0"}, 1)],
)  # fmt: skip
def test_processes_are_as_many_as_were_started(
    told: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in processors.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert processors.processes() == count


@pytest.mark.parametrize(
    ("bound", "shares"),
    [
        ([range(8)] * 2, [4, 4]),
        ([range(8)] * 3, [2, 2, 2]),
        ([range(4), range(4, 8)], [4, 4]),  # mpiexec has bound each to its own
        ([range(8), range(4)], [6, 2]),
        ([range(8)] * 20, [1] * 20),
    ],
)
def test_a_rank_has_its_share_of_processors(
    bound: list[range], shares: list[int], monkeypatch: pytest.MonkeyPatch, groups: Path
) -> None:
    for rank, expected in enumerate(shares):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, own=bound[rank]: set(own), raising=False)
        here = SimpleNamespace(rank=rank, allgather=lambda own: [set(each) for each in bound])
        assert ranks._share_of_processors(here) == expected


def test_a_rank_tries_no_more_threads_than_its_share() -> None:
    tried = FasterThreads(lambda line: None, 3)
    tried.started(None)  # type: ignore[arg-type]
    assert get_threads() == 3
    tried.ended(None)  # type: ignore[arg-type]
