"""`kernels/` and `models/` stand at the root and import as parts of sparsecore: from a checkout and from a wheel."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import sparsecore

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "sparsecore": ROOT / "sparsecore",
    "sparsecore.kernels": ROOT / "kernels",
    "sparsecore.models": ROOT / "models",
}
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MOST_BYTES = 2_520_000 + 3_000_000
"""Of the wheel's files: what the first storey had, and 3 MB more."""
WHERE = """
import sparsecore, sparsecore.kernels, sparsecore.models
print(sparsecore.__file__, sparsecore.kernels.__file__, sparsecore.models.__file__, sep="\\n")
"""


def shipped() -> set[str]:
    """Every file under the package folders, by its path inside an installed package."""
    return {
        (package.replace(".", "/") / path.relative_to(folder)).as_posix()
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def new_environment(folder: Path) -> Path:
    """An environment with this one's dependencies and without its sparsecore: the interpreter in it."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    # A folder named in a .pth file does not have its own .pth files read, where an editable install hooks in.
    here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (Path(site) / "dependencies.pth").write_text("\n".join(here))
    return python


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What the command prints; an AssertionError with its errors if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment or None, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed in {cwd}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def uninstalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_environment(tmp_path_factory.mktemp("uninstalled"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the checkout, so that no earlier build's leavings get in and none are left."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in PACKAGES.values():
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_every_package_is_listed() -> None:
    folders = {".".join(Path(file).parent.parts) for file in shipped() if file.endswith(".py")}
    assert folders == set(SETTINGS["tool"]["setuptools"]["packages"])
    assert {f"{folder.replace('.', '/')}/__init__.py" for folder in folders} <= shipped()


def test_checkout_imports_from_its_root(uninstalled: Path) -> None:
    printed = run(uninstalled, "-c", WHERE, cwd=ROOT).splitlines()
    assert printed == [str(folder / "__init__.py") for folder in PACKAGES.values()]


def test_checkout_imports_from_elsewhere(uninstalled: Path, tmp_path: Path) -> None:
    printed = run(uninstalled, "-c", WHERE, cwd=tmp_path, PYTHONPATH=str(ROOT)).splitlines()
    assert printed == [str(folder / "__init__.py") for folder in PACKAGES.values()]


ASKED = """
import importlib
package = importlib.import_module("{folder}")
print(getattr(package, "__version__", None), getattr(package, "__file__", None))
for look in "from {folder} import layout", "import {folder}.layout", "import {folder}; {folder}.layout":
    try:
        exec(look)
    except ModuleNotFoundError as error:
        print(error.name.partition(".")[0], str(error).startswith("No module named"))
"""
"""As transformers asks, for which a package without version and file is none, and as others do."""


@pytest.mark.parametrize("folder", ["kernels", "models"])
def test_folder_names_are_no_packages(folder: str) -> None:
    """Whoever looks for an optional package of that name finds none, also from the checkout's root."""
    printed = run(sys.executable, "-c", ASKED.format(folder=folder), cwd=ROOT).splitlines()
    assert printed == ["None None", *[f"{folder} True"] * 3]


def test_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == shipped()
    assert any(name.endswith("licenses/LICENSE") for name in about)


def test_wheel_stays_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        size = sum(each.file_size for each in archive.infolist())
    assert size <= MOST_BYTES, f"{size:,} bytes"
    assert len(SETTINGS["project"]["dependencies"]) == 9, "each is installed by everybody"


def test_metadata_say_what_this_is() -> None:
    """Classifiers are the index's own words; URLs come when there is a public place that they name."""
    project = SETTINGS["project"]
    assert project["scripts"] == {"sparsecore": "sparsecore.commands.door:main"}
    known = pytest.importorskip("trove_classifiers").classifiers
    assert [each for each in project["classifiers"] if each not in known] == []
    assert sorted(set(project["classifiers"])) == sorted(project["classifiers"])


def test_wheel_imports_away_from_and_in_the_checkout(wheel: Path, tmp_path: Path) -> None:
    python = new_environment(tmp_path / "installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    away = run(python, "-c", WHERE, cwd=tmp_path).splitlines()
    assert all(Path(file).is_relative_to(tmp_path / "installed") for file in away)
    version = "import importlib.metadata as m; print(m.version('sparsecore'))"
    assert run(python, "-c", version, cwd=tmp_path) == sparsecore.__version__
    script = tmp_path / "installed" / "bin" / "sparsecore"
    assert run(script, "--version", cwd=tmp_path) == f"sparsecore {sparsecore.__version__}"
    # Python looks in the current folder first, so at the root the checkout wins over the wheel.
    at_root = run(python, "-c", WHERE, cwd=ROOT).splitlines()
    assert all(Path(file).is_relative_to(ROOT) for file in at_root)
