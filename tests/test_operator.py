"""`SparseOperator` multiplies as SciPy does, shares values with the matrix, and gives the gradient of its values."""

import pickle
import threading

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from sparsecore import SparseLinear, SparseOperator

from .small import numbers


def matrix(rows=37, columns=53, density=0.2, dtype=np.float32, seed=0):
    made = scipy.sparse.random_array((rows, columns), density=density, format="csr", dtype=dtype, rng=seed)
    made.sort_indices()
    return made


@given(
    rows=st.integers(0, 40), columns=st.integers(0, 70), density=st.sampled_from([0, 0.05, 0.3, 1]),
    batch=st.sampled_from([0, 1, 5, 16, 33, 48, 130, 144, 160]), dtype=st.sampled_from([np.float32, np.float64]),
    order=st.sampled_from("CF"), shift=st.integers(0, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_products_and_gradients_are_scipys(rows, columns, density, batch, dtype, order, shift, seed):
    a = matrix(rows, columns, density, dtype, seed)
    ours = SparseOperator(a)
    room = numbers(columns * batch + shift, seed, dtype)[shift:]  # of any alignment
    x, y = np.asarray(room.reshape(columns, batch), order=order), numbers((rows, batch), seed + 1, dtype)
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for got, expected in (
        (ours @ x, a @ x), (ours.T @ y, a.T @ y), (y.T @ ours, y.T @ a), (x.T @ ours.T, x.T @ a.T),
        (ours.gradient(y, x), (y @ x.T)[a.tocoo().coords]), (ours.T.gradient(x, y), (y @ x.T)[a.tocoo().coords]),
    ):  # fmt: skip
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, **near)


def test_vectors():
    a, x = matrix(), numbers(53, dtype=np.float32)
    np.testing.assert_allclose(SparseOperator(a) @ x, a @ x, rtol=1e-5, atol=1e-5)
    assert (x @ SparseOperator(a).T).shape == (37,)
    np.testing.assert_allclose(SparseOperator(a).gradient(a @ x, x), np.outer(a @ x, x)[a.tocoo().coords], rtol=1e-5)


def test_values_are_shared_and_later_changes_count():
    a, x = matrix(), numbers((53, 16), dtype=np.float32)
    ours = SparseOperator(a)
    before, turned = ours @ x, ours.T @ numbers((37, 2))
    a.data *= 2
    np.testing.assert_array_equal(ours @ x, 2 * before)
    np.testing.assert_array_equal(ours.T @ numbers((37, 2)), 2 * turned)
    assert np.shares_memory(ours.to_scipy().data, a.data)
    np.testing.assert_array_equal(ours.T.to_scipy().toarray(), a.T.toarray())
    a.indices[:] = 10**6  # an index that is changed afterwards leads nowhere
    np.testing.assert_array_equal(ours @ x, 2 * before)


def test_values_that_do_not_lie_side_by_side_or_are_swapped_are_copied():
    a, x = matrix(), numbers((53, 16), dtype=np.float32)
    room = np.zeros((a.nnz, 2), np.float32)
    room[:, 1] = a.data
    spread = scipy.sparse.csr_array((room[:, 1], a.indices, a.indptr), shape=a.shape)
    np.testing.assert_array_equal(SparseOperator(spread) @ x, SparseOperator(a) @ x)
    swapped, wide = a.astype(np.float64), x.astype(np.float64)
    swapped.data /= 3
    expected = swapped @ wide
    swapped.data = swapped.data.astype(">f8")
    np.testing.assert_allclose(SparseOperator(swapped) @ wide, expected, rtol=1e-12, atol=1e-12)


def test_values_cannot_be_replaced_by_others():
    ours = SparseOperator(matrix())
    with pytest.raises(AttributeError, match="no setter"):
        ours.data = np.zeros(3, np.float32)


@pytest.mark.parametrize("form", ["coo", "csc", "lil", "unsorted", "duplicates", "int"])
def test_other_matrices_are_converted(form):
    a = matrix()
    if form == "unsorted":
        a = scipy.sparse.csr_array((a.data, a.indices[::-1].copy(), a.indptr), shape=a.shape)
    elif form == "duplicates":
        a = scipy.sparse.csr_array((np.ones(4), [1, 1, 2, 2], [0, 4]), shape=(1, 53))
    else:
        a = (100 * a).astype(int) if form == "int" else a.asformat(form)
    x = numbers((53, 3), dtype=np.float32)
    expected = a.toarray().astype(np.float64) @ x
    np.testing.assert_allclose(SparseOperator(a) @ x, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="share their values"):
        SparseLinear.from_scipy(a, share=True)


def test_a_layer_that_shares_is_trained_in_the_matrix():
    a = matrix()
    layer = SparseLinear.from_scipy(a, share=True)
    layer.weight[:] = 0
    assert not a.data.any()
    copied = SparseLinear.from_scipy(a)
    copied.weight[:] = 1
    assert not a.data.any()


def test_what_is_refused():
    ours = SparseOperator(matrix())
    for wrong, kind, words in (
        (np.ones(52), ValueError, r"shape \(53,\) or \(53, batch\), got \(52,\)"),
        (np.ones((53, 2, 2)), ValueError, "got"),
        (np.ones(53, complex), TypeError, "real numbers, got complex"),
    ):
        with pytest.raises(kind, match=words):
            ours @ wrong
    with pytest.raises(ValueError, match="same batch"):
        ours.gradient(np.ones((37, 2)), np.ones((53, 3)))
    with pytest.raises(TypeError, match="got complex"):
        SparseOperator(matrix().astype(complex))
    with pytest.raises(TypeError, match=r"scipy\.sparse"):
        SparseOperator(np.eye(3))


def test_copies_and_threads():
    a = matrix(300, 400)
    ours, xs = SparseOperator(a), [numbers((400, 64), k, np.float32) for k in range(8)]
    alone = [ours @ x for x in xs]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)) @ xs[0], alone[0])
    results = [None] * 8

    def work(k):
        results[k] = [ours @ xs[k] for _ in range(50)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for many, one in zip(results, alone, strict=True):
        assert all(np.array_equal(each, one) for each in many)
