"""What every command line of this package does with its streams."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..errors import one_line
from .called import as_called
from .interrupts import Interrupted, Interrupts


class OutputError(OSError):
    """Lines that cannot be written to where a command's output goes."""


@contextmanager
def output() -> Iterator[None]:
    """Where a command prints: what fails here is its output, and not a file that it reads or writes.

    Raises
    ------
    BrokenPipeError
        If whoever read the lines has left.
    OutputError
        If they cannot be written, for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(*error.args) from None


def answer(program: str, work: Callable[[list[str]], list[str]], arguments: Sequence[str] | None, nothing: str) -> int:
    """Do what a command line asks and print the lines that come of it; returns the exit status.

    Parameters
    ----------
    program : str
    work : callable
        From the arguments to the lines. A ValueError or OSError that it raises is said on one line, and so is a
        FloatingPointError, whose exit status is 1: the command could be followed, and has no answer.
    arguments : sequence of str, optional
        The process's own if not given.
    nothing : str
        What to say of an interruption.
    """
    with Interrupts() as interrupts:
        try:
            lines = work(list(sys.argv[1:] if arguments is None else arguments))
        except Interrupted:
            return complain(program, nothing, interrupts.status)
        except (ValueError, OSError) as error:
            return complain(program, error, 2)
        except FloatingPointError as error:
            return complain(program, error, 1)
        except MemoryError:
            return complain(program, "what is asked for does not fit into this machine's memory", 2)
    return print_lines(program, lines)


def work(program: str, command: Callable[[list[str], Interrupts], int], arguments: Sequence[str] | None) -> int:
    """Do what a command line asks that prints as it goes; returns the exit status.

    Parameters
    ----------
    program : str
    command : callable
        From the arguments, and the signals that it may take, to the exit status. A ValueError or OSError that it raises
        is said on one line.
    arguments : sequence of str, optional
        The process's own if not given.
    """
    with Interrupts() as interrupts:
        try:
            return command(list(sys.argv[1:] if arguments is None else arguments), interrupts)
        except BrokenPipeError:  # whoever read our lines has left
            leave_stdout()
            return 1
        except (ValueError, OSError) as error:
            return complain(program, error, 2)
        except Interrupted:
            return complain(program, "interrupted", interrupts.status)


def print_lines(program: str, lines: Sequence[str]) -> int:
    """Print lines; the exit status is 1 where whoever reads them has left, or they cannot be written."""
    try:
        with output():
            for line in lines:
                print(line)
            sys.stdout.flush()
    except BrokenPipeError:
        leave_stdout()
        return 1
    except OutputError as error:
        leave_stdout()
        return complain(program, f"the output cannot be written ({error.strerror})", 1)
    return 0


def leave_stdout() -> None:
    """Throw the rest of the output away, so that Python does not complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(program: str, problem: object, status: int) -> int:
    """Say on one line of stderr what is wrong; gives back the exit status."""
    if isinstance(problem, OSError) and problem.strerror and problem.filename is not None:
        problem = f"{problem.filename}: {problem.strerror}"
    print(as_called(f"{program}: {one_line(problem)}"), file=sys.stderr)
    return status


def write_anything() -> None:
    """Let a program print whatever comes, wherever it is called from.

    Letters that a stream's encoding lacks are spelled out, what goes to a stream that is closed is thrown away, and a
    warning is one line.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # or the next file that is opened would be taken for it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *where, **line: f"{one_line(message)}\n"
