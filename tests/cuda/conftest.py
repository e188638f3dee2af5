"""The devices that tests of this folder run on."""

from collections.abc import Iterator

import pytest

from sparsecore.runtime.devices import CUDA

from .machines import CARD, machine


@pytest.fixture(scope="module", params=["forward", "reverse", "random", CARD])
def cuda(request: pytest.FixtureRequest) -> Iterator[CUDA]:
    """A device, three times emulated and once real."""
    with machine(request.param) as device:
        yield device


@pytest.fixture(scope="module", params=["forward", CARD])
def a_cuda(request: pytest.FixtureRequest) -> Iterator[CUDA]:
    """A device where the order of threads is not the question."""
    with machine(request.param) as device:
        yield device


@pytest.fixture
def checked_cuda() -> Iterator[CUDA]:
    """The emulated device with every access checked."""
    with machine("random", checking=True) as device:
        yield device
