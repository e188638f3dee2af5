"""The sparsity pattern against numpy and scipy, and what it must refuse."""

import copy
import pickle
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsecore.storage.pattern import SparsityPattern

FORMATS = ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"]

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=8))


def mask_of(pattern):
    mask = np.zeros(pattern.shape, dtype=bool)
    for row in range(pattern.shape[0]):
        mask[row, pattern.indices[pattern.indptr[row] : pattern.indptr[row + 1]]] = True
    return mask


def values_of(nnz):
    return np.arange(1.0, nnz + 1)


# -- what it holds -----------------------------------------------------------------------------------------------------


@given(masks)
def test_every_description_agrees_with_the_mask(mask):
    pattern, data = SparsityPattern.from_dense(mask)
    assert pattern.shape == mask.shape
    assert np.array_equal(mask_of(pattern), mask)
    assert pattern.nnz == data.size == mask.sum()
    assert np.array_equal(pattern.fan_in, mask.sum(axis=1))
    assert np.array_equal(pattern.fan_out, mask.sum(axis=0))
    assert np.array_equal(np.stack([pattern.rows, pattern.indices]), np.nonzero(mask))
    assert pattern.sparsity == pytest.approx(1 - mask.mean() if mask.size else 0.0)
    assert pattern.is_full == mask.all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 7), (7, 1), (3, 4)])
def test_full_and_empty_patterns_of_awkward_shapes(shape):
    full = SparsityPattern.full(shape)
    empty = SparsityPattern(shape, np.zeros(shape[0] + 1, dtype=np.int32), [])
    assert mask_of(full).all() and full.is_full and full.sparsity == 0.0
    assert empty.nnz == 0 and empty.sparsity == (1.0 if shape[0] * shape[1] else 0.0)
    for pattern in (full, empty):
        transposed, perm = pattern.transpose()
        assert np.array_equal(mask_of(transposed), mask_of(pattern).T)
        assert perm.size == pattern.nnz
        assert pattern.to_scipy().shape == shape
        assert pattern.rows.size == pattern.nnz
        assert pattern == pickle.loads(pickle.dumps(pattern))


def test_indices_are_32_bits_until_the_sizes_need_64():
    small = SparsityPattern((2, 2**31 - 1), np.array([0, 1, 2]), np.array([0, 2**31 - 2]))
    assert small.indptr.dtype == small.indices.dtype == small.rows.dtype == np.int32
    wide = SparsityPattern((1, 2**40), np.array([0, 2]), np.array([1, 2**40 - 1]))
    assert wide.indptr.dtype == np.int32
    assert wide.indices.dtype == np.int64
    assert wide.indices[1] == 2**40 - 1
    assert SparsityPattern.from_coo((1, 2**40), [0, 0], [2**40 - 1, 1]) == wide


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"])
def test_any_integers_and_any_strides_are_taken(dtype):
    indptr = np.array([0, 9, 2, 9, 3], dtype=dtype)[::2]
    indices = np.array([1, 2, 0], dtype=dtype)[::-1]
    pattern = SparsityPattern((2, 3), indptr, indices)
    assert np.array_equal(pattern.indices, [0, 2, 1]) and pattern.indices.flags.c_contiguous
    assert isinstance(hash(pattern), int)


