"""`SparseOperator` multiplies as SciPy does, shares values with the matrix, and gives the gradient of its values."""

import pickle
import threading

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
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


# ------------------------------------------------------------------------------------------ SciPy's solvers

SOLVERS = scipy.sparse.linalg
NEAR = {np.float32: 2e-3, np.float64: 1e-7}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["cg", "minres", "gmres", "bicgstab"])
def test_systems_are_solved_as_with_the_matrix(solver, dtype):
    a = matrix(60, 60, 0.1, dtype)
    a = scipy.sparse.csr_array(a @ a.T + 3 * scipy.sparse.eye_array(60, dtype=dtype))
    a.sort_indices()
    b = numbers(60, dtype=dtype)
    x, told = getattr(SOLVERS, solver)(SparseOperator(a), b, rtol=1e-5 if dtype == np.float32 else 1e-10, maxiter=500)
    assert told == 0 and np.abs(a @ x - b).max() < NEAR[dtype] * np.abs(b).max()
    if solver == "bicgstab":  # not symmetric
        x, told = SOLVERS.bicgstab(SparseOperator(a + 0.5 * matrix(60, 60, 0.05, dtype, 1)), b, rtol=1e-4)
        assert told == 0 and np.abs(a @ x + 0.5 * matrix(60, 60, 0.05, dtype, 1) @ x - b).max() < 1e-2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["lsqr", "lsmr"])
def test_least_squares_are_those_of_the_matrix(solver, dtype):
    a, b = matrix(80, 30, 0.3, dtype), numbers(80, dtype=dtype)
    given = SparseOperator(a)
    found = getattr(SOLVERS, solver)(given, b, atol=1e-12, btol=1e-12)[0]
    np.testing.assert_allclose(found, np.linalg.lstsq(a.toarray().astype(float), b, rcond=None)[0], atol=NEAR[dtype])
    turned = getattr(SOLVERS, solver)(given.T, numbers(30, dtype=dtype), atol=1e-12, btol=1e-12)[0]
    smallest = np.linalg.pinv(a.toarray().astype(float).T) @ numbers(30, dtype=dtype)
    np.testing.assert_allclose(turned, smallest, atol=20 * NEAR[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "propack"])
def test_singular_values_are_those_of_the_matrix(solver, dtype):
    a = matrix(90, 70, 0.2, dtype)
    found = SOLVERS.svds(SparseOperator(a), k=4, solver=solver, rng=0, return_singular_vectors=False)
    wanted = np.linalg.svd(a.toarray().astype(float), compute_uv=False)[:4]
    np.testing.assert_allclose(np.sort(found)[::-1], wanted, rtol=NEAR[dtype])
    u, s, v = SOLVERS.svds(SparseOperator(a).T, k=2, rng=0)
    np.testing.assert_allclose(np.abs(np.diag(u.T @ (a.T @ v.T))), s, rtol=10 * NEAR[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eigenvalues_are_those_of_the_matrix(dtype):
    a = matrix(64, 64, 0.1, dtype)
    a = scipy.sparse.csr_array(a + a.T)
    found, vectors = SOLVERS.eigsh(SparseOperator(a), k=3, which="LA", v0=np.ones(64, dtype))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(a.toarray().astype(float))[-3:], rtol=NEAR[dtype])
    np.testing.assert_allclose(a @ vectors, vectors * found, atol=NEAR[dtype])


def test_it_becomes_a_linear_operator_of_scipys():
    a = matrix()
    operator, x, y = SparseOperator(a), numbers((53, 3), dtype=np.float32), numbers((37, 3), dtype=np.float32)
    linear = SOLVERS.aslinearoperator(operator)
    assert linear.shape == operator.shape == (37, 53) and linear.dtype == np.float32 and operator.ndim == 2
    for got, wanted in (
        (linear @ x, a @ x), (linear.H @ y, a.T @ y), (linear.matvec(x[:, 0]), a @ x[:, 0]),
        (linear.matvec(x[:, :1]), a @ x[:, :1]), (linear.rmatvec(y[:, 0]), a.T @ y[:, 0]), (operator.dot(x), a @ x),
        (operator.H.matmat(y), a.T @ y), (linear.rmatmat(y), a.T @ y), ((2 * linear).matmat(x), 2 * (a @ x)),
    ):  # fmt: skip
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    a.data *= 2  # what is written into the matrix counts here, too
    np.testing.assert_allclose(linear @ x, a @ x, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="dimension mismatch"):
        linear.matvec(np.ones(5))
