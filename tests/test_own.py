"""Layers, optimizers and losses of one's own: compiled, in NumPy and composed; in files, in runs, under checks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from sparsecore.kernels import reference

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.gradcheck import GradientError, gradcheck
from sparsecore.layers import ArrayLayer, Layer, ReLU, SparseLinear, register
from sparsecore.layers.registry import REGISTERED
from sparsecore.network import Network
from sparsecore.runs.checkpoint import CheckpointError, load, read, save
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.topology import dense, uniform_random
from sparsecore.training.losses import CrossEntropy, Loss, SquaredError
from sparsecore.training.step import Step

from .cuda.machines import machine
from .reliability.runs import StopAt
from .reliability.runs import samples as dataset
from .small import numbers

pytestmark = pytest.mark.filterwarnings("ignore:.*is plain Python")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> Any:
    """A program of examples/, as a module."""
    found = sys.modules.get(name)
    if found is None:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        found = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    return found


WAYS = ("own_compiled", "own_numpy")


def parts(way: str, dtype: Any = np.float32) -> tuple[Network, Any, Any]:
    """A network with a layer of one's own, an optimizer and a loss."""
    module, rng = example(way), np.random.default_rng(3)
    layers: list[Layer] = [
        SparseLinear(uniform_random(90, 24, 0.5, rng), rng=rng, dtype=dtype), module.Swish(90),
        SparseLinear(dense(5, 90), rng=rng, dtype=dtype),
    ]  # fmt: skip
    layers[1].params = {"slope": np.ones(90, dtype)}
    loss = module.Smoothed() if way == "own_compiled" else module.smoothed
    return Network(layers), module.Lion(1e-2, weight_decay=0.1, clip_norm=2.0), loss


def batches(device: Any, dtype: Any = np.float32, count: int = 100) -> Batches:
    rng = np.random.default_rng(7)
    x, y = rng.integers(0, 256, (count, 24)).astype(np.uint8), rng.integers(0, 5, count, np.int32)
    return Batches(Split(x, y), (24,), [0.5], [0.3], device, dtype)


def trained(way: str, device: Any, dtype: Any = np.float32) -> tuple[Any, Any, Step]:
    network, optimizer, loss = parts(way, dtype)
    network.to(device)
    step = Step(network, batches(device, dtype), optimizer, loss=loss)
    for start, batch in ((0, 33), (33, 1), (34, 66)) * 4:
        step.run(start, batch)
    return device.get(network.params).copy(), step.totals(), step


# ---------------------------------------------------------------------------------------------- the same numbers


def test_compiled_functions_give_what_numpy_gives_and_leave_no_python_in_a_step() -> None:
    compiled, told, step = trained("own_compiled", cpu(), np.float64)
    plain, said, other = trained("own_numpy", cpu(), np.float64)
    assert step.host_calls == ()
    assert len(other.host_calls) == 4, "a layer's passes, the loss and the optimizer"
    # Lion steps by signs: a difference of rounding could only show as one of whole steps.
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-9)
    assert told.loss == pytest.approx(said.loss, rel=1e-9) and told.correct == said.correct


def test_any_number_of_threads_gives_the_same_bits() -> None:
    found, before = [], get_threads()
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            params, totals, _ = trained("own_compiled", cpu())
            found.append((params.tobytes(), totals))
    finally:
        set_threads(before)
    assert found[0] == found[1] == found[2]


def test_on_a_gpu_they_are_host_calls() -> None:
    expected, totals, _ = trained("own_compiled", cpu(), np.float64)
    with machine("forward") as device:
        found, said, step = trained("own_compiled", device, np.float64)
        assert step.host_calls == ("swish", "smoothed", "swish_back", "lion", "lion", "lion"), "the slopes do not decay"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert said.loss == pytest.approx(totals.loss, rel=1e-9)


