"""What this package is: its version and commit; which of its modules are found by paths at which no file stands."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # importing this costs every user of the package
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

VERSION = "0.1.0"

MOVED = {
    "arguments": "console.arguments",
    "arrays": "runtime.arrays",
    "augment": "data.augmentation",
    "callback": "training.callbacks",
    "checkpoint": "runs.checkpoint",
    "conv_plan": "storage.conv_plan",
    "curves": "runs.curves",
    "data.fetch": "data.sources.fetch",
    "data.watch": "data.sources.timeout",
    "device": "runtime.devices",
    "divergence": "training.divergence",
    "evaluation": "training.evaluation",
    "export": "interop.export",
    "images": "storage.sizes",
    "indices": "storage.indices",
    "initial": "layers.initial",
    "interrupts": "console.interrupts",
    "lazy": "storage.cached",
    "loss": "training.losses",
    "metrics": "runs.metrics",
    "normalisation": "data.normalisation",
    "operator": "interop.operator",
    "optim": "training.optimizers",
    "options": "commands.options",
    "pattern": "storage.pattern",
    "plan": "storage.plan",
    "png": "runs.pictures",
    "program": "layers.replay",
    "progress": "commands.report",
    "radix": "topology.radix",
    "radix_layers": "topology.radix_fit",
    "resume": "commands.resume",
    "run_folder": "runs.folder",
    "run_state": "runs.state",
    "schedule": "training.schedules",
    "step": "training.step",
    "store": "data.batches",
    "study.archive": "study.making.archive",
    "study.cost": "study.making.cost",
    "study.figures": "study.reporting.figures",
    "study.markdown": "study.reporting.markdown",
    "study.outcome": "study.making.outcome",
    "study.page": "study.reporting.page",
    "study.progress": "study.reporting.progress",
    "study.readings": "study.reporting.readings",
    "study.report": "study.reporting.report",
    "study.results": "study.reporting.results",
    "study.run": "study.making.run",
    "study.runner": "study.making.runner",
    "study.scale": "study.making.scale",
    "study.slides": "study.reporting.slides",
    "study.study": "study.reporting.study",
    "study.worker": "study.making.worker",
    "tiles": "runtime.tiles",
    "trainer": "runs.trainer",
    "wiring": "topology.wiring",
    "workspace": "runtime.workspace",
}
"""Old paths in this package, and new ones."""

DOORS = {
    "__main__": "commands.door", "challenge": "study.challenge.command", "compare": "commands.compare",
    "sweep": "study.sweep",
}  # fmt: skip
"""What `python -m` runs by a path of the package, and the module in its room whose `main` that is."""

PROGRAMS = DOORS | {"export": "commands.export"}
"""All that it runs so: a path that is imported as a module of before may be a program's name as well."""


_read: dict[str, str] = {}


def source() -> dict[str, str]:
    """The version and the commit of this code, as it was when this was first asked.

    Commands ask before they import the rest, so it is of the code that runs, whatever the checkout becomes in the
    meantime. The commit has a + if something in the checkout has been changed; it is "unknown" where no repository
    tracks this file, as where the package is installed in somebody else's.
    """
    if not _read:
        _read.update(version=VERSION, commit=_commit())
    return dict(_read)


def _commit() -> str:
    import os
    import subprocess

    folder, name = os.path.split(os.path.realpath(__file__))
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # of another repository
    ours["GIT_OPTIONAL_LOCKS"] = "0"
    found = ""
    try:
        for question in (
            ["ls-files", "--error-unmatch", "--", name],
            ["describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"],
        ):
            found = subprocess.run(
                ["git", "-c", "core.fsmonitor=false", *question], cwd=folder, env=ours, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=10, check=True,
            ).stdout  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return "unknown"
    return found.strip()


def _old_path(name: str) -> str:
    """A module's path within this package; nothing for modules of others."""
    package, _, path = name.partition(".")
    return path if package == __package__ else ""


def _stands(name: str) -> str:
    """The file of the module that is found by this path."""
    return "/".join([__file__.rpartition("/")[0], *(MOVED | DOORS)[_old_path(name)].split(".")]) + ".py"


class _Finder:
    """Answers for a path at which no file stands with the module itself, not with a copy."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _old_path(name) not in MOVED | DOORS:
            return None
        from importlib.util import spec_from_loader

        # Not of that class, whose import is not free. The origin is what a program is called by in `sys.argv`.
        return spec_from_loader(name, cast("Loader", self), origin=_stands(name))

    def get_code(self, name: str) -> CodeType | None:
        """What `python -m` runs. Processes that a program starts run it too, under another name."""
        if _old_path(name) not in PROGRAMS:
            return None
        module = f"{__package__}.{PROGRAMS[_old_path(name)]}"
        return compile(
            f"if __name__ == '__main__':\n    import sys\n    from {__package__}.console.output import write_anything\n"
            f"    write_anything()\n    from {module} import main\n    sys.exit(main())\n",
            _stands(name), "exec",
        )  # fmt: skip

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f".{(MOVED | DOORS)[_old_path(spec.name)]}", __package__)
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # the import system has just given it the old path's


if not any(type(finder).__name__ == "_Finder" and type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.append(_Finder())
