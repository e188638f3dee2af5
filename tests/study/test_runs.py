"""Runs as values: keys, seeds, sources, and a command for each; every cell of the slides has its runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sparsecore.models.catalogue import MODELS

from sparsecore.commands.build import wiring_of
from sparsecore.commands.options import read
from sparsecore.runs.config import RunConfig
from sparsecore.study import studies
from sparsecore.study.__main__ import Plan
from sparsecore.study.making.cost import seconds_of
from sparsecore.study.making.run import prune, train
from sparsecore.study.making.scale import LENET300, full, quick
from sparsecore.study.reporting import slides
from sparsecore.topology.wiring import Wiring
from tests.study.given import DENSE, PRUNED, RECIPE, RETRAINED, all_runs


def test_a_key_is_the_same_for_the_same_configuration_only() -> None:
    shuffled = train("lenet300", "mnist-subset", dict(reversed(RECIPE.items())), dense=True)
    assert shuffled.key == DENSE.key and shuffled == DENSE
    others = [
        DENSE.seeded(0), DENSE.seeded(1), PRUNED, PRUNED.seeded(0), prune(DENSE, sparsity="0.95"), RETRAINED,
        train("lenet300", "mnist-subset", RECIPE, prune(DENSE, sparsity="0.95"), rewind="initial"),
        train("lenet300", "mnist-subset", RECIPE | {"lr": 0.2}, dense=True),
        train("lenet300", "mnist", RECIPE, dense=True),
    ]  # fmt: skip
    keys = [run.key for run in (DENSE, *others)]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


def test_a_key_does_not_change_between_versions() -> None:
    """What was computed yesterday is found today. Whoever changes this on purpose raises `run.VERSION`."""
    assert (DENSE.seeded(0).key, RETRAINED.seeded(0).key) == ("ac353ce027ca86eb", "80f8fb2380c2641a")


def test_a_seed_reaches_the_sources_but_for_those_that_have_one() -> None:
    seeded = RETRAINED.seeded(3)
    assert [each.options.get("seed") for each in (*seeded.sources(), seeded)] == [3, None, 3]
    pinned = train("lenet300", "mnist-subset", RECIPE, PRUNED.seeded(0), rewind="fresh")
    assert pinned.seeded(3).source == pinned.seeded(4).source == PRUNED.seeded(0)
    assert pinned.seeded(3).key != pinned.seeded(4).key


def test_none_is_left_out_of_a_run() -> None:
    assert train("lenet300", "mnist", RECIPE, hidden=None) == train("lenet300", "mnist", RECIPE)


@pytest.mark.parametrize("scale", [full(), quick()], ids=["full", "quick"])
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_run_is_a_command_that_the_parser_takes(name: str, scale: Any) -> None:
    for run in all_runs(studies.STUDIES[name].points(scale)):
        assert seconds_of(run) > 0
        if run.kind == "train":
            line = read(run.arguments(Path("runs")))
            recipe = {name for name, value in vars(MODELS[line.fields["model"]].recipe).items() if value is not None}
            recipe -= {"padding"} if run.source is not None else set()  # the network that it starts from has it
            assert recipe <= set(line.fields), "what a recipe says is pinned: a better default changes no study"
            start = {} if run.source is None else {"start_from": str(Path("runs", run.source.key).absolute())}
            assert isinstance(run.what, RunConfig)
            assert line.config() == replace(run.what, seed=run.seed, **start), "the run itself, through its command"


def test_keys_are_those_that_the_committed_results_have() -> None:
    """`study --from` finds its runs by them."""
    folder = Path(__file__).resolve().parents[2] / "docs" / "results"
    lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    points = [point for study in studies.STUDIES.values() for point in study.points(full())]
    runs = [each for point in points for seed in range(9) for run in (point.run.seeded(seed),)
            for each in (*run.sources(), run)]  # fmt: skip
    commands = {run.key: str(run) for run in runs}
    assert len(lines) > 200
    assert [line["run"] for line in lines if commands.get(line["run"]) != line["command"]] == []


def test_every_cell_of_the_slides_has_its_counterpart() -> None:
    found: dict[str, dict[float, float]] = {}
    for study in studies.STUDIES.values():
        for each in study.points(full()):
            if each.slides is not None:
                network = {"LeNet-300-100, MNIST": "L300", "LeNet-5, MNIST": "L5", "LeNet-5, CIFAR-10": "L5 CIFAR-10"}
                found.setdefault(f"{network[each.table]} {each.series}", {})[float(each.x)] = each.slides
    assert found == slides.SPARSITY | slides.WIDTH
    assert sum(map(len, found.values())) == 66


def test_studies_share_the_runs_that_are_the_same() -> None:
    dense = LENET300.dense().seeded(0).key
    sharing = [name for name, study in studies.STUDIES.items()
               if dense in {run.key for run in all_runs(study.points(full()))}]  # fmt: skip
    assert {"one-time", "iterative", "retrain", "radix", "where"} <= set(sharing)


def test_networks_that_move_start_as_those_that_do_not_and_cost_what_they_store() -> None:
    points = [p for p in studies.STUDIES["dynamic"].points(full()) if p.table == LENET300.title and p.x == 98]
    runs = {p.series: p.run for p in points}
    configs = {name: run.what for name, run in runs.items()}
    for name in ("SET", "RigL", "RigL, all places", "static, random"):
        config = configs[name]
        assert isinstance(config, RunConfig)
        assert wiring_of(config) == Wiring("random", sparsity=0.98)
    cost = {name: seconds_of(run) for name, run in runs.items()}
    assert cost["static, random"] < cost["RigL"] < cost["regrowth"] < cost["pruned"] < seconds_of(LENET300.dense())


def test_a_network_that_is_replaced_is_not_the_same_run() -> None:
    assert replace(LENET300, recipe=dict(LENET300.recipe) | {"epochs": 1}).dense().key != LENET300.dense().key


def test_a_study_of_hours_has_fewer_seeds_unless_more_are_asked_for() -> None:
    def counts(**options: Any) -> list[int]:
        plan = Plan({"names": ("deep", "equal-connections", "logits-relu")} | options)
        return [len(plan.seeds_of(study)) for study in plan.studies]

    assert counts() == [1, 2, 6] and counts(seeds=3) == [3, 3, 6]