@njit
def folded(x, weights, number, y, sums, first, last):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        total = 0.0
        for k in range(x.shape[1]):
            y[row, k] = number * x[row, k] + weights[k]
            total += x[row, k]
        sums[row] = total


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.integers(0, 9), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**31))
def test_shapes_dtypes_and_parts(rows: int, columns: int, dtype: Any, seed: int) -> None:
    """Each row is done once, whatever the number of parts; what is not of the outputs is left alone."""
    rng = np.random.default_rng(seed)
    x, weights = rng.standard_normal((rows, columns)).astype(dtype), rng.integers(-5, 5, columns).astype(np.int32)
    found, wanted = ([np.full((rows, columns), 7, dtype), np.full(rows, 7.0)] for _ in range(2))
    inputs = x, weights, rng.choice([dtype(1.5), 2, True])
    cpu().launcher().compiled(folded, rows, inputs, found, work=1 << 30 if seed % 2 else 0)
    reference.compiled(folded.py_func, rows, inputs, wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("way", WAYS)
def test_gradcheck_covers_layers_and_losses(way: str) -> None:
    module = example(way)
    layer = module.Swish(7)
    layer.params["slope"][:] = np.linspace(-1, 2, 7)
    gradcheck(layer, numbers((19, 7)))
    labels = np.arange(19) % 7
    gradcheck(parts(way)[2], numbers((19, 7)), labels=labels)
    layer.backward_tiles = lambda dy, cache, workspace, need_dx=True: (dy, {"slope": np.zeros(7)})
    with pytest.raises(GradientError, match="backward gives"):
        gradcheck(layer, numbers((19, 7)))


def test_gradcheck_of_composed_layers() -> None:
    module = example("own_blocks")
    gradcheck(module.gated(6, 8, np.random.default_rng(0)), numbers((19, 8)))
    gradcheck(module.block(8, np.random.default_rng(0)), numbers((19, 8)))


def test_gradcheck_of_our_own_losses_and_of_wrong_ones() -> None:
    z, labels = numbers((18, 4)), np.arange(18) % 4
    gradcheck(CrossEntropy(), z, labels=labels)
    gradcheck(SquaredError(), z, labels=numbers((18, 4), 1))

    class Doubled(CrossEntropy):
        def __call__(self, z: Any, wanted: Any, workspace: Any, *, divisor: int | None = None) -> Any:
            dz = super().__call__(z, wanted, workspace, divisor=divisor)
            dz.data[...] *= 2
            return dz

    class Undivided(CrossEntropy):
        def __call__(self, z: Any, wanted: Any, workspace: Any, *, divisor: int | None = None) -> Any:
            return super().__call__(z, wanted, workspace)

    with pytest.raises(GradientError, match=r"Doubled\(\): backward gives"):
        gradcheck(Doubled(), z, labels=labels)
    with pytest.raises(GradientError, match="for a divisor of 2 batches"):
        gradcheck(Undivided(), z, labels=labels)
    with pytest.raises(GradientError, match="backward gives"):
        gradcheck(lambda z, labels: (float((z**2).mean()), z), z, labels=labels)
    with pytest.raises(ValueError, match="a loss needs labels, or targets under that name"):
        gradcheck(CrossEntropy(), z)


# ---------------------------------------------------------------------------------------------- files and runs


@pytest.mark.parametrize("way", WAYS)
def test_a_file_holds_them_by_their_names(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, _ = parts(way)
    network[1].params["slope"][:] = numbers((90,))
    save(network, tmp_path / "a.safetensors")
    again, x = load(tmp_path / "a.safetensors"), numbers((5, 24))
    assert type(again[1]) is example(way).Swish
    assert again.table.values.tobytes() == network.table.values.tobytes()
    assert np.array_equal(again.logits(x), network.logits(x))
    name = "swish" if way == "own_compiled" else "numpy-swish"
    monkeypatch.delitem(REGISTERED, name)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/a.safetensors: its parts do not fit: got a layer of unknown kind '{name}' of the module {way}: "
        f"first import what defines it, a class below @sparsecore.layers.register('{name}')"
    )
    with pytest.raises(CheckpointError, match=r"give your own class a name, @sparsecore.layers.register\('Swish'\)"):
        save(network, tmp_path / "b.safetensors")


def test_a_composed_layer_may_have_values_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("own_blocks")

    class Scaled(module.Product):  # type: ignore[name-defined, misc]
        def __init__(self, main: Layer, gate: Layer, about: list[int]) -> None:
            super().__init__(main, gate)
            self.about, self.kept = tuple(about), {"scale": np.ones(3, np.float32)}

    monkeypatch.setitem(REGISTERED, "scaled", Scaled)
    rng = np.random.default_rng(0)
    ways = [SparseLinear(dense(6, 8), rng=rng) for _ in range(2)]
    network = Network([Scaled(*ways, about=[1, 2]), module.block(6, rng)])
    network[0].kept["scale"][:] = 3, 4, 5
    save(network, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert again[0].about == (1, 2) and again[0].kept["scale"].tolist() == [3, 4, 5]
    assert again.table.values.tobytes() == network.table.values.tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_goes_on_has_the_bits_of_one_that_never_stopped(way: str, tmp_path: Path) -> None:
    def trainer(**options: Any) -> Trainer:
        network, optimizer, loss = parts(way)
        given = {"epochs": 2, "batch_size": 27, "seed": 5, "loss": loss} | options
        return Trainer(network, dataset(), optimizer, **given)

    whole = trainer(out=tmp_path / "whole")
    assert whole.run() is not None
    for at in (1, 5):
        stopped = trainer(out=tmp_path / f"{at}")
        stopped.callbacks.append(StopAt(at))
        assert stopped.run() is None
        found = read(tmp_path / f"{at}")
        _, optimizer, loss = parts(way)
        given = {"epochs": 2, "batch_size": 27, "seed": 5, "out": tmp_path / f"{at}"}
        other = Trainer(found.network, dataset(), optimizer, **given)
        with pytest.raises(CheckpointError, match=r"loss was (Smoothed|smoothed), got CrossEntropy"):
            other.restore(found)
        found = read(tmp_path / f"{at}")
        again = Trainer(found.network, dataset(), parts(way)[1], loss=loss, **given)
        again.restore(found)
        assert again.run() is not None
        assert again.network.params.tobytes() == whole.network.params.tobytes()
        assert again.optimizer.columns["mean"].tobytes() == whole.optimizer.columns["mean"].tobytes()


# ---------------------------------------------------------------------------------------------- refusals


@njit
def copied(x, y, first, last):  # type: ignore[no-untyped-def]
    for k in range(first, last):
        if x[k] < 0:
            raise ValueError("negative")
        y[k] = x[k]


@njit
def writes_what_it_reads(x, y, first, last):  # type: ignore[no-untyped-def]
    x[first] = y[first]


@njit(parallel=True)
def parallel(x, y, first, last):  # type: ignore[no-untyped-def]
    y[first:last] = x[first:last]


ONES = np.ones(4)


@pytest.mark.parametrize(
    ("function", "count", "inputs", "outputs", "message"),
    [
        (len, 4, (ONES,), (ONES,), "len: a kernel must be a function compiled by numba.njit, got builtin_function"),
        (parallel, 4, (ONES,), (ONES,), "parallel: a kernel is cut into parts by the engine, got one compiled with"),
        (copied, -1, (ONES,), (ONES,), "copied: count must be a whole number of at least 0, got -1"),
        (copied, 1.5, (ONES,), (ONES,), "copied: count must be a whole number of at least 0, got 1.5"),
        (copied, 2, (ONES[::2],), (ONES,), "copied: argument 0 must be contiguous, got strides"),
        (copied, 2, (ONES,), (ONES.astype("M8[s]"),), "copied: argument 1 must hold ordinary numbers, got datetime64"),
        (copied, 2, (ONES.astype(">f8"),), (ONES,), "copied: argument 0 must hold ordinary numbers, got >f8"),
        (copied, 2, (ONES,), (np.frombuffer(bytes(32)),), "copied: argument 1 is written to, got a read-only array"),
        (copied, 2, ("x",), (ONES,), "copied: argument 0 must be an array or a number, got str"),
        (copied, 2, (ONES,), (1.0,), "copied: argument 1 must be an array, which is written to, got float"),
        (copied, 2, (ONES,) * 30, (ONES,), "copied: a call must fit 48 words, one of a number and 1 . dimensions"),
        (copied, 4, (ONES,), (), "copied: Numba cannot compile it for .readonly array.float64, 1d, C., int64, int64.:"),
        (writes_what_it_reads, 4, (ONES,), (ONES,), "writes_what_it_reads: Numba cannot compile it for"),
    ],
)  # fmt: skip
def test_what_is_no_kernel_is_refused_in_one_line(
    function: Any, count: Any, inputs: Any, outputs: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        cpu().launcher().compiled(function, count, inputs, outputs)
    assert "\n" not in str(caught.value)


def test_an_exception_in_a_kernel_is_said_and_leaves_nan() -> None:
    x, y = np.ones((20,)), np.zeros(20)
    x[3] = -1
    with pytest.warns(RuntimeWarning, match="copied: raised an exception on a tape; what it was to write is NaN"):
        cpu().launcher().compiled(copied, 20, (x,), (y,))
    assert np.isnan(y[3])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("", ReLU, "a layer's name must be of letters, digits, '.', '-' and '_', got ''"),
        ("a b", ReLU, "a layer's name must be of letters"),
        (3, ReLU, "a layer's name must be of letters"),
        ("mine", int, "'mine' must be a class of layers, got <class 'int'>"),
        ("SparseLinear", ArrayLayer, "'SparseLinear' is the name of sparsecore.layers.linear.SparseLinear: choose"),
    ],
)  # fmt: skip
def test_names_that_cannot_be(name: Any, kind: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        register(name)(kind)
    assert name not in REGISTERED


class Wrong(ArrayLayer):
    """Gives what a test says."""

    def __init__(self, y: Any = None, back: Any = None) -> None:
        self.in_shape = self.out_shape = (3,)
        self.params, self.y, self.back = {}, y, back

    def forward_array(self, x: Any, *, training: bool) -> Any:
        return (x, None) if self.y is None else self.y

    def backward_array(self, dy: Any, cache: Any) -> Any:
        return self.back


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Wrong(y=np.ones(3)), "forward_array must give y and a cache, got ndarray"),
        (Wrong(y=(np.ones((2, 2)), None)), r"forward_array must give an array of shape \(2, 3\), got \(2, 2\)"),
        (Wrong(back=np.ones((2, 3))), "backward_array must give dx and gradients by name, got ndarray"),
        (Wrong(back=(np.ones((2, 3)), None)), "backward_array must give dx and gradients by name, got tuple"),
        (Wrong(back=(np.ones((2, 4)), {})), r"backward_array must give an array of shape \(2, 3\), got \(2, 4\)"),
    ],
)
def test_arrays_of_another_shape_are_refused(layer: Layer, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        y, cache = layer.forward(numbers((2, 3)))
        layer.backward(y, cache)


def test_a_config_needs_the_constructors_names() -> None:
    class Forgetful(Wrong):
        def __init__(self, size: int) -> None:
            super().__init__()

    with pytest.raises(ValueError, match="expected an attribute size, as the constructor has it and of JSON's types"):
        Forgetful(3).config()
    with pytest.raises(ValueError, match="expected arrays"):
        Wrong.from_config({}, None, {"weight": np.ones(3)})


def test_what_is_no_loss_is_refused() -> None:
    assert issubclass(CrossEntropy, Loss)
    with pytest.raises(TypeError, match="gradcheck: a Layer or a Network is needed, got ABCMeta"):
        gradcheck(CrossEntropy, numbers((4, 4)), labels=np.arange(4))  # type: ignore[arg-type]