def test_repr_says_shape_connections_and_sparsity():
    rng = np.random.default_rng(0)
    columns = np.sort(np.stack([rng.permutation(784)[:78] for _ in range(300)]), axis=1).ravel()
    pattern = SparsityPattern((300, 784), np.arange(301) * 78, columns)
    assert repr(pattern) == "SparsityPattern(300×784, 23,400 connections, 90.1% sparse)"
    assert "100.0% sparse" in repr(SparsityPattern((2, 2), [0, 0, 0], []))
    assert "over 99.9% sparse" in repr(SparsityPattern((1, 10**9), [0, 1], [5]))


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "indptr", "indices", "error", "words"),
    [
        ((2, 3), [0, 1], [0], ValueError, "indptr must have out_features \\+ 1 = 3 entries, got 2"),
        ((2, 3), [0, 1, 2], [0], ValueError, "indptr must end at the number of indices, 1, got 2"),
        ((2, 3), [1, 1, 1], [0], ValueError, "indptr must start at 0, got 1"),
        ((3, 3), [0, 2, 1, 2], [0, 1], ValueError, "indptr must never decrease, got 2 then 1 at row 1"),
        ((3, 3), [0, -1, 1, 2], [0, 1], ValueError, "indptr must never decrease, got 0 then -1 at row 0"),
        ((2, 3), [0, 1, 3], [0, 2, 1], ValueError, r"got 2 then 1 in row 1 \(positions 1 and 2\)"),
        ((2, 3), [0, 2, 3], [1, 1, 0], ValueError, r"got 1 then 1 in row 0 \(positions 0 and 1\)"),
        ((4, 3), [0, 0, 0, 2, 2], [1, 0], ValueError, "in row 2"),
        ((2, 3), [0, 1, 2], [0, 3], ValueError, "indices must be at least 0 and below 3, got 3 at position 1"),
        ((2, 3), [0, 1, 2], [-1, 0], ValueError, "got -1 at position 0"),
        ((2, 0), [0, 0, 1], [0], ValueError, "below 0"),
        ((2, 3), [0.0, 1.0, 2.0], [0, 1], TypeError, "indptr must hold integers, got dtype float64"),
        ((2, 3), [0, 1, 2], [0.0, 1.0], TypeError, "indices must hold integers"),
        ((2, 3), [0, 1, 2], [False, True], TypeError, "indices must hold integers, got dtype bool"),
        ((2, 3), [0, 1, 2], np.array([0, 1], dtype=object), TypeError, "indices must hold integers"),
        ((2, 3), [[0, 1, 2]], [0, 1], ValueError, r"indptr must have one dimension, got shape \(1, 3\)"),
        ((-1, 3), [0], [], ValueError, "out_features must be at least 0"),
        ((0, -3), [0], [], ValueError, "in_features must be at least 0"),
        ((0, 2**63), [0], [], ValueError, "in_features must be at least 0 and below"),
        ((2**63, 0), [0], [], ValueError, "out_features"),
        ((2.0, 3), [0, 1, 2], [0, 1], TypeError, "out_features must be an integer, got 2.0"),
        ((True, 3), [0, 1], [0], TypeError, "out_features must be an integer, got True"),
        ((2, 3, 4), [0, 1, 2], [0, 1], ValueError, "shape must be"),
        (5, [0, 1, 2], [0, 1], ValueError, "shape must be"),
        ((2, 3), [], [], ValueError, "indptr must have"),
    ],
)
def test_broken_input_is_refused_in_one_line(shape, indptr, indices, error, words):
    with pytest.raises(error, match=words) as caught:
        SparsityPattern(shape, indptr, indices)
    assert "\n" not in str(caught.value)


def test_unsigned_indices_cannot_wrap_past_the_checks():
    with pytest.raises(ValueError, match="increase strictly"):
        SparsityPattern((1, 5), np.array([0, 2], np.uint64), np.array([3, 2], np.uint64))
    with pytest.raises(ValueError, match="below 5"):
        SparsityPattern((1, 5), np.array([0, 1]), np.array([2**32 + 1], np.uint64))
    with pytest.raises(ValueError, match="never decrease"):
        SparsityPattern((2, 5), np.array([0, 2, 1], np.uint8), np.array([1], np.uint8))


@given(masks, st.data())
def test_any_one_change_of_a_valid_pattern_is_refused_or_still_valid(mask, data):
    pattern, _ = SparsityPattern.from_dense(mask)
    arrays = {"indptr": pattern.indptr.copy(), "indices": pattern.indices.copy()}
    chosen = data.draw(st.sampled_from([name for name, array in arrays.items() if array.size]))
    at = data.draw(st.integers(0, arrays[chosen].size - 1))
    arrays[chosen][at] = data.draw(st.integers(-3, 12))
    out_features, in_features = pattern.shape
    indptr, indices = arrays["indptr"].tolist(), arrays["indices"].tolist()
    monotone = indptr[0] == 0 and indptr[-1] == len(indices) and indptr == sorted(indptr)
    valid = monotone and all(
        row == sorted(set(row)) and all(0 <= column < in_features for column in row)
        for row in (indices[indptr[i] : indptr[i + 1]] for i in range(out_features))
    )
    if valid:
        SparsityPattern(pattern.shape, indptr, indices)
    else:
        with pytest.raises(ValueError):
            SparsityPattern(pattern.shape, indptr, indices)


