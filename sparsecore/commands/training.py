"""`python -m sparsecore.train`, and `sparsecore.run`, which does the same for Python users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

from ..console.arguments import UsageError
from ..console.interrupts import Interrupts
from ..console.output import complain, print_lines
from ..errors import OneLineError
from ..runs.checkpoint import Checkpoint
from ..runs.config import ConfigError, RunConfig
from ..runs.folder import CURVES, RunFolder
from ..runs.metrics import Metrics
from ..runs.state import from_json
from ..runs.strict import as_line
from ..runs.trainer import Trainer
from ..runtime.ranks import Ranks
from ..training.callbacks import Callback
from ..training.divergence import Diverged
from ..training.state import Record
from . import options, tensorboard
from .among import agreed, joint
from .build import build
from .options import PROGRAM
from .plan import of_a_rank, plan
from .recipes import resolved
from .report import Quiet, reporter, result_line
from .resume import begun, gone_on


class Job(NamedTuple):
    """A run as a command line describes it, checked as far as possible without data.

    Attributes
    ----------
    config : RunConfig
        With every field filled in.
    checkpoint : Checkpoint or None
        To go on from.
    out : str or None
    quiet, curves : bool
    again : bool
        The run is in the folder already.
    tensorboard : bool
        Write event files.
    ranks : Ranks or None
        The processes that make the run together.
    plan, json : bool
        Only say what the run will take of memory; in JSON.
    """

    config: RunConfig
    checkpoint: Checkpoint | None
    out: str | None
    quiet: bool = True
    curves: bool = False
    again: bool = False
    tensorboard: bool = False
    ranks: Ranks | None = None
    plan: bool = False
    json: bool = False

    @property
    def result(self) -> Record | None:
        """The result of a run that is finished, or None. Raises CheckpointError if the checkpoint is not a run's."""
        return None if self.checkpoint is None else from_json(self.checkpoint.state.get("run")).result


def run(
    config: RunConfig | None = None, *, out: str | Path | None = None, resume: bool = False,
    callbacks: Sequence[Callback] = (), ranks: Ranks | None = None,
) -> Trainer:  # fmt: skip
    """Make a run, as `python -m sparsecore.train` does, to the same bits.

    Parameters
    ----------
    config : RunConfig, optional
        What the run is. May be left out to go on with the run in `out`.
    out : str or Path, optional
        Folder for configuration, metrics and checkpoints; nothing is written without it.
    resume : bool
        Go on with the run in `out`, which must be the same one.
    callbacks : sequence of Callback
        Are called as training goes on; may stop the run.
    ranks : Ranks, optional
        The processes that make the run together, each by this call: `runtime.ranks.started()`. The batch of
        the configuration is each one's.

    Returns
    -------
    Trainer
        Its `network` is trained; `state.result` is the last line of `metrics`, or None if a callback stopped the run.

    Raises
    ------
    ConfigError
        If the configuration cannot be followed; one line that names the field.
    DataError, CheckpointError, RunFolderError
        If a file cannot be used.
    Diverged, PruneError
        If training cannot go on.
    """
    folder = None if out is None else RunFolder(out)
    if resume and folder is None:
        raise ConfigError("resume: needs out, the folder of the run to go on with")
    config, checkpoint = _configured(config, folder, resume, ranks)
    if ranks is not None:
        agreed(config, ranks, out=str(out), resume=resume)
    trainer = build(config, checkpoint, out=out, callbacks=callbacks, again=resume, ranks=ranks)
    trainer.run()
    return trainer


def job_of(arguments: list[str], ranks: Ranks | None = None) -> Job:
    """The run that a command line describes. Raises ValueError, whose text names flags, or a rank with other words."""
    line = options.read(arguments)
    try:
        if line.resume and line.out is None:
            options.parser().error("--resume: needs --out, the folder of the run to go on with")
        if line.json and not line.plan:
            options.parser().error("--json: goes with --plan only")
        if line.tensorboard:
            tensorboard.check(line.out)
        found = begun(RunFolder(line.out)) if line.resume and line.out is not None else None
        if found is not None and found.config is not None:
            config = gone_on(found.config, _joint(line.fields, ranks), RunFolder(str(line.out)))
        else:
            if line.out is not None and found is None:
                RunFolder(line.out).check_new()
            config = joint(resolved(line.config()), ranks)
    except ConfigError as error:
        raise UsageError(error.on_command_line()) from None
    checkpoint = found.checkpoint if found is not None else None
    if ranks is not None:
        agreed(config, ranks, out=line.out, resume=line.resume)
    return Job(config, checkpoint, line.out, line.quiet, line.curves, found is not None, line.tensorboard, ranks,
               line.plan, line.json)  # fmt: skip


