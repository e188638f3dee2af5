"""Arrays as nobody expects them, at every public door: answered as a clean copy is, or refused by one line of ours.

Each call is made twice: with arrays of any dtype, shape, strides, byte order, alignment, class and writability, which
end at pages that nobody may touch and which nobody may write to; and with clean copies. Kernels' own buffers lie
between such pages too, and begin as other garbage in either call. Processes of their own make the calls, so that a
crash is told with its door and number. `pytest -m slow -s` makes 100,000 calls and prints the table of
docs/reliability.md, an ordinary run 2,000; one alone is made anew by

    python -m tests.reliability.test_fuzz_api LIBRARY NUMBER 1
"""

from __future__ import annotations

import collections
import importlib.util
import json
import linecache
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from sparsecore.runtime.cpu import CPU
from sparsecore.storage.pattern import SparsityPattern
from tests.reliability.doors import AS_IT_IS, LIBRARIES, WAITING, Door, Want
from tests.reliability.fuzz import one_line, watched
from tests.reliability.guarded import Buffers
from tests.reliability.strange import Given, strange

ROOT = Path(__file__).resolve().parents[2]
HOUSE = (str(ROOT / "sparsecore"), str(ROOT / "kernels"), str(ROOT / "models"))
CALLS = {"": 86_000, "torch": 6_000, "jax": 2_000, "sklearn": 6_000}
"""Of the long form, by library: 100,000."""


class Refused(str):
    """What was said instead of an answer."""


def bits(answer: Any) -> Any:
    """An answer as something that is equal only to the same answer, NaN included."""
    if isinstance(answer, SparsityPattern):
        return answer.shape, bits(answer.indptr), bits(answer.indices)
    if isinstance(answer, dict):
        return {name: bits(each) for name, each in answer.items()}
    if isinstance(answer, tuple | list):
        return [bits(each) for each in answer]
    if scipy.sparse.issparse(answer):
        return bits([answer.data, answer.indices, answer.indptr])
    if answer is None or isinstance(answer, float | int | str):
        return repr(answer)
    array = np.asarray(answer)
    kind = array.dtype.newbyteorder("=")
    return kind.str, array.shape, array.astype(kind).tobytes()