def test_ten_million_connections_are_validated_quickly_and_in_little_memory():
    rows = 100_000
    indptr = np.arange(rows + 1, dtype=np.int32) * 100
    indices = np.tile(np.arange(100, dtype=np.int32) * 7, rows)
    tracemalloc.start()
    began = time.perf_counter()
    pattern = SparsityPattern((rows, 700), indptr, indices)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1.0
    assert peak < 1.5 * (pattern.indptr.nbytes + pattern.indices.nbytes)


# -- immutable ---------------------------------------------------------------------------------------------------------


def test_it_owns_its_arrays_and_they_cannot_be_written():
    indptr, indices = np.array([0, 2, 3], np.int32), np.array([0, 2, 1], np.int32)
    pattern = SparsityPattern((2, 3), indptr, indices)
    indptr[:], indices[:] = 99, 99
    assert np.array_equal(pattern.indptr, [0, 2, 3]) and np.array_equal(pattern.indices, [0, 2, 1])
    arrays = [pattern.indptr, pattern.indices, pattern.rows, pattern.fan_in, pattern.fan_out, pattern.transpose()[1]]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError, match="shape is read-only"):
        pattern.shape = (3, 2)
    with pytest.raises(AttributeError, match="cannot be changed"):
        pattern.indices = indices
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del pattern.indptr


@pytest.mark.parametrize(
    "made",
    [
        SparsityPattern.full((2, 3)),
        SparsityPattern.from_coo((2, 3), [1, 0], [1, 2]),
        SparsityPattern.from_dense(np.eye(3))[0],
        SparsityPattern.from_scipy(scipy.sparse.eye_array(3))[0],
        SparsityPattern.full((2, 3)).transpose()[0],
        SparsityPattern.full((2, 3)).select(np.arange(6) % 2 == 0),
        pickle.loads(pickle.dumps(SparsityPattern.full((2, 3)))),
        copy.deepcopy(SparsityPattern.full((2, 3))),
    ],
)
def test_every_way_to_make_one_gives_read_only_contiguous_arrays(made):
    for array in (made.indptr, made.indices):
        assert not array.flags.writeable and array.flags.c_contiguous and array.dtype == np.int32


def test_equal_patterns_are_equal_keys_and_survive_pickling():
    one = SparsityPattern((2, 3), [0, 2, 3], [0, 2, 1])
    same = SparsityPattern.from_coo((2, 3), [1, 0, 0], [1, 2, 0])
    others = [
        SparsityPattern((2, 4), [0, 2, 3], [0, 2, 1]),
        SparsityPattern((2, 3), [0, 1, 3], [0, 1, 2]),
        SparsityPattern((2, 3), [0, 2, 3], [0, 2, 2]),
    ]
    assert one == same and hash(one) == hash(same) and {one: "found"}[same] == "found"
    for other in others:
        assert one != other
    assert one != "a pattern"
    _ = one.rows
    restored = pickle.loads(pickle.dumps(one))
    assert restored == one and "rows" not in vars(restored)
    assert copy.copy(one) is one and copy.deepcopy(one) is one


def test_an_altered_pickle_is_refused():
    payload = pickle.dumps(SparsityPattern((1, 20_000), [0, 1], [12_345]))
    stored, altered = (np.array([column], dtype=np.int32).tobytes() for column in (12_345, 54_321))
    assert payload.count(stored) == 1
    with pytest.raises(ValueError, match="indices must be at least 0 and below 20,000, got 54321"):
        pickle.loads(payload.replace(stored, altered))


# -- made from, made into ----------------------------------------------------------------------------------------------


