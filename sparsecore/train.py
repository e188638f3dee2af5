"""`python -m sparsecore.train`: train a model from the command line.

Exit status: 0 when the run is finished, 1 if it failed under way, 2 for a command that cannot be followed, 130 or 143
when it was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._package import source
from .console.interrupts import Interrupted, Interrupts
from .console.output import OutputError, complain, leave_stdout, write_anything
from .runtime.processors import processes

if TYPE_CHECKING:  # importing it costs whoever trains alone
    from .runtime.ranks import Ranks

PROGRAM = "python -m sparsecore.train"


def main(arguments: Sequence[str] | None = None, *, alone: bool = False) -> int:
    """Run the command line; returns the exit status.

    Started by mpiexec or srun, this process trains together with the others that were, unless it is to do so `alone`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if alone or processes() == 1:
        return _run(words, None)
    from .commands.among import together

    return together(PROGRAM, lambda ranks: _run(words, ranks))


def _run(words: list[str], ranks: Ranks | None) -> int:
    with Interrupts() as interrupts:
        try:
            return _command(words, interrupts, ranks)
        except Interrupted:
            return complain(PROGRAM, "interrupted before training began", interrupts.status)
        except BrokenPipeError:  # whoever read our lines has left
            leave_stdout()
            return 1
        except OutputError as error:
            leave_stdout()
            return complain(PROGRAM, f"the output cannot be written ({error.strerror}); what was saved is whole", 1)
        except OSError as error:
            return complain(PROGRAM, error, 1)


def _command(arguments: list[str], interrupts: Interrupts, ranks: Ranks | None) -> int:
    source()  # of the code that is imported now, not of what the checkout is when the run ends
    from .commands import training  # while signals are already heeded

    try:
        job = training.job_of(arguments, ranks)
        if job.plan:
            return training.say_plan(job)
        report = training.reporter_of(job)
        if (result := job.result) is not None:
            return training.say_finished(job, result, report)
        trainer = training.trainer_of(job, report)
    except ValueError as error:
        return complain(PROGRAM, error, 2)
    except MemoryError:
        return complain(PROGRAM, "the run does not fit into this machine's memory: ask for fewer connections", 2)
    return training.train(trainer, job, report, interrupts)


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
