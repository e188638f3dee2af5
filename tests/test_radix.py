"""RadiX-Nets against the matrices of the paper's formula, its two theorems, and the fitting rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.topology.radix import fit_radix_net, radix_layer, radix_net


def dense_matrix(pattern):
    return pattern.to_scipy(np.ones(pattern.nnz, dtype=np.int64)).toarray()


def reference_layers(radices, widths):
    """The formula literally: kron(ones(B_in, B_out), Σ_j roll(I, -j·pv, axis=1)), as (inputs, outputs)."""
    nodes = math.prod(radices[0])
    identity = np.eye(nodes, dtype=np.int64)
    layers = []
    for each in radices:
        place_value = 1
        for radix in each:
            base = sum(np.roll(identity, -j * place_value, axis=1) for j in range(radix))
            width_in, width_out = widths[len(layers)], widths[len(layers) + 1]
            layers.append(np.kron(np.ones((width_in, width_out), dtype=np.int64), base))
            place_value *= radix
    return layers


def factor_lists(product):
    """Every ordered list of factors above 1 with this product."""
    return [[product]] + [
        [first, *rest] for first in range(2, product) if product % first == 0 for rest in factor_lists(product // first)
    ]


@st.composite
def radix_nets(draw):
    nodes = draw(st.sampled_from([2, 3, 4, 6, 8, 9, 12]))
    lists = [draw(st.sampled_from(factor_lists(nodes))) for _ in range(draw(st.integers(0, 2)))]
    last = draw(st.sampled_from([d for d in range(2, nodes + 1) if nodes % d == 0])) if lists else nodes
    lists.append(draw(st.sampled_from(factor_lists(last))))
    layers = sum(map(len, lists))
    widths = draw(st.lists(st.integers(1, 4), min_size=layers + 1, max_size=layers + 1))
    return lists, widths


@given(radix_nets())
@settings(deadline=None)
def test_layers_are_those_of_the_formula(net):
    radices, widths = net
    patterns = radix_net(radices, widths)
    expected = reference_layers(radices, widths)
    assert len(patterns) == len(expected)
    for pattern, matrix in zip(patterns, expected, strict=True):
        assert np.array_equal(dense_matrix(pattern), matrix.T)


@given(radix_nets())
@settings(deadline=None)
def test_every_input_reaches_every_output_by_the_same_number_of_paths(net):
    radices, widths = net
    paths = 1
    for pattern in radix_net(radices, widths):
        paths = dense_matrix(pattern) @ paths if isinstance(paths, np.ndarray) else dense_matrix(pattern)
    expected = math.prod(math.prod(each) for each in radices[1:]) * math.prod(widths[1:-1])
    assert (paths == expected).all()


@given(radix_nets())
@settings(deadline=None)
def test_layer_i_keeps_radix_over_nodes_of_its_connections(net):
    radices, widths = net
    nodes = math.prod(radices[0])
    flat = [radix for each in radices for radix in each]
    for radix, pattern in zip(flat, radix_net(radices, widths), strict=True):
        assert pattern.nnz * nodes == radix * pattern.shape[0] * pattern.shape[1]
        assert set(pattern.fan_in) == {radix * pattern.shape[1] // nodes}
        assert set(pattern.fan_out) == {radix * pattern.shape[0] // nodes}


def test_rows_share_their_columns_at_stride_nodes():
    first, _ = radix_net([[10, 10]], [8, 3, 1])
    columns = first.indices.reshape(300, 80)
    assert np.array_equal(columns[:100], columns[100:200]) and np.array_equal(columns[:100], columns[200:])


@pytest.mark.parametrize(
    ("radices", "widths", "error", "words"),
    [
        (
            [[2, 3], [2, 2], [6]],
            [1] * 6,
            ValueError,
            r"radix list 2 \(2,2\) must have the first's product, N' = 6, got 4",
        ),
        ([[2, 3], [6], [4]], [1] * 5, ValueError, r"radix list 3 \(4\), the last, must .* divides N' = 6, got 4"),
        ([[2, 3], [3], [6]], [1] * 5, ValueError, r"radix list 2 \(3\)"),
        ([[2, 3]], [1, 1], ValueError, r"2 layers and need 3 widths, got 2 \(1,1\)"),
        ([[2, 3]], [1, 0, 1], ValueError, "widths must hold integers of at least 1, got 0 in 1,0,1"),
        ([[2, 1]], [1, 1, 1], ValueError, "radix list 1 must hold integers of at least 2, got 1 in 2,1"),
        ([[2, 3], [-2]], [1, 1, 1, 1], ValueError, "radix list 2 must hold integers of at least 2, got -2"),
        ([[2, 3], []], [1, 1, 1], ValueError, "radix list 2 is empty"),
        ([], [1], ValueError, "at least one list"),
        ([[2.0, 3]], [1, 1, 1], TypeError, "radix list 1 must hold integers"),
        ([[True, True]], [1, 1, 1], TypeError, "radix list 1 must hold integers"),
        ([[2, 3]], [1, 1.5, 1], TypeError, "widths must hold integers"),
        ([2, 3], [1, 1, 1], TypeError, "radix list 1 must hold integers"),
        ([[2**40, 2**40], [3]], [1] * 4, ValueError, "radix list 2"),
    ],
)
def test_a_broken_condition_names_the_list(radices, widths, error, words):
    with pytest.raises(error, match=words) as caught:
        radix_net(radices, widths)
    assert "\n" not in str(caught.value)


def test_radix_layer_is_one_layer_of_a_net():
    patterns = radix_net([[2, 5]], [2, 5, 3])
    assert radix_layer(2, 1, 10, 2, 5) == patterns[0]
    assert radix_layer(5, 2, 10, 5, 3) == patterns[1]


def test_lenet5_layers():
    channels = radix_layer(2, 1, 10, 2, 5)
    features = radix_layer(5, 2, 10, 80, 50)
    assert channels.shape == (50, 20) and channels.nnz * 10 == 2 * 50 * 20
    assert features.shape == (500, 800) and features.nnz * 10 == 5 * 500 * 800
    assert channels.fan_in.min() > 0 and channels.fan_out.min() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 1, 10, 1, 1), "multiple of radix × place_value = 3 × 1 = 3, got 10"),
        ((2, 10, 10, 1, 1), "multiple of radix × place_value"),
        ((1, 1, 10, 1, 1), "radix must hold integers of at least 2"),
        ((2, 1, 10, 0, 1), "must hold integers of at least 1"),
    ],
)
def test_radix_layer_refuses_what_is_no_layer(arguments, words):
    with pytest.raises(ValueError, match=words):
        radix_layer(*arguments)


# -- fitting to a model ------------------------------------------------------------------------------------------------


def test_the_smallest_widths_that_cover_lenet300():
    fitted = fit_radix_net([[10, 10]], [784, 300, 100])
    assert fitted.widths == (8, 3, 1) and fitted.radices == ((10, 10),)
    assert [pattern.shape for pattern in fitted.patterns] == [(300, 784), (100, 300)]
    assert sum(pattern.nnz for pattern in fitted.patterns) == 26_520
    assert all(pattern.sparsity == pytest.approx(0.9, abs=1e-3) for pattern in fitted.patterns)
    assert fitted.note == "N' = 100 nodes and widths 8,3,1 make 800-300-100; dropped the first 16 of 800 inputs"
    whole = radix_net([[10, 10]], [8, 3, 1])
    assert np.array_equal(dense_matrix(fitted.patterns[0]), dense_matrix(whole[0])[:, 16:])
    assert fitted.patterns[1] == whole[1]


def test_explicit_widths_decide_the_hidden_sizes():
    fitted = fit_radix_net([[10, 10]], [784, 300, 100], widths=[8, 30, 1])
    assert [pattern.shape for pattern in fitted.patterns] == [(3000, 784), (100, 3000)]
    assert [pattern.nnz for pattern in fitted.patterns] == [235_200, 30_000]
    assert fitted.widths == (8, 30, 1)


def test_cropped_inputs_leave_the_path_counts_equal():
    first, second = fit_radix_net([[10, 10]], [784, 300, 100]).patterns
    assert (dense_matrix(second) @ dense_matrix(first) == 3).all()


@given(radix_nets(), st.data())
@settings(deadline=None)
def test_fitting_never_leaves_a_neuron_without_input_or_output(net, data):
    radices, widths = net
    nodes = math.prod(radices[0])
    sizes = [data.draw(st.integers(max(nodes, nodes * (width - 1) + 1), nodes * width)) for width in widths]
    fitted = fit_radix_net(radices, sizes)
    assert fitted.widths == tuple(widths)
    whole = radix_net(radices, widths)
    for pattern, uncropped, in_features, out_features in zip(
        fitted.patterns, whole, sizes[:-1], sizes[1:], strict=True
    ):
        assert pattern.shape == (out_features, in_features)
        assert pattern.fan_in.min() > 0 and pattern.fan_out.min() > 0
        expected = dense_matrix(uncropped)[uncropped.shape[0] - out_features :, uncropped.shape[1] - in_features :]
        assert np.array_equal(dense_matrix(pattern), expected)
    assert ("nothing dropped" in fitted.note) == all(size % nodes == 0 for size in sizes)


def test_the_note_says_when_paths_are_no_longer_equal():
    note = fit_radix_net([[8, 8]], [784, 300, 100]).note
    assert "the first 20 of 320 outputs of layer 1" in note and "paths are not equally many" in note
    assert "paths" not in fit_radix_net([[8, 8]], [784, 320, 100]).note


@pytest.mark.parametrize(
    ("radices", "sizes", "widths", "words", "advice"),
    [
        ([[10, 10, 2]], [784, 300, 100], None, "have 2 such layers, got 3 radices", "10,10"),
        ([[10]], [784, 300, 100], None, "have 2 such layers, got 1 radices", "10,10"),
        ([[20, 10]], [784, 300, 100], None, "N' = 200 nodes, more than the 100", "10,10"),
        ([[10, 10]], [784, 20, 50], None, "N' = 100 nodes, more than the 20", "2,5"),
        ([[10**6, 10**6]], [784, 20, 50], None, "more than the 20", "2,5"),
        ([[2] * 8], [50] * 9, None, "N' = 256 nodes, more than the 50", "2,2,2,2,3/3,4,4"),
        ([[10, 10]], [784, 300, 100], [30, 8, 1], "first width must be 8, the smallest", "8,30,1"),
        ([[10, 10]], [784, 300, 100], [7, 3, 1], "first width must be 8, the smallest", "8,3,1"),
        ([[10, 10]], [784, 300, 100], [8, 3], "need 3, got 8,3", None),
        ([[10, 10]], [50, 300, 100], [1, 3, 1], "more than the 50 of the smallest layer", None),
        ([[2, 2]], [1, 1, 1], None, "more than the 1 of the smallest", None),
    ],
)
def test_what_does_not_fit_is_refused_with_advice_that_fits(radices, sizes, widths, words, advice):
    with pytest.raises(ValueError, match=words) as caught:
        fit_radix_net(radices, sizes, widths)
    message = str(caught.value)
    assert "\n" not in message
    if advice is None:
        return
    assert message.endswith(f"try {advice}")
    suggested = [[int(number) for number in each.split(",")] for each in advice.split("/")]
    if widths is None:
        fit_radix_net(suggested, sizes)
    else:
        fit_radix_net(radices, sizes, suggested[0])


@given(
    st.lists(st.integers(2, 200), min_size=3, max_size=8), st.lists(st.lists(st.integers(2, 9), min_size=1), min_size=1)
)
@settings(deadline=None)
def test_every_suggestion_fits(sizes, radices):
    try:
        fit_radix_net(radices, sizes)
    except ValueError as error:
        if "try " in str(error):
            advice = str(error).rpartition("try ")[2]
            fit_radix_net([[int(number) for number in each.split(",")] for each in advice.split("/")], sizes)