@given(masks, st.randoms(use_true_random=False))
def test_coo_in_any_order(mask, random):
    pairs = list(zip(*np.nonzero(mask), strict=True))
    random.shuffle(pairs)
    pattern = SparsityPattern.from_coo(mask.shape, [int(r) for r, _ in pairs], [int(c) for _, c in pairs])
    assert np.array_equal(mask_of(pattern), mask)


def test_coo_refuses_duplicates_and_strays():
    with pytest.raises(ValueError, match="got row 1, column 2 3 times"):
        SparsityPattern.from_coo((2, 3), [1, 0, 1, 1], [2, 2, 2, 2])
    with pytest.raises(ValueError, match="rows must be at least 0 and below 2, got 2 at position 1"):
        SparsityPattern.from_coo((2, 3), [0, 2], [0, 0])
    with pytest.raises(ValueError, match="columns must be at least 0 and below 3, got -1"):
        SparsityPattern.from_coo((2, 3), [0, 1], [0, -1])
    with pytest.raises(ValueError, match="same length, got 2 and 1"):
        SparsityPattern.from_coo((2, 3), [0, 1], [0])
    with pytest.raises(TypeError, match="columns must hold integers"):
        SparsityPattern.from_coo((2, 3), [0], [1.5])
    many = np.zeros(257, dtype=int)
    with pytest.raises(ValueError, match="257 times"):
        SparsityPattern.from_coo((1, 1), many, many)


@pytest.mark.parametrize("sparse_format", FORMATS)
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_scipy_round_trip_in_every_format(sparse_format, kind):
    rng = np.random.default_rng(1)
    for shape in [(4, 6), (1, 5), (5, 1), (3, 3)]:
        weights = rng.standard_normal(shape) * (rng.random(shape) < 0.5)
        given_matrix = getattr(scipy.sparse, f"csr_{kind}")(weights).asformat(sparse_format)
        pattern, data = SparsityPattern.from_scipy(given_matrix)
        assert np.array_equal(pattern.to_scipy(data).toarray(), weights)
        if sparse_format != "bsr":
            assert pattern.nnz == np.count_nonzero(weights)


def test_scipy_input_with_duplicates_disorder_and_zeros_is_not_changed():
    rows, columns = np.array([1, 0, 1, 0, 1]), np.array([2, 1, 0, 1, 2])
    values = np.array([1.0, 2.0, 3.0, -2.0, 5.0])
    coo = scipy.sparse.coo_array((values, (rows, columns)), shape=(2, 3))
    pattern, data = SparsityPattern.from_scipy(coo)
    assert np.array_equal(mask_of(pattern), [[False, True, False], [True, False, True]])
    assert np.array_equal(data, [0.0, 3.0, 6.0])  # the summed zero stays stored
    assert coo.nnz == 5 and np.array_equal(coo.row, rows) and np.array_equal(coo.data, values)

    csr = scipy.sparse.csr_array((values, np.array([2, 2, 0, 1, 0]), np.array([0, 3, 5])), shape=(2, 3))
    before = [array.copy() for array in (csr.data, csr.indices, csr.indptr)]
    pattern, data = SparsityPattern.from_scipy(csr)
    assert np.array_equal(pattern.to_scipy(data).toarray(), csr.toarray())
    assert all(map(np.array_equal, before, (csr.data, csr.indices, csr.indptr)))
    data[:] = 0
    assert np.array_equal(csr.data, values)


