"""What the fuzzer of the API found at doors, one test for each kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse

from sparsecore.data import DataError, Split
from sparsecore.data.batches import Batches
from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.operator import SparseOperator
from sparsecore.layers import SparseConv2d, SparseLinear
from sparsecore.layers.replay import backward_of, forward_of
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.replay import addresses
from sparsecore.runtime.tiles import LANES, Labels, Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense
from sparsecore.training.losses import CrossEntropy
from sparsecore.training.optimizers import SGD, Adam
from sparsecore.training.step import Step
from tests.reliability.doors import Plain, batches, seeded
from tests.reliability.runs import samples
from tests.reliability.strange import Elsewhere

PATTERN = SparsityPattern((2, 3), [0, 2, 3], [0, 2, 1])
SMALL = {"hidden_layer_sizes": (6,), "max_iter": 2, "random_state": 0}


def hidden(values: Any) -> Any:
    """A masked array without its second entry."""
    array = np.asarray(values)
    return np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) == 1)


def matrix(kind: Any = scipy.sparse.csr_array, **arrays: Any) -> Any:
    made = kind(np.array([[1.0, 0, 2], [0, 3, 0]]))
    for name, array in arrays.items():
        setattr(made, name, array)
    return made


def column(values: Any) -> None:
    optimizer = Adam()
    optimizer.restore({"m": np.zeros(3, np.float32), "v": values}, optimizer.description(), "cpu")


HIDDEN: dict[str, Any] = {
    "indptr": lambda: SparsityPattern((2, 3), hidden([0, 2, 3]), [0, 2, 1]),
    "indices": lambda: SparsityPattern((2, 3), [0, 2, 3], hidden([0, 2, 1])),
    "rows": lambda: SparsityPattern.from_coo((2, 3), hidden([0, 0, 1]), [0, 2, 1]),
    "weights": lambda: SparsityPattern.from_dense(hidden(np.ones((2, 3)))),
    "select": lambda: PATTERN.select(hidden(np.ones(3, bool))),
    "prune": lambda: SparseLinear(PATTERN).prune(hidden(np.ones(3, bool))),
    "to_scipy": lambda: PATTERN.to_scipy(hidden(np.ones(3))),
    "CSR": lambda: SparseOperator(matrix(indices=hidden([0, 2, 1]))),
    "CSC": lambda: SparseOperator(matrix(scipy.sparse.csc_array, indptr=hidden([0, 1, 2, 3]))),
    "labels": lambda: Labels.pack(hidden([0, 1, 2]), 3),
    "restore": lambda: column(hidden(np.ones(3, np.float32))),
    "mean": lambda: Batches(samples().train, (24,), hidden([0.1, 0.2]), [0.5], cpu()),
}


@pytest.mark.parametrize("door", HIDDEN)
def test_hidden_entries_have_no_value(door: str) -> None:
    with pytest.raises(ValueError, match="has hidden entries, which have no value"):
        HIDDEN[door]()


def test_indices_that_scipy_would_cut_to_integers() -> None:
    for kind in (scipy.sparse.csr_array, scipy.sparse.csc_array):
        with pytest.raises(TypeError, match="indices must hold integers, got dtype float64"):
            SparseOperator(matrix(kind, indices=np.array([0.0, 1.7, 1.0])))


def test_pointers_that_scipy_takes_on_trust() -> None:
    """Its own check looks at none of them where the last is 0; its C++ then sorts whatever lies behind the array."""
    for kind, indptr in ((scipy.sparse.csr_array, [0, 2, 0]), (scipy.sparse.csc_array, [0, 1, 2, 0])):
        with pytest.raises(ValueError, match=r"indptr must never decrease, got 2 then 0"):
            SparseOperator(matrix(kind, indptr=np.array(indptr)))


@pytest.mark.parametrize("given", [[1.0, 2.0, 3.0], memoryview(np.ones(3)), Elsewhere(np.ones(3))])
def test_what_is_no_array_is_taken_as_one_or_refused(given: Any) -> None:
    values = np.asarray(given._array if isinstance(given, Elsewhere) else given)
    assert np.array_equal(SparseOperator(matrix(data=given)).data, values)
    assert np.array_equal(PATTERN.to_scipy(given).data, values)
    with pytest.raises(ValueError, match="can share their values, got csr of "):
        SparseLinear.from_scipy(matrix(data=given), share=True)
    net = Network([SparseLinear(PATTERN, dtype=np.float64)])
    net.layers[0].params["weight"] = given
    for use in (net.flatten, lambda: SparseLinear.forward(net.layers[0], np.ones((1, 3)))):  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match=r"no array but a|must be float32 or float64, got"):
            use()
    for make in (lambda: Tiles(given, 3), lambda: Split(given, np.zeros(3, np.int32))):
        with pytest.raises((TypeError, DataError), match=r"must be a plain array of|must be NumPy's arrays"):
            make()


def test_a_memory_map_shares_its_values(tmp_path: Any) -> None:
    np.ones(3, np.float32).tofile(tmp_path / "values")
    mapped = np.memmap(tmp_path / "values", np.float32, "r+")
    layer = SparseLinear.from_scipy(matrix(data=mapped), share=True)
    mapped[:] = 7
    assert np.array_equal(layer.weight, [7, 7, 7]) and type(layer.weight) is np.ndarray


def test_an_array_of_another_library_says_what_to_keep() -> None:
    layer = SparseLinear(PATTERN)
    layer.prune(Elsewhere(np.array([True, False, True])))
    assert layer.pattern == PATTERN.select(np.array([True, False, True]))


@pytest.mark.parametrize("kind", [">f4", ">f8", "i4", "f2", "U6"])
def test_logits_are_floats_of_this_machine(kind: Any) -> None:
    z = Tiles(np.zeros((1, 5, LANES), kind), 3) if kind != "U6" else None
    with pytest.raises((ValueError, TypeError), match=r"logits must be float32 or float64, got|plain array of real"):
        CrossEntropy()(z or Tiles(np.zeros((1, 5, LANES), kind), 3), Labels.pack([0, 1, 2], 5), Workspace())


def test_tiles_whose_last_lanes_cannot_be_cleared() -> None:
    data = np.ones((1, 3, LANES), np.float32)
    data.flags.writeable = False
    with pytest.raises(ValueError, match=r"tiles must be writable, .* got a read-only array"):
        SparseLinear(PATTERN).forward(Tiles(data, 3))
    SparseLinear(PATTERN).forward(Tiles(data, LANES))


@pytest.mark.parametrize("values", [np.ones(3, np.int32), np.ones((1, 3), np.float32), np.ones(3, complex), ["1"] * 3])
def test_a_saved_column_that_steps_would_begin_anew(values: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="Adam: v must"):
        column(values)


def test_columns_in_another_byte_order() -> None:
    given = np.array([1.0, 2.0, 3.0], ">f4")
    optimizer = Adam()
    optimizer.restore({"m": given, "v": given}, optimizer.description(), "cpu")
    assert optimizer.columns["m"].dtype == np.float32 and np.array_equal(optimizer.columns["m"], given)
    sgd = SGD(0.1, 0.9)
    sgd.velocity = given
    with pytest.raises(
        ValueError, match="SGD: velocity must be a contiguous array that can be written to, got one of >"
    ):
        sgd.step(np.ones(3, np.float32), np.ones(3, np.float32), Workspace())


@pytest.mark.parametrize("kind", [complex, np.longdouble])
def test_gradients_that_a_user_wrote_are_real(kind: Any) -> None:
    net = Network([SparseLinear(dense(4, 12))])
    step = Step(net, batches(), SGD(0.1), loss=lambda z, wanted: (0.0, np.ones(z.shape, kind)))
    with pytest.raises(TypeError, match="the gradient must hold real numbers, got"):
        step.run(0, 19)
    tiles = np.ones((2, 7, LANES), np.float32)
    layers = [SparseLinear(dense(7, 12)), Plain(tiles, tiles, np.ones(7, kind)), SparseLinear(dense(4, 7))]
    with pytest.raises(TypeError, match="the gradient of weight must hold real numbers, got"):
        Step(Network(layers), batches(), SGD(0.1)).run(0, 19)


def test_parameters_are_flat() -> None:
    net = Network([SparseLinear(PATTERN)])
    net.layers[0].params["weight"] = np.ones((3, 1), np.float32)
    with pytest.raises(ValueError, match=r"weight must be a flat array, got one of shape \(3, 1\)"):
        net.flatten()


def test_a_padded_convolution_of_no_images_is_recorded() -> None:
    layer = SparseConv2d(dense(3, 18), (2, 5, 6), 3, padding=1, rng=seeded())
    x, y = np.empty((0, *layer.in_shape), np.float32), np.empty((0, *layer.out_shape), np.float32)
    dw, db = np.ones_like(layer.weight), np.ones_like(layer.bias)
    forward_of(layer, 0, "float32", biased=True).run(*addresses(x, layer.weight, layer.bias, y, None))
    replay = backward_of(layer, 0, "float32", biased=True, need_dx=True)
    replay.run(*addresses(y, x, None, layer.weight, x, dw, db))
    assert not dw.any() and not db.any()


def test_estimators_refuse_what_has_no_value_or_is_no_number() -> None:
    from sparsecore.interop.sklearn import SparseMLPClassifier, SparseMLPRegressor

    x, y = seeded().standard_normal((24, 5)), np.arange(24) % 3
    fitted: Any = SparseMLPClassifier(**SMALL).fit(x, y)  # type: ignore[arg-type]
    for use, message in (
        (lambda: fitted.predict(hidden(x)), "SparseMLPClassifier: X has hidden entries"),
        (lambda: fitted.fit(x, hidden(y)), "SparseMLPClassifier: y has hidden entries"),
        (lambda: fitted.predict(x.astype("M8[s]")), "X must hold real numbers, got datetime64"),
        (lambda: fitted.fit(x.astype(np.longdouble), y), "X must hold real numbers, got float128|longdouble"),
        (lambda: SparseMLPRegressor(**SMALL).fit(x, x[:, 0].astype("V8")), "y must hold real numbers"),  # type: ignore
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            use()


def test_jax_loses_no_imaginary_part() -> None:
    pytest.importorskip("jax")
    from sparsecore.interop.jax import as_function

    layer = SparseLinear(PATTERN)
    with pytest.raises(TypeError, match="x must hold real numbers, got complex64"):
        as_function(layer)(np.ones((1, 3), np.complex64), layer.weight, layer.bias)


def test_no_samples_are_normalised() -> None:
    for dtype in (np.uint8, np.float32):
        assert Normalisation((2, 5, 6), (0.1,), (0.5,))(np.zeros((0, 2, 5, 6), dtype)).shape == (0, 60)


def test_a_deviation_too_small_for_float32_is_said_so() -> None:
    with pytest.raises(ValueError, match="normalisation: 1/std must be numbers that float32 holds, got 1e\\+45"):
        Batches(samples().train, (24,), [0.1], [1e-45 / 255], cpu())
