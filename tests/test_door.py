"""One door for all commands; what they say of their options, and of words that are nearly right."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from sparsecore.models.catalogue import MODELS

import sparsecore
from sparsecore import train
from sparsecore._package import DOORS
from sparsecore.commands import door, options
from sparsecore.commands.recipes import resolved
from sparsecore.console.arguments import Parser, UsageError
from sparsecore.console.called import as_called, through
from sparsecore.console.output import complain, print_lines, write_anything
from sparsecore.runs.config import RunConfig
from tests.command.given import one_line

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = re.compile(r"default|if not given|must be given|\(\d|\[.+\]$")


def parsers() -> Iterator[tuple[str, Parser]]:
    """Every parser of every command, by its usage's first words."""
    for each in door.parser(whole=True).walk():
        yield each.prog, each


def said(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    where = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=where, capture_output=True, text=True, check=False
    )


def lacking(parser: Parser) -> list[str]:
    """The arguments that a parser's help does not describe, or of which it does not say what holds without them."""
    found = []
    for action in parser.actions():
        about = action.help or ""
        if about == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        shown = parser._get_formatter()._get_help_string(action) or ""
        needs = action.option_strings and not DEFAULT.search(shown)
        if len(about) < 5 or needs:
            found.append("/".join(action.option_strings) or action.dest)
    return found


def test_every_option_is_described_with_what_holds_without_it() -> None:
    seen = dict(parsers())
    assert len(seen) >= 1 + len(door.COMMANDS) + 3  # with the three of `data`
    assert {prog: missing for prog, each in seen.items() if (missing := lacking(each))} == {}


def test_an_option_without_help_or_default_is_found() -> None:
    made = Parser("x", "y", "z")
    made.add_argument("--bare")
    made.add_argument("--without", help="a number of something")
    made.add_argument("--good", help="a number of something (3 if not given)")
    made.add_argument("--flag", action="store_true", help="do something else")
    assert lacking(made) == ["--bare", "--without"]