def test_scipy_data_keeps_its_dtype_and_is_shared_on_the_way_out():
    for dtype in (np.float32, np.float64, np.int8, np.complex128):
        _, data = SparsityPattern.from_scipy(scipy.sparse.csr_array(np.eye(3, dtype=dtype)))
        assert data.dtype == dtype
    pattern = SparsityPattern.full((2, 3))
    data = values_of(6)
    matrix = pattern.to_scipy(data)
    assert isinstance(matrix, scipy.sparse.csr_array)
    assert np.shares_memory(matrix.data, data)
    assert np.shares_memory(matrix.indices, pattern.indices) and np.shares_memory(matrix.indptr, pattern.indptr)
    assert np.array_equal(pattern.to_scipy().toarray(), np.ones((2, 3)))
    data[0] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        matrix.eliminate_zeros()
    assert np.array_equal(pattern.indices, [0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match=r"data must have shape \(6,\)"):
        pattern.to_scipy(np.ones(5))
    with pytest.raises(ValueError, match="data must have shape"):
        pattern.to_scipy(np.ones((6, 1)))


def test_scipy_matrices_that_are_broken_or_not_matrices_are_refused():
    with pytest.raises(TypeError, match="from_dense"):
        SparsityPattern.from_scipy(np.eye(3))
    with pytest.raises(ValueError, match="2 dimensions, got 1"):
        SparsityPattern.from_scipy(scipy.sparse.coo_array(np.ones(3)))
    for sparse_format in ("csr", "csc", "bsr"):
        broken = scipy.sparse.csr_array(np.eye(3)).asformat(sparse_format)
        broken.indices[1] = 1000
        with pytest.raises(ValueError):
            SparsityPattern.from_scipy(broken)
    broken = scipy.sparse.coo_array(np.eye(3))
    broken.row[1] = 1000
    with pytest.raises(ValueError):
        SparsityPattern.from_scipy(broken)
    stale = scipy.sparse.csr_array(np.ones((1, 3)))
    assert stale.has_canonical_format
    stale.indices[:] = [2, 0, 0]
    pattern, data = SparsityPattern.from_scipy(stale)
    assert np.array_equal(pattern.indices, [0, 2]) and np.array_equal(data, [2.0, 1.0])


def test_dense_input():
    weights = np.array([[0.0, np.nan, -0.0], [np.inf, 0.0, 1.0]], dtype=np.float32)
    pattern, data = SparsityPattern.from_dense(weights)
    assert np.array_equal(mask_of(pattern), [[False, True, False], [True, False, True]])
    assert data.dtype == np.float32 and np.array_equal(data, [np.nan, np.inf, 1.0], equal_nan=True)
    fortran, values = SparsityPattern.from_dense(np.asfortranarray(weights))
    assert fortran == pattern and np.array_equal(values, data, equal_nan=True)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        SparsityPattern.from_dense(np.ones(3))
    with pytest.raises(TypeError, match="numbers"):
        SparsityPattern.from_dense([["a"]])


@given(masks)
def test_transpose_and_its_permutation(mask):
    pattern, _ = SparsityPattern.from_dense(mask)
    data = values_of(pattern.nnz)
    transposed, perm = pattern.transpose()
    assert np.array_equal(transposed.to_scipy(data[perm]).toarray(), pattern.to_scipy(data).toarray().T)
    SparsityPattern(transposed.shape, transposed.indptr, transposed.indices)  # valid by its own rules
    back, perm_back = transposed.transpose()
    assert back == pattern and np.array_equal(perm[perm_back], np.arange(pattern.nnz))


@given(masks, st.integers(0, 2**32 - 1))
def test_select(mask, seed):
    pattern, _ = SparsityPattern.from_dense(mask)
    data = values_of(pattern.nnz)
    keep = np.random.default_rng(seed).random(pattern.nnz) < 0.5
    selected = pattern.select(keep)
    assert np.array_equal(selected.to_scipy(data[keep]).toarray(), pattern.to_scipy(data * keep).toarray())
    assert selected == SparsityPattern(selected.shape, selected.indptr, selected.indices)
    assert pattern.select(np.ones(pattern.nnz, bool)) == pattern
    assert pattern.select(np.zeros(pattern.nnz, bool)).nnz == 0


def test_select_refuses_what_is_not_a_mask():
    pattern = SparsityPattern.full((2, 3))
    with pytest.raises(TypeError, match="boolean, got dtype int64"):
        pattern.select(np.arange(6))
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        pattern.select(np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        pattern.select(np.ones((2, 3), dtype=bool))


def test_a_full_pattern_too_large_to_store_is_refused():
    with pytest.raises(ValueError, match="too many to store"):
        SparsityPattern.full((2**40, 2**40))
