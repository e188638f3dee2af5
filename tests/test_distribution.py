"""Sparsity shared out among layers: exact counts beside rational arithmetic, and what does not go with it."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from pathlib import Path

import pytest

from sparsecore import RunConfig, run, train
from sparsecore.commands.build import wiring_of
from sparsecore.prune.shrink import shared_out
from sparsecore.runs.checkpoint import read
from sparsecore.runs.config import ConfigError
from sparsecore.topology.distribution import erk
from sparsecore.topology.wiring import Link, Wiring

RESNET20 = [
    Link(16 * before, 16 * after, (3, 3))
    for before, after in [*[(1, 1)] * 6, (1, 2), *[(2, 2)] * 5, (2, 4), *[(4, 4)] * 5]
]


def densities(sizes: list[tuple[int, ...]], sparsity: Fraction) -> list[Fraction]:
    """By bisection: the scale at which min(1, scale · sum / product) of all layers comes to the asked number."""
    wanted = (1 - sparsity) * sum(map(prod, sizes))
    raw = [Fraction(sum(each), prod(each)) for each in sizes]
    marks = sorted({Fraction(0), *(1 / each for each in raw)})

    def kept(scale: Fraction) -> Fraction:
        return sum((min(Fraction(1), scale * r) * prod(each) for r, each in zip(raw, sizes, strict=True)), Fraction(0))

    low = max(mark for mark in marks if kept(mark) <= wanted)
    high = min((mark for mark in marks if kept(mark) >= wanted), default=low)
    slope = (kept(high) - kept(low)) / (high - low) if high > low else Fraction(1)
    scale = low + (wanted - kept(low)) / slope
    return [min(Fraction(1), scale * each) for each in raw]


@pytest.mark.parametrize("sparsity", ["0", "0.1", "0.5", "0.8", "0.9", "0.95", "0.99"])
@pytest.mark.parametrize("links", [RESNET20, [Link(784, 300), Link(300, 100)], [Link(3, 4, (1, 5)), Link(4, 90)]])
def test_erk_is_what_exact_arithmetic_says(links: list[Link], sparsity: str) -> None:
    exact = densities([link.sizes for link in links], Fraction(sparsity))
    found = erk([link.sizes for link in links], float(sparsity))
    assert all(abs(1 - s - float(d)) < 1e-12 for s, d in zip(found, exact, strict=True))
    assert all((s == 0) == (d == 1) for s, d in zip(found, exact, strict=True))
    made, note = Wiring("random", sparsity=float(sparsity), distribution="erk").patterns(links, 0)
    possible = [prod(link.sizes) for link in links]
    assert [pattern.nnz for pattern in made] == [round(d * n) for d, n in zip(exact, possible, strict=True)]
    assert abs(sum(pattern.nnz for pattern in made) - float((1 - Fraction(sparsity)) * sum(possible))) <= len(links) / 2
    assert "ERK" in note


def test_layers_that_would_be_over_full_are_full_and_the_rest_is_rescaled() -> None:
    links = Link(4, 4, (3, 3)), Link(256, 256, (3, 3)), Link(512, 512, (3, 3))
    small, middle, large = erk([link.sizes for link in links], 0.9)
    assert small == 0 and 0 < middle < large < 1
    kept = [(1 - s) * prod(link.sizes) for s, link in zip((small, middle, large), links, strict=True)]
    assert sum(kept) == pytest.approx(0.1 * sum(prod(link.sizes) for link in links))
    assert kept[1] / (256 + 256 + 6) == pytest.approx(kept[2] / (512 + 512 + 6))


def test_uniform_is_what_sparsity_alone_means() -> None:
    alone = wiring_of(RunConfig(model="lenet300", random=True, sparsity=0.9))
    assert alone == wiring_of(RunConfig(model="lenet300", random=True, sparsity=0.9, distribution="uniform"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"random": True, "sparsity": (0.5, 0.9)}, "distribution erk: takes one sparsity for all layers, got a list"),
        ({"prune": "gradual", "prune_to": (0.9, 0.5)}, "distribution erk: takes one prune_to for all layers"),
        ({"prune": "gradual", "prune_to": 0.9, "prune_global": True}, "distribution erk: not with prune_global"),
        ({"radix": ((10, 10),)}, "distribution: goes with sparsity or prune_to, got neither"),
        ({}, "distribution: goes with sparsity or prune_to, got neither"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(model="lenet300", distribution="erk", **given)  # type: ignore[arg-type]


def test_runs_are_born_pruned_and_moved_by_erk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = "lenet5 --dataset mnist-subset --hidden 8,12,20 --epochs 1 --batch-size 500 --no-curves --distribution erk"
    wanted = densities([(12, 8, 5, 5), (20, 192)], Fraction("0.9"))
    counts = {"2": round(wanted[0] * 2400), "5": round(wanted[1] * 3840)}
    for number, options in enumerate([
        "--random --sparsity 0.9", "--prune gradual --prune-to 0.9 --prune-every 2",
        "--rewire rigl --sparsity 0.9 --every 3", "--rewire regrow --start-sparsity 0.8 --sparsity 0.9 --every 3",
    ]):  # fmt: skip
        assert train.main([*f"{common} {options}".split(), "--out", str(number)]) == 0
        network = read(str(number)).network
        assert {path: network.patterns[path].nnz for path in network.sparse} == counts, options
    assert shared_out(network, 0.9) == dict(zip(("2", "5"), erk([(12, 8, 5, 5), (20, 192)], 0.9), strict=True))


def test_layers_that_are_born_by_erk_are_pruned_from_where_each_begins() -> None:
    """A small layer that begins full is not at once as sparse as the network is on the whole."""
    done = run(RunConfig(
        model="lenet5", dataset="mnist-subset", hidden=(8, 12, 2000), epochs=1, batch_size=800, random=True,
        sparsity=0.5, prune="gradual", prune_to=0.97, prune_start=1, prune_end=9, prune_every=1, distribution="erk",
    ))  # fmt: skip
    lines = [line["layers"] for line in done.metrics if line["event"] == "prune"]
    first, last = (dict(zip(("2", "5"), erk([(12, 8, 5, 5), (2000, 192)], s), strict=True)) for s in (0.5, 0.97))
    assert first["2"] == 0
    for step, layers in enumerate(lines):
        for layer in layers:
            begin, end = first[layer["layer"]], last[layer["layer"]]
            wanted = end if step == 8 else end + (begin - end) * (1 - step / 8) ** 3
            assert layer["sparsity"] == pytest.approx(wanted, abs=1e-3)


def test_a_layer_that_would_stay_full_is_refused() -> None:
    with pytest.raises(ConfigError, match="start_sparsity: leaves layer 2 full, which then stays so; ask for more"):
        run(RunConfig(
            model="lenet5", dataset="mnist-subset", hidden=(8, 12, 2000), epochs=1, rewire="regrow", sparsity=0.98,
            start_sparsity=0.3, distribution="erk", every=1,
        ))  # fmt: skip
