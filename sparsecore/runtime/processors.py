"""How many processors this process may use: by affinity, by its control groups' quotas, and by what OpenMP is told; and
how many processes were started with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where they say so."""


def default_threads() -> int:
    """As many threads as this process may use: the processors it is bound to, or fewer if a control group's quota or
    OMP_NUM_THREADS says so."""
    return min(available(), asked_for() or available())


def available() -> int:
    """The processors that this thread is bound to, as far as quotas let them be used; now, since both may change."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        bound = os.cpu_count() or 1
    return max(1, min([bound, *_quotas()]))


def asked_for() -> int | None:
    """The threads that OMP_NUM_THREADS and OMP_THREAD_LIMIT ask for; None if they ask for nothing that can be read.

    The first may be a list, of which the first number is for the outermost level. What OpenMP could not read, and what
    is no number of threads, is ignored.
    """
    found = []
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        text = os.environ.get(name, "").partition(",")[0].strip().removeprefix("+")
        if text.isascii() and text.isdecimal() and text.strip("0"):
            found.append(int(text[:19]))  # no machine has more, and Python reads no longer ones
    return min(found, default=None)


def processes() -> int:
    """As many processes as mpiexec or srun says that it has started together, this one among them; 1 without them."""
    told = (os.environ.get(name, "") for name in LAUNCHED)
    return max((int(word[:9]) for word in told if word.isascii() and word.isdecimal()), default=1) or 1


def _quotas() -> Iterator[int]:
    """Processors that each group around this process may use, parts of one counted as a whole."""
    for folder in around("cpu"):
        if (found := _quota(folder)) is not None:
            yield found


def around(controller: str) -> Iterator[Path]:
    """The folders of the control groups around this process that may have a controller's limits: "cpu", "memory"."""
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and controller not in kinds.split(","):
            continue
        roots = [GROUPS / kinds, GROUPS / controller] if kinds else [GROUPS, GROUPS / "unified"]
        for root in roots:
            # In a container the path may be the host's, of which only the root is seen: all that are there count.
            inside = Path(path.lstrip("/"))
            for folder in (inside, *inside.parents):
                if ".." not in folder.parts:
                    yield root / folder


def _quota(folder: Path) -> int | None:
    """The quota of one group, by version 2 of control groups or by version 1."""
    try:
        text = (folder / "cpu.max").read_text(encoding="ascii")
    except (OSError, UnicodeError):
        try:
            text = " ".join(
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip() for name in ("quota", "period")
            )
        except (OSError, UnicodeError):
            return None
    quota, _, period = text.strip().partition(" ")
    if not (quota.isdecimal() and period.strip().isdecimal() and int(quota) and int(period)):
        return None  # "max", or −1
    return -(-int(quota) // int(period))
