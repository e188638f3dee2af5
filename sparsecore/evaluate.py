"""`python -m sparsecore.evaluate`: how well a trained network does.

Exit status: 0, 1 for a network whose parameters or loss are not finite, or 2 for a command that cannot be followed or a
checkpoint that cannot be used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .console.output import answer, write_anything

PROGRAM = "python -m sparsecore.evaluate"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return answer(PROGRAM, _lines, arguments, "interrupted")


def _lines(arguments: list[str]) -> list[str]:
    from .commands.evaluation import evaluated  # while signals are already heeded

    return evaluated(arguments)


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