@pytest.mark.parametrize("model", MODELS)
def test_the_help_of_a_model_has_its_recipe(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for dataset in ("mnist", "cifar10"):
        with pytest.raises(SystemExit) as end:
            train.main([model, "--dataset", dataset, "--random", "--sparsity", "0.9", "--help"])
        assert end.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        recipe = resolved(RunConfig(model=model, dataset=dataset, random=True, sparsity=0.9))
        for name in ("epochs", "batch_size", "lr", "momentum", "weight_decay"):
            assert re.search(rf"--{name.replace('_', '-')} [^\[]*\[{re.escape(str(getattr(recipe, name)))}\]", shown), (
                name
            )


def test_help_comes_whatever_else_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("--help", "lenet301 --help", "lenet300 --widths --help", "lenet300 --lr x -h", "--nonsense -h"):
        with pytest.raises(SystemExit) as end:
            train.main(line.split())
        assert end.value.code == 0
        assert "--batch-size" in capsys.readouterr().out


# -- the door ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", door.COMMANDS)
def test_a_command_is_the_same_behind_the_door(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for main, words in (door.main, [name]), (import_module(f"sparsecore.{door.COMMANDS[name].main}").main, []):
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        shown.append(capsys.readouterr().out)
    assert shown[0].startswith(f"usage: python -m sparsecore {name} ")
    assert shown[1].startswith(f"usage: python -m sparsecore.{name} ")
    # Lines are broken elsewhere, as names are of another length.
    assert "".join(shown[0].split()) == "".join(shown[1].replace("sparsecore.", "sparsecore ").split())


def test_a_command_says_how_it_was_called(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with through("sparsecore"):
        assert train.main(["lenet300", "--resume"]) == 2
        assert "for example: sparsecore train lenet300" in one_line(capsys, "sparsecore train")
        assert train.main(["lenet300", "--dataset", "cifar10", "--data-dir", str(tmp_path)]) == 2
        assert "sparsecore data fetch cifar10" in one_line(capsys, "sparsecore train")
    assert as_called("python -m sparsecore.train x") == "python -m sparsecore.train x"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["--version"]) == 0
    assert re.fullmatch(
        rf"sparsecore {re.escape(sparsecore.__version__)}( \([0-9a-f]+\+?\))?\n", capsys.readouterr().out
    )
    assert door.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown and command.about[:30] in shown for name, command in door.COMMANDS.items())


@pytest.mark.parametrize(
    "argument", [["train", "lenet300", "--epoch", "3"], ["trian"], ["--versoin"], ["--version", "x"]]
)
def test_what_is_wrong_at_the_door_is_one_line(argument: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(argument) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "for example: python -m sparsecore train" in err


def test_paths_without_files_are_run_and_imported(tmp_path: Path) -> None:
    code = (
        "import sparsecore.__main__ as one; import sparsecore.commands.door as other; print(one is other, one.__name__)"
    )
    assert said("-c", code, folder=tmp_path).stdout == "True sparsecore.commands.door\n"
    assert DOORS.keys() - {"__main__"} <= door.COMMANDS.keys()
    for name in ("sparsecore", *(f"sparsecore.{each}" for each in door.COMMANDS)):
        found = said("-m", name, "--help", folder=tmp_path)
        assert (found.returncode, found.stderr) == (0, ""), name
    moved = said("-m", "sparsecore.optim", folder=tmp_path)  # a module of the last release, which was no program
    assert moved.returncode == 1 and "Traceback" not in moved.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize("name", ["challenge", "data", "evaluate", "export"])
def test_a_command_whose_output_is_closed_says_nothing(name: str) -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", f"sparsecore.{name}", "--help"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_streams_that_are_closed_or_lack_letters_are_printed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    write_anything()
    assert print_lines("program", ["2 × 3"]) == 0 and complain("program", "2 × 3", 2) == 2
    assert written.getvalue().split(b"\n")[0].rstrip() == rb"program: 2 \xd7 3"


def test_nothing_is_imported_that_a_command_alone_would_not_import(tmp_path: Path) -> None:
    """So it starts as fast behind the door as by its own name."""
    code = """
import sys, runpy
sys.argv = {argv}
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit:
    pass
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("sparsecore", "numpy", "numba", "rich")))
"""
    ours = ["evaluate", "nowhere"]
    inside = said("-c", code.format(argv=["x", *ours], module="sparsecore"), folder=tmp_path).stdout.split()
    alone = said("-c", code.format(argv=["x", *ours[1:]], module="sparsecore.evaluate"), folder=tmp_path).stdout.split()
    assert "numpy" in alone
    more = set(inside) - set(alone)
    assert more <= {"sparsecore.commands.door", "sparsecore.evaluate"}, more
    nothing = said("-c", code.format(argv=["x", "--version"], module="sparsecore"), folder=tmp_path).stdout.split()
    assert "numpy" not in nothing and "numba" not in nothing


# -- words that are nearly right -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("lenet300 --epoch 3", "--epochs"), ("lenet300 --epoch=3", "--epochs"),
        ("lenet300 --bathc-size 3", "--batch-size"),
        ("lenet300 --learning-rate 3", ""), ("lenet300 --seeds 1", "--seed"), ("lenet300 --xyz 1", ""),
        ("lenet300 extra", ""),
    ],
)  # fmt: skip
def test_a_near_miss_is_named_and_not_taken(line: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        options.read(line.split())
    assert (f"did you mean {meant}?" in str(error.value)) if meant else ("did you mean" not in str(error.value))


def test_an_option_cannot_be_abbreviated() -> None:
    """What is short for one option today may be short for two in the next version."""
    for part in dict(parsers()).values():
        assert not part.allow_abbrev
    with pytest.raises(UsageError, match=r"unrecognized arguments: --epo 3; did you mean --epochs\?"):
        options.read(["lenet300", "--epo", "3"])


@pytest.mark.parametrize(("line", "option"), [
    ("sweep s.toml --out=", "argument --out"), ("study --out '' --dry-run", "argument --out"),
    ("inspect a --pictures ''", "argument --pictures"), ("export a --onnx ''", "argument --onnx"),
    ("study --results '' --quick", "argument --results"), ("evaluate ''", "arguments"),
    ("prune a --sparsity 0.9 --out=", "argument --out"), ("train lenet300 --out ''", "argument --out"),
])  # fmt: skip
def test_a_word_that_an_unset_variable_leaves_is_refused(
    line: str, option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert door.main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert re.search(rf": {option}: expected a (value|name).*, got ''", err) and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_near_choices_are_named() -> None:
    with pytest.raises(UsageError, match=r"did you mean fashion-mnist\?"):
        door.parser(whole=True).parse_args(["data", "fetch", "fashon-mnist"])
    with pytest.raises(UsageError, match=r"unrecognized arguments: --sorce; did you mean --source\?"):
        door.parser(whole=True).parse_args(["data", "fetch", "mnist", "--sorce"])


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", door.SHELLS)
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert door.main(["--completion", shell]) == 0
    shown = capsys.readouterr().out
    words = ["evaluate", "--batch-size", "--latency", "fashion-mnist", "--rewind"]
    assert [word for word in words if word.removeprefix("--" if shell == "tcsh" else "") not in shown] == []


def test_bash_takes_the_completion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert door.main(["--completion", "bash"]) == 0
    script = tmp_path / "complete.sh"
    script.write_text(capsys.readouterr().out)
    ask = """source {}; COMP_WORDS=(sparsecore {}); COMP_CWORD={}
$(complete -p sparsecore | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); printf '%s\\n' "${{COMPREPLY[@]}}\""""
    for words, wanted in (("ev", "evaluate"), ("train --bat", "--batch-size"), ("data fetch fash", "fashion-mnist")):
        count = len(words.split())
        done = subprocess.run(
            ["bash", "-c", ask.format(script, words, count)], capture_output=True, text=True, check=False
        )
        assert wanted in done.stdout.split(), (words, done)


def test_completion_without_shtab_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    assert door.main(["--completion", "bash"]) == 2
    assert "pip install 'sparsecore[completion]'" in one_line(capsys, "python -m sparsecore")


# -- what a run says of itself -----------------------------------------------------------------------------------------


def test_the_console_says_how_a_run_learns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = ["lenet300", "--dataset", "mnist-subset", "--random", "--sparsity", "0.9", "--epochs", "1", "--no-curves"]
    assert train.main(base) == 0
    shown = capsys.readouterr().out
    assert (
        "\nsgd: batch size 128, rate 0.1 (cosine), momentum 0.9, weight decay 0.0003, warm-up 0.5, 1 epoch\n" in shown
    )
    assert train.main([*base, "--optimizer", "adamw", "--lr", "3e-4", "--clip-norm", "2"]) == 0
    assert (
        "\nadamw: batch size 128, rate 0.0003 (cosine), betas 0.9,0.999, weight decay 0.01, clipped to 2"
        in capsys.readouterr().out
    )
    assert train.main([*base, "--quiet"]) == 0
    assert "batch size" not in capsys.readouterr().out
