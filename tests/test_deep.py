"""The deep models: shapes and numbers of the papers' tables, options, and runs that go on to the same bits."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.models.catalogue import MODELS
from sparsecore.models.mlp import mlp
from sparsecore.models.resnet import links, resnet
from sparsecore.models.vgg import vgg11

from sparsecore import RunConfig, evaluate, run, train
from sparsecore.commands.report import rows_of
from sparsecore.data import load
from sparsecore.inspect.report import describe
from sparsecore.layers import BatchNorm, PadChannels, Residual, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.runs.checkpoint import read
from sparsecore.topology.wiring import Wiring
from sparsecore.training.callbacks import Callback

from .command.given import bits, records


def counted(network: Network) -> int:
    return int(network.params.size)


# -- the papers' tables -----------------------------------------------------------------------------------------------


def residual(depth: int, width: int = 1, colours: int = 3, classes: int = 10) -> int:
    """Trained numbers of a CIFAR ResNet with shortcut A.

    Those of 3×3 convolutions without bias, two for each normalised channel, and a head with bias.
    """
    blocks, stages = (depth - 2) // 6, [16 * width, 32 * width, 64 * width]
    weights, channels, before = colours * stages[0] * 9, stages[0], stages[0]
    for stage in stages:
        weights += before * stage * 9 + (2 * blocks - 1) * stage * stage * 9
        channels, before = channels + 2 * blocks * stage, stage
    return weights + 2 * channels + stages[-1] * classes + classes


def test_resnets_have_the_papers_sizes() -> None:
    """0.27, 0.46 and 0.85 million, in table 6; to the number by `residual`, which needs no network."""
    expected = {20: 269_722, 32: 464_154, 56: 853_018}
    for depth, count in expected.items():
        network = resnet(depth)
        assert counted(network) == residual(depth) == count
        convolutions = [layer for _, layer in network.walk() if isinstance(layer, SparseConv2d)]
        assert len(convolutions) == depth - 1 and all(layer.bias is None for layer in convolutions)
        assert len(network.sparse) == depth - 2
    # With projections and normalisation in place of the two zero-padded shortcuts it would be the 272,474 often quoted.
    assert 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64) == 272_474


def test_a_resnet_has_the_papers_shapes_and_paths() -> None:
    network = resnet(20, in_shape=(3, 32, 32))
    sizes = {path: layer.out_shape for path, layer in network.walk()}
    assert sizes["stem.conv"] == (16, 32, 32) == sizes["stage1.2"]
    assert sizes["stage2.0.main.conv1"] == (32, 16, 16) == sizes["stage2.2"]
    assert sizes["stage3"] == (64, 8, 8) and sizes["pool"] == (64,) and sizes["head"] == (10,)
    assert isinstance(network["stage2.0.shortcut"], PadChannels) and isinstance(network["stage1.0"], Residual)
    assert {path for path in sizes if path.endswith("shortcut")} == {"stage2.0.shortcut", "stage3.0.shortcut"}
    rectified = {path for path, layer in network.walk() if getattr(layer, "relu", False)}
    blocks = [f"stage{s}.{b}" for s in (1, 2, 3) for b in range(3)]
    assert rectified == {"stem.norm", *blocks, *(f"{block}.main.norm1" for block in blocks)}
    assert network.sparse == tuple(f"{block}.main.conv{k}" for block in blocks for k in (1, 2))
    shown = [row[0] for row in rows_of(network)]
    assert shown[1] == "stage1.0.main.conv1 SparseConv2d(16×32×32→16×32×32, 3×3)" and len(shown) == 21


def test_vgg11_has_its_tables_sizes() -> None:
    channels = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    weights = sum(before * after * 9 for before, after in pairwise(channels))
    network = vgg11()
    assert counted(network) == weights + 2 * sum(channels[1:]) + 512 * 10 + 10 == 9_228_362
    pooled = [layer.out_shape for path, layer in network.walk() if path.startswith("pool")]
    assert pooled == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    assert network.sparse == tuple(f"conv{k}" for k in range(2, 9))
    assert vgg11(in_shape=(1, 64, 40), width=0.125)["head"].in_shape == (64 * 2 * 1,)


def test_an_mlp_is_of_any_depth() -> None:
    assert counted(mlp()) == 3072 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 10 + 10
    network = mlp([Wiring().patterns(MODELS["mlp"].links((5, 2), hidden=(7, 6, 4)), 0)[0][k] for k in range(3)],
                  in_shape=(5, 2), classes=3, batch_norm=True)  # fmt: skip
    kinds = [type(layer) for layer in network.layers]
    assert kinds == [SparseLinear, BatchNorm] * 3 + [SparseLinear]
    assert counted(network) == 10 * 7 + 7 * 6 + 6 * 4 + 2 * (7 + 6 + 4) + 4 * 3 + 3
    assert network.sparse == ("hidden1", "hidden2", "hidden3")


@pytest.mark.parametrize("model", ["mlp", "vgg11", "resnet20", "resnet32"])
@pytest.mark.parametrize("every", [False, True])
def test_links_are_the_layers_that_are_wired(model: str, every: bool) -> None:
    found = MODELS[model]
    options: dict[str, Any] = {"width": 0.25} if "width" in found.own else {}
    hidden = found.hidden and (30, 20)
    wired = found.links((3, 32, 32), classes=5, every=every, hidden=hidden, **options)
    patterns, _ = Wiring("random", sparsity=0.75).patterns(wired, 0)
    network = found.build(patterns, (3, 32, 32), classes=5, every=every, **options)
    assert [network.patterns[path] for path in network.sparse] == patterns
    assert len(network.patterns) - len(network.sparse) == (0 if every else 1 if model == "mlp" else 2)
    for link, path in zip(wired, network.sparse, strict=True):
        assert network.patterns[path].shape == (link.outputs, link.inputs * prod(link.kernel_size))


@pytest.mark.parametrize("width", [2, 3, 0.5, 1.25])
def test_a_width_multiplies_channels(width: float) -> None:
    network = resnet(20, width=width)
    assert network["head"].in_shape == (64 * width,)
    if width in (2, 3):
        assert counted(network) == residual(20, int(width))


def test_what_does_not_fit_is_refused() -> None:
    for make, problem in (
        (lambda: resnet(20, width=0.3), "width: must make whole numbers of resnet20's 16 channels, got 16 × 0.3"),
        (lambda: resnet(21), "depth must be 6n . 2, such as 20, 32, 56, got 21"),
        (lambda: resnet(20, in_shape=(784,)), "resnet20 takes images"),  # type: ignore[arg-type]
        (lambda: vgg11(in_shape=(3, 32, 31)), "vgg11 takes images, .* of at least 32×32 pixels, got"),
        (lambda: resnet(20, []), "resnet20: wiring must have 18 patterns, got 0"),
        (lambda: resnet(20, Wiring().patterns(links(20, (3, 8, 8), width=2), 0)[0]),
         "resnet20: pattern 0 must have shape"),
        (lambda: links(20, (3, 32, 32), hidden=(3,)), "hidden: not for resnet20"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            make()


# -- RadiX layers -----------------------------------------------------------------------------------------------------


def test_radix_layers_lie_over_channels_at_the_sparsity_of_their_radices() -> None:
    wiring = Wiring("radix", ((2, 2, 2, 2),) * 4 + ((2, 2),))
    patterns, note = wiring.patterns(links(20, (3, 32, 32)), 0)
    assert {pattern.sparsity for pattern in patterns} == {1 - 2 / 16}
    assert note.startswith("RadiX layers: N' = 16 nodes keep 2/16 of 16→16 (6 times), 2/16 of 16→32, ")
    for pattern in patterns:  # whole filters, and all channels take part alike
        assert set(pattern.fan_in) == {pattern.shape[1] // 8} and set(pattern.fan_out) == {pattern.shape[0] // 8}
    with pytest.raises(ValueError, match=r"the layer 16→16: try 2,2,2,2\*4/2,2$"):
        Wiring("radix", ((3, 3),) * 9).patterns(links(20, (3, 32, 32)), 0)


def test_a_list_of_radices_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits()
    words = "resnet20 --dataset small.npz --width 0.25 --radix 2,2*9 --epochs 1 --batch-size 160 --quiet --out run"
    assert train.main([*words.split(), "--no-curves"]) == 0
    assert records(tmp_path / "run")
    assert {read("run").network.patterns[path].sparsity for path in read("run").network.sparse} == {0.5}
    for wrong in ("2,2*0", "2,2*", "2,2*x", "2,2*1001"):
        assert train.main(["resnet20", "--radix", wrong]) == 2


# -- runs -------------------------------------------------------------------------------------------------------------


def digits() -> None:
    """Some digits of the embedded set: of 14×14 pixels, and within 32×32 ones."""
    found = load("mnist-subset").train
    images = found.x[:400].reshape(-1, 28, 28)
    np.savez("small.npz", x=images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).astype(np.uint8), y=found.y[:400])
    np.savez("large.npz", x=np.pad(images, ((0, 0), (2, 2), (2, 2))), y=found.y[:400])


CONFIGS: dict[str, dict[str, Any]] = {
    "resnet20": {"dataset": "small.npz", "width": 0.25, "random": True, "sparsity": 0.7, "granularity": "rows:4"},
    "vgg11": {"dataset": "large.npz", "width": 0.125, "prune": "gradual", "prune_to": 0.8, "distribution": "erk"},
    "mlp": {"dataset": "small.npz", "hidden": (40, 30, 20), "batch_norm": True, "rewire": "rigl", "sparsity": 0.8,
            "every": 3, "granularity": "block:2,2"},
}  # fmt: skip


@pytest.mark.parametrize("model", CONFIGS)
def test_it_learns_and_a_run_that_was_stopped_goes_on_to_the_same_bits(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits()
    config = RunConfig(model=model, epochs=3, batch_size=32, augment="none", **CONFIGS[model])
    whole = run(config, out="whole")

    class Stop(Callback):
        def stepped(self, trainer: Any) -> None:
            if trainer.steps_done == 17:
                trainer.stop()

    assert run(config, out="parts", callbacks=[Stop()]).state.result is None
    gone_on = run(config, out="parts", resume=True)
    assert whole.state.result is not None and gone_on.state.result is not None
    assert gone_on.state.result["test_accuracy"] == whole.state.result["test_accuracy"]
    assert bits(tmp_path / "parts") == bits(tmp_path / "whole")
    losses = [line["train_loss"] for line in whole.metrics if line["event"] == "epoch"]
    assert losses[-1] < losses[0]
    kept = [row for row in whole.network.table.rows if not row.trained]
    assert kept and not np.array_equal(whole.network.table.values[kept[-1].slice], np.ones(kept[-1].size))
    assert evaluate.main(["whole"]) == 0
    assert describe(read("whole").network)["layers"]


def test_command_lines_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    digits()
    words = ["--dataset", "small.npz", "--epochs", "1", "--batch-size", "80", "--quiet", "--no-curves"]
    for model in ("resnet20 --width 0.25 --sparse-all --random --sparsity 0.5", "mlp --hidden 20,10"):
        assert train.main([*model.split(), *words, "--out", model.split()[0]]) == 0
    assert "stem.conv" in read("resnet20").network.sparse
    again = ["--from", "resnet20", "--rewind", "fresh", "--epochs", "1", "--batch-size", "80", "--quiet", "--no-curves"]
    assert train.main([*again, "--out", "again"]) == 0
    table = read("again").network.table
    rows = [row for row in table.rows if row.path.endswith(".scale")]
    assert rows and all(table.values[row.slice].mean() > 0.5 for row in rows), "they start at 1, not at 0"
    capsys.readouterr()
    for line, problem in (
        ("resnet20 --hidden 3,3", "--hidden: not for resnet20"), ("mlp --width 2", "--width: mlp has no width"),
        ("vgg11 --dataset mnist-subset", "vgg11 takes images"), ("resnet32 --batch-norm", "--batch-norm: resnet32 has"),
        ("resnet20 --padding 1", "--padding: resnet20 has"),
        ("resnet56 --width 0.01", "--width: must make whole numbers"),
        ("resnet20 --from resnet20 --width 2", "--width: not with --from"),
        ("resnet20 --radix 2,2", "one radix a sparse layer: there are 18"),
    ):  # fmt: skip
        assert train.main(line.split()) == 2
        said = capsys.readouterr().err
        assert problem in said and said.count("\n") == 1, said


def test_a_deep_network_takes_no_more_memory_to_be_asked_than_to_be_trained():
    """A thousand samples at once would take ResNet-20 1.5 GB of activations; fewer give the same answers."""
    network = MODELS["resnet20"].build(None, (3, 32, 32), classes=10, seed=0)
    assert network.samples_at_once(1000) == 160
    assert MODELS["lenet5"].build(None, (1, 28, 28), classes=10, seed=0).samples_at_once(1000) == 1000
    small = MODELS["resnet20"].build(None, (1, 16, 16), classes=10, seed=0, width=0.25)
    x = np.random.default_rng(0).standard_normal((33, 1, 16, 16)).astype(np.float32)
    assert np.array_equal(small.logits(x), small.logits(x, 16))
