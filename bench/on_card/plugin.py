"""Pytest's plugin for a card: the most important tests first, each written down as it begins and ends, and what it was
given saved if it fails. A test that hangs ends pytest; so does one after which the card answers no more.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Generator
from typing import Any, TextIO

import pytest

from . import results
from .inputs import save
from .parts import LOG
from .tests import begun

FIRST = (
    "test_kernels.py", "test_engine.py::test_losses",
    "test_engine.py", "test_bench.py::test_our_own", "test_tree.py", "test_moving.py", "test_deep.py",
    "test_host_calls.py",
)  # fmt: skip
LAST = ("test_bench.py::test_everything_is_timed", "test_bench.py::test_all_compute")  # `times` does both
LONGEST = 40.0
"""Seconds of one test; the first to need a kernel compile it."""
_FEW = 2  # tests of a rehearsal


def rank(test: str) -> int:
    """Where a test stands: the lower, the sooner."""
    if any(part in test for part in LAST):
        return len(FIRST) + 1
    return next((number for number, part in enumerate(FIRST) if part in test), len(FIRST))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))
    some, done = items[: _FEW if results.small() else None], begun()
    items[:] = [item for item in some if item.nodeid not in done]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    results.write("tests", {"test": item.nodeid})
    longest = min(LONGEST, results.seconds())
    log: TextIO = (results.out() / LOG).open("a", encoding="utf-8")  # pytest holds stderr back while a test runs
    with log:
        faulthandler.dump_traceback_later(longest, exit=True, file=log)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.failed or report.skipped or call.when == "call":
        found = {"test": item.nodeid, "outcome": report.outcome, "seconds": round(call.duration, 3)}
        if report.failed and call.excinfo is not None:
            found |= {"when": call.when, "error": str(report.longrepr)[-4000:], "inputs": save(call.excinfo)}
        results.write("tests", found)
        if report.failed and (reason := _card_is_gone()):
            item.session.shouldstop = f"the card answers no more: {reason}"
    return report


def _card_is_gone() -> str | None:
    """What the card says to a simple question, if it is an error: none that a process can recover from."""
    try:
        import cupy

        cupy.cuda.Device(0).synchronize()
        cupy.zeros(1, "float32").get()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