def trainer_of(job: Job, report: Quiet) -> Trainer:
    """The run, ready for its first step, its folder made. Raises ValueError, whose text names flags."""
    writes = job.out is not None and (job.ranks is None or job.ranks.rank == 0)
    callbacks = [tensorboard.EventFiles(str(job.out))] if job.tensorboard and writes else []
    try:
        trainer = build(
            job.config, job.checkpoint, out=job.out, report=report, callbacks=callbacks, again=job.again,
            ranks=job.ranks,
        )  # fmt: skip
    except ConfigError as error:
        raise UsageError(error.on_command_line()) from None
    trainer.prepare()
    return trainer


def say_plan(job: Job) -> int:
    """Print what the run will take; the exit status is 2 where it does not fit. Raises ValueError."""
    config, ranks = of_a_rank(job.config, job.ranks)
    try:
        found = plan(config, ranks=ranks)
    except ConfigError as error:
        raise UsageError(error.on_command_line()) from None
    if job.ranks is not None and job.ranks.rank > 0:
        return 0 if found.fits else 2
    status = print_lines(PROGRAM, [as_line(found.record())] if job.json else found.lines())
    return status if found.fits else complain(PROGRAM, found.refusal, 2)


def reporter_of(job: Job) -> Quiet:
    """What shows the run's progress."""
    return reporter(quiet=job.quiet, live=job.ranks is None)


def say_finished(job: Job, result: Record, report: Quiet) -> int:
    """Report a run that is finished; returns the exit status. Raises ValueError if its result is not one."""
    assert job.out is not None
    try:
        line = result_line(result)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{job.out}: expected a finished run's result, got another record") from None
    report.say(f"the run in {job.out} is finished")
    report.result(line)
    return draw_curves(RunFolder(job.out), anew=False) if job.curves else 0


def train(trainer: Trainer, job: Job, report: Quiet, interrupts: Interrupts) -> int:
    """Train, report the result, draw the curves; returns the exit status."""
    interrupts.stop = trainer.stop
    try:
        result = trainer.run()
    except (Diverged, OneLineError, MemoryError) as error:
        return complain(PROGRAM, error, 1)
    finally:
        report.close()
    if result is None:
        others = 0 if job.ranks is None else 128 + SIGTERM  # another rank may have got the signal
        return complain(PROGRAM, _stopped(trainer), interrupts.status or others)
    report.result(result_line(result))
    return draw_curves(trainer.folder) if job.curves and trainer.folder is not None else 0


def draw_curves(folder: RunFolder, *, anew: bool = True) -> int:
    """Draw the run's curves into its folder: anew, or only if it has none.

    Returns the exit status, which is a finished run's: what keeps a picture from being drawn is said, and that is all.
    """
    from ..runs.curves import draw

    try:
        if anew or not (folder.path / CURVES).exists():
            draw(list(Metrics(folder.metrics)), folder.path)
    except Exception as error:  # metrics that are not a run's, a disk that is full, any of matplotlib's own
        return complain(PROGRAM, f"curves could not be drawn ({error or type(error).__name__}); all else is saved", 0)
    return 0


def _joint(fields: dict[str, Any], ranks: Ranks | None) -> dict[str, Any]:
    """What was given of a configuration, with the batch of all ranks together."""
    if ranks is None or fields.get("batch_size") is None:
        return fields
    return fields | {"batch_size": ranks.size * fields["batch_size"]}


def _configured(
    config: RunConfig | None, folder: RunFolder | None, resume: bool, ranks: Ranks | None
) -> tuple[RunConfig, Checkpoint | None]:
    """The whole configuration for `run`'s arguments, and the checkpoint to go on from."""
    found = begun(folder) if resume and folder is not None else None
    if found is None and folder is not None:
        folder.check_new()
    if found is None or found.config is None:
        if config is None:
            raise ConfigError("config: needed where there is no run to go on with")
        return joint(resolved(config), ranks), found.checkpoint if found is not None else None
    assert folder is not None
    whole = {} if config is None else vars(joint(resolved(config), ranks))
    later = [name for name in ("epochs", "batch_size", "warm_up") if whole.get(name) is None]  # by the samples
    given = {
        field.name: whole[field.name]
        for field in fields(RunConfig)
        if whole and field.name not in ("dataset_name", "lr_found", *later)
    }
    return gone_on(found.config, given, folder), found.checkpoint


def _stopped(trainer: Trainer) -> str:
    state = trainer.state
    where = f"stopped in epoch {state.epoch + 1} after step {state.batch} of {trainer.steps}"
    if trainer.folder is None:
        return f"{where}; nothing is saved, for there was no --out"
    return f"{where} and saved; to go on: {PROGRAM} --resume --out {trainer.folder.path}"
