"""Part (b): `pytest -m gpu`, begun again without the tests that have begun whenever one of them takes pytest, or the
card's context, down with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from . import results

_ENDED = (0, 1, 5)  # pytest's codes for all passed, some failed, and none left
COMMAND = (sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "bench.on_card.plugin")
WHERE, FEW = "tests/cuda", "tests/cuda/test_host_calls.py"  # the latter is quickly collected: for a rehearsal


def main() -> None:
    begin_again((*COMMAND, FEW if results.small() else WHERE))
    outcomes = [row["outcome"] for row in results.read(results.out(), "tests") if "outcome" in row]
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    results.write("tests", {"counts": counts})
    sys.exit(bool(counts.keys() - {"passed", "skipped"}) or "passed" not in counts)


def begin_again(command: Sequence[str]) -> None:
    """Run pytest until it ends by itself, or gets no further."""
    # The machine's own plugins are for others; ours needs none.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    while True:
        before = len(begun())
        code = subprocess.run(command, env=environment, check=False).returncode
        died = begun() - ended()
        for test in died:
            results.write("tests", {"test": test, "outcome": "died", "code": code})
        if (code in _ENDED and not died) or len(begun()) == before:  # a test that hangs ends pytest with 1 too
            return


def begun() -> set[str]:
    """Tests that were begun, in this run of pytest or an earlier one."""
    return {row["test"] for row in results.read(results.out(), "tests") if "test" in row}


def ended() -> set[str]:
    return {row["test"] for row in results.read(results.out(), "tests") if "outcome" in row}


if __name__ == "__main__":
    main()
