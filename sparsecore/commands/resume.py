"""Going on with a run: its options come from its folder, and no other run may slip in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..console.arguments import Parser, UsageError
from ..runs.checkpoint import Checkpoint, read
from ..runs.folder import RunFolder
from .options import FREE, HERE, Options, command_line, spelled


def resume(given: Options, parser: Parser) -> tuple[Options, Checkpoint | None]:
    """The options of the run in a folder, and the checkpoint to go on from if there is one yet.

    Parameters
    ----------
    given : dict
        What this command says. What decides the run's bits must be as it was.
    parser : Parser

    Raises
    ------
    ValueError
        If there is no such folder, what is in it cannot be used, or an option says otherwise.
    """
    if "out" not in given:
        parser.error("--resume: needs --out, the folder of the run to go on with")
    folder = RunFolder(given["out"])
    if not folder.exists():
        raise UsageError(f"--resume: expected a run's folder, got {folder.path}, where there is none; "
                         "leave --resume out to start a run there")  # fmt: skip
    checkpoint = read(folder.path) if folder.has_checkpoint() else None
    config = checkpoint.state.get("config") if checkpoint is not None else folder.config()
    if config is None:
        return given, checkpoint
    kept = kept_options(config, folder.path, parser)
    for name, value in given.items():
        if name in FREE + HERE or value == kept.get(name) or (name, value) == ("dataset", config.get("asked")):
            continue
        was = spelled(kept[name]) if name in kept else "not given"
        flag = "MODEL" if name == "model" else "--" + name.replace("_", "-")
        raise UsageError(
            f"{flag}: in {folder.path} it was {was}, got {spelled(value)}; leave it out, or start another run"
        )
    kept |= {name: value for name, value in given.items() if name in FREE + HERE}
    asked = config.get("asked")
    return kept | ({"asked": asked} if isinstance(asked, str) else {}), checkpoint


def kept_options(config: Any, path: Path, parser: Parser) -> Options:
    """The options in a run's configuration, read again as a command line is, so that they are checked like one."""
    try:
        kept = vars(parser.parse_args(command_line(config["options"])))
    except (KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise UsageError(f"{path}: expected the configuration of a run, could not use it ({error})") from None
    return {name: value for name, value in kept.items() if name not in HERE and value is not None}
