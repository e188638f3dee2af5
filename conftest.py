"""Settings of every test run: processes, `--benchmark`, the `gpu` marker, Hypothesis, chance, and Ctrl-C."""

import importlib.util
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# The first example may compile a kernel, which no per-example deadline should judge. SPARSECORE_DERANDOMIZE is set by
# .ci/run, which judges a commit and not its luck: Hypothesis then tries the same examples every time.
settings.register_profile("sparsecore", deadline=None, derandomize="SPARSECORE_DERANDOMIZE" in os.environ)
settings.load_profile("sparsecore")

# A shell without job control starts its background jobs deaf to Ctrl-C, and so would be every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Draw what has no seed (a layer without `rng`, a `torch.randn`) from the test's name: what fails fails again."""
    unseeded = np.random.default_rng
    name = zlib.crc32(item.nodeid.encode())
    streams = np.random.SeedSequence(name)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(name)

    def seeded(seed: Any = None) -> np.random.Generator:
        return unseeded(streams.spawn(1)[0] if seed is None else seed)

    np.random.default_rng = seeded
    try:
        return (yield)
    finally:
        np.random.default_rng = unseeded


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread plain `pytest` over two processes, a file in one of them: most of its time is one thread that compiles.

    Not what is named or marked, which one wants to see, or stop at, or which measures time and memory.
    """
    option = config.option
    plain = config.args_source is not pytest.Config.ArgsSource.ARGS and option.markexpr == "not slow"
    seen = option.benchmark or option.usepdb or option.capture == "no"
    one_of_them = hasattr(config, "workerinput")
    if plain and not seen and not one_of_them and getattr(option, "numprocesses", 0) is None:  # 0: there is no xdist
        option.numprocesses, option.dist = 2, "loadfile"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run and time the benchmarks in bench/, and nothing else")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose between timing the benchmarks and, in an ordinary run, running each once untimed so that none rots."""
    option = config.option
    if option.benchmark:
        option.benchmark_only = True
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(config.rootpath / "bench")]
    elif not any(  # without pytest-benchmark there are none of its flags
        getattr(option, f"benchmark_{flag}", None)
        for flag in ("only", "enable", "autosave", "save", "compare", "json")
    ):
        option.benchmark_disable = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and (reason := _why_no_gpu()):
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=f"never run on hardware here: {reason}"))


def _why_no_gpu() -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return "needs CuPy: pip install 'sparsecore[cuda]'"
    import cupy

    return None if cupy.cuda.is_available() else "needs an NVIDIA GPU and its driver"