def outcome(door: Door, arrays: dict[str, Any]) -> Any:
    """The bits of what the door answers, or how it refuses; any other end is raised."""
    try:
        answer = door.call(**arrays)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        check_refusal(door, error)
        return Refused(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bits(answer)


def check_refusal(door: Door, error: Exception) -> None:
    """It is of these very classes, or one of ours; and was raised in so many words, in this package or in `theirs`."""
    kind = type(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    file = where.filename
    if kind.__module__.partition(".")[0] in door.theirs or file == LIBRARIES[""].__code__.co_filename:
        return
    if any(f"{os.sep}{name}{os.sep}" in file for name in door.theirs):
        return
    assert kind in (ValueError, TypeError) or kind.__module__.startswith("sparsecore."), f"raised {kind.__name__}"
    assert file.startswith(HOUSE), f"refused in {file}"
    line = linecache.getline(file, where.lineno or 0).strip()
    assert line.startswith("raise "), f"refused by {file}:{where.lineno} {line!r}"
    one_line(str(error))


def is_good(want: Want, kind: Any) -> bool:
    """Whether numbers of this dtype may be taken."""
    return kind.kind in want.takes and (kind.kind != "f" or kind.itemsize <= 8 or "c" in want.takes)


def converted(want: Want, clean: Any) -> Any:
    if want.into is None or clean.dtype.kind not in "biuf" or clean.dtype.itemsize > 8:
        return clean
    into = ("f8" if clean.dtype == np.float64 else "f4") if want.into is AS_IT_IS else want.into
    if np.dtype(into).kind in "iu" and clean.dtype.kind not in "iu":
        return clean
    if np.dtype(into).kind in "iu" and clean.size and not np.array_equal(clean.astype(into), clean):
        return clean
    with np.errstate(all="ignore"):
        return clean.astype(into)


def arrays_for(door: Door, rng: np.random.Generator, folder: Path) -> dict[str, Given]:
    """What a door is given: the memory of all is strange, and one of them may have other values, shape or dtype."""
    chosen = str(rng.choice(list(door.wants))) if rng.random() < 0.6 else ""
    return {
        name: strange(want.make(rng), rng, folder / name, other=name == chosen and not want.fixed, written=want.written)
        for name, want in door.wants.items()
    }


def tried(door: Door, given: dict[str, Given], buffers: Buffers) -> bool:
    """Make one call in both ways; whether it was answered."""
    buffers.garbage = 0xFF
    found = outcome(door, {name: each.array for name, each in given.items()})
    for name, each in given.items():
        assert door.wants[name].written or each.is_untouched(), f"{name} was written to, {found!r:.200}"
    buffers.garbage = 0
    clean = outcome(door, {name: converted(door.wants[name], each.clean) for name, each in given.items()})
    if isinstance(found, Refused):
        for_memory = all(each.clean.dtype == each.kind and not each.hidden for each in given.values())
        if for_memory and not door.picky:
            assert isinstance(clean, Refused), f"refused, and its clean copy is answered: {found}"
        return False
    for name, each in given.items():
        assert is_good(door.wants[name], each.clean.dtype), f"took {name} of {each.clean.dtype}"
        assert not each.hidden, f"took {name} with hidden entries"
    assert not isinstance(clean, Refused), f"answered, and its clean copy is refused: {clean}"
    assert found == clean, f"answered other than its clean copy: {found!r:.300} and {clean!r:.300}"
    return True


def doors_of(library: str) -> list[Door]:
    return [door for door in LIBRARIES[library]() if f"{door.room}: {door.name}" not in WAITING]


def fuzz(library: str, first: int, count: int, note: Callable[[str], object]) -> dict[str, Any]:
    """Make calls number `first` and on; `note` is told which is next."""
    doors = doors_of(library)
    shares = np.array([door.share for door in doors])
    rooms: dict[str, list[int]] = {}
    kinds: collections.Counter[str] = collections.Counter()
    buffers = Buffers()
    CPU.empty = lambda self, shape, dtype: buffers.empty(shape, dtype)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as watch:
        for number in range(first, first + count):
            if number % 100 == 0 or number == first:  # a watch costs more than a call
                watch.close()
                watch.enter_context(watched())
            rng = np.random.default_rng([number, 17])
            door = doors[int(rng.choice(len(doors), p=shares / shares.sum()))]
            given = arrays_for(door, rng, Path(folder))
            about = ", ".join(f"{name}: {each}" for name, each in given.items())
            case = f"{library or 'own'} {number}, {door.room}: {door.name}({about})"
            note(case)
            try:
                answered = tried(door, given, buffers)
            except BaseException as error:
                raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
            tally = rooms.setdefault(door.room, [0, 0])
            tally[0] += 1
            tally[1] += answered
            kinds.update({word for each in given.values() for word in each.strange} or {"nothing"})
    return {"rooms": rooms, "kinds": kinds}


# -- processes -------------------------------------------------------------------------------------------------------


def main(library: str, first: str, count: str, file: str = os.devnull) -> None:
    with open(file, "wb", buffering=0) as noted:
        print(json.dumps(fuzz(library.removesuffix("own"), int(first), int(count), partial(_note, noted.fileno()))))


def _note(file: int, text: str) -> None:
    os.pwrite(file, text.encode().ljust(4096), 0)  # which outlives this process, however it ends


def calls(library: str, first: int, count: int, folder: Path) -> dict[str, Any]:
    """What comes of so many calls in a process of their own."""
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}, which is not installed")
    noted = folder / "call"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", __name__, library or "own", str(first), str(count), str(noted)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    ending = f"status {done.returncode} at {noted.read_text().strip()}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, ending
    found: dict[str, Any] = json.loads(done.stdout)
    return found


here = pytest.mark.skipif(sys.platform == "win32", reason="memory is guarded by mprotect")


@here
@pytest.mark.parametrize("library", CALLS, ids=lambda library: library or "own")
def test_strange_arrays(library: str, tmp_path: Path) -> None:
    calls(library, 10**6, CALLS[library] // 50, tmp_path)


@here
@pytest.mark.slow
@pytest.mark.parametrize("library", CALLS, ids=lambda library: library or "own")
def test_strange_arrays_for_long(library: str, tmp_path: Path) -> None:
    found = calls(library, 0, CALLS[library], tmp_path)
    for room, (count, answered) in found["rooms"].items():
        print(f"\n| {room} | {count:,} | {answered:,} | {count - answered:,} |", end="")
    print("\n" + ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["kinds"].items())))
    assert sum(CALLS.values()) == 100_000


if __name__ == "__main__":
    main(*sys.argv[1:])
