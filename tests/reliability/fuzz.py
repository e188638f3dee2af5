"""Breaking things at random, reproducibly: bytes, JSON, and the harness that watches what comes of it."""

from __future__ import annotations

import copy
import faulthandler
import json
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Rng = np.random.Generator

PATIENCE = 20.0
"""Seconds of computing after which a case counts as hanging, when most take milliseconds; fifteen times that asleep."""


class Hang(BaseException):
    """A case took longer than PATIENCE; no reader may catch this."""


# -- bytes -----------------------------------------------------------------------------------------------------------

NUMBERS = [0, 1, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


def damaged(data: bytes, rng: Rng, *, head: int = 512) -> bytes:
    """The data after one to five accidents, half of them within the first `head` bytes, where headers are."""
    raw = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        near = len(raw) if rng.random() < 0.5 else min(head, len(raw))
        at = int(rng.integers(0, near + 1))
        length = int(rng.integers(1, 65))
        match int(rng.integers(0, 9)):
            case 0 if at < len(raw):
                raw[at] ^= 1 << int(rng.integers(0, 8))
            case 1 if at < len(raw):
                raw[at] = int(rng.integers(0, 256))
            case 2:
                del raw[at : at + length]
            case 3:
                raw[at:at] = rng.bytes(length)
            case 4:
                raw[at:at] = raw[at : at + length]
            case 5:
                del raw[at:]
            case 6:
                size = int(rng.choice([1, 2, 4, 8]))
                value = int(rng.choice(np.array(NUMBERS, np.uint64))) % (1 << (8 * size))
                raw[at : at + size] = value.to_bytes(size, "little" if rng.random() < 0.7 else "big")
            case 7:
                raw[at : at + length] = bytes([int(rng.choice([0, 0x20, 0x30, 0x39, 0x5B, 0x7B, 0xFF]))]) * length
            case _:
                source = int(rng.integers(0, len(raw) + 1))
                raw[at : at + length] = raw[source : source + length]
    return bytes(raw)


# -- JSON ------------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 12, 2**31, 2**53, 2**63, 10**40, -(10**40), 0.0, -0.0, 0.5, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", "0", "1", "-1", "1e999", "nan", "a\nb", "\0", "\x1b[31m", "é" * 300,
    "x" * 5000, "--help", "../..", "ReLU", "SparseLinear", "Dropout", "coo", [], {}, [[]], [0], [1, 2], [None], [1.5],
    ["a"], [True], {"a": 1}, {"": None}, [[[[1]]]], [-1, -1], [2**40, 2**40], [0, 0], "lenet300", "mnist-subset",
]  # fmt: skip


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a tree of JSON."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def warped(tree: Any, rng: Rng) -> Any:
    """The tree with one to three of its values replaced, removed, renamed, doubled or nested."""
    tree = [copy.deepcopy(tree)]
    for _ in range(int(rng.integers(1, 4))):
        found = list(places(tree))
        holder, key = found[int(rng.integers(0, len(found)))]
        match int(rng.integers(0, 8)):
            case 0 if holder is not tree:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(VALUES[int(rng.integers(0, len(VALUES)))])[:20]] = holder.pop(key)
            case 2 if isinstance(holder, list) and holder is not tree:
                holder.insert(key, copy.deepcopy(holder[key]))
            case 3:
                holder[key] = [holder[key]]
            case 4 if isinstance(holder[key], int | float):
                holder[key] = holder[key] + int(rng.choice([-1, 1, 256, -(2**31), 2**33]))
            case 5:
                other, name = found[int(rng.integers(0, len(found)))]
                holder[key] = copy.deepcopy(other[name])
            case _:
                holder[key] = copy.deepcopy(VALUES[int(rng.integers(0, len(VALUES)))])
    return tree[0]


def as_text(tree: Any, rng: Rng) -> str:
    """A tree as JSON text; one in ten is damaged as text, or nested beyond all reason."""
    text = json.dumps(tree)
    if rng.random() < 0.05:
        return "[" * 100_000
    if rng.random() < 0.05:
        return damaged(text.encode(), rng, head=len(text)).decode("utf-8", "replace")
    return text


# -- the harness -----------------------------------------------------------------------------------------------------


@contextmanager
def watched() -> Iterator[None]:
    """Let a case that hangs fail, and warnings be errors: nothing may reach a user's terminal unasked."""

    def late(*_: object) -> None:
        raise Hang(f"a case took longer than {PATIENCE} s")

    before = signal.signal(signal.SIGPROF, late)
    faulthandler.dump_traceback_later(15 * PATIENCE, exit=True, file=sys.__stderr__)  # asleep, or where no handler runs
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        faulthandler.cancel_dump_traceback_later()


def in_a_child(work: Callable[[], dict[str, Any]], *, megabytes: int) -> dict[str, Any]:
    """What the work says, done in a forked process: a crash there is a failure here, and so is a memory that swells.

    `megabytes` is the most that its resident memory may ever exceed what it started with.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def child() -> None:
        begin = _resident()
        try:
            found = work()
        except BaseException as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
            if not isinstance(error, AssertionError):
                import traceback

                found["failed"] = traceback.format_exc()
        found["grew"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - begin
        there.send(found)

    process = context.Process(target=child)
    process.start()
    there.close()
    try:
        found: dict[str, Any] = here.recv()
    except EOFError:
        found = {"failed": "no word from the child"}
    process.join()
    assert process.exitcode == 0, f"the process died with status {process.exitcode}"
    assert "failed" not in found, found["failed"]
    assert found["grew"] < megabytes, f"memory grew by {found['grew']:.0f} MB"
    return found


def _resident() -> float:
    """Megabytes of memory in use."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_line(text: str) -> str:
    """A message as people should get it."""
    assert text and text.isprintable(), f"not one printable line: {text!r}"
    assert len(text) < 1500, f"a page instead of a line: {text!r}"
    return text
