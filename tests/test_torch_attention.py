"""Sparse attention and the transformers of PyTorch: the dense ones with zeros, in parts, without their fast path."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from sparsecore.interop.torch import (  # noqa: E402
    SparseConv2d,
    SparseLinear,
    SparseMultiheadAttention,
    sparsify,
)

from .test_torch_sparsify import checked, kept_by_copies, one, pruned, settled  # noqa: E402, F401

# ------------------------------------------------------------------------------------------ attention


def attention(**options: Any) -> tuple[Any, Any]:
    """A pruned attention and what takes its place."""
    dense = nn.MultiheadAttention(12, 3, **options)
    nn.init.normal_(dense.out_proj.weight)
    if dense.in_proj_bias is not None:
        nn.init.normal_(dense.in_proj_bias)
    names = ["in_proj_weight"] if dense._qkv_same_embed_dim else [f"{each}_proj_weight" for each in "qkv"]
    dense = pruned(dense, *names, "out_proj.weight", amount=0.5)
    return dense, sparsify(copy.deepcopy(dense), strict=True)


TRUTHS = torch.tensor([[False, False, True, False, False, True]] * 4)
ATTENTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no masks": ({}, {}),
    "batch first": ({"batch_first": True}, {"need_weights": False}),
    "no biases": ({"bias": False}, {"average_attn_weights": False}),
    "other features": ({"kdim": 5, "vdim": 7, "batch_first": True}, {}),
    "a mask of truths": ({}, {"attn_mask": TRUTHS}),
    "a mask of numbers": ({}, {"attn_mask": torch.randn(4, 6, dtype=torch.float64), "need_weights": False}),
    "a mask for each head": ({}, {"attn_mask": torch.randn(6, 4, 6, dtype=torch.float64)}),
    "padding": ({"batch_first": True}, {"key_padding_mask": TRUTHS[:2]}),
    "padding and mask": ({"batch_first": True}, {
        "key_padding_mask": TRUTHS[:2], "attn_mask": torch.randn(4, 6, dtype=torch.float64), "need_weights": False,
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_is_the_dense_one_with_zeros(case: str) -> None:
    options, given = ATTENTIONS[case]
    dense, sparse = attention(**options)
    assert isinstance(sparse, SparseMultiheadAttention)
    widths, lengths = (12, options.get("kdim", 12), options.get("vdim", 12)), (4, 6, 6)
    first = options.get("batch_first")
    inputs = [
        torch.randn((2, length, width) if first else (length, 2, width), dtype=torch.float64)
        for width, length in zip(widths, lengths, strict=True)
    ]
    pairs = []
    for module in (dense, sparse):
        mine = [each.clone().requires_grad_() for each in inputs]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of masks of two kinds, which PyTorch will refuse one day
            y, weights = module(*mine, **given)
        y.square().sum().backward()
        pairs.append([y, weights, *(each.grad for each in mine)])
    assert (pairs[0][1] is None) == (pairs[1][1] is None)
    for found, expected in zip(pairs[1], pairs[0], strict=True):
        torch.testing.assert_close(found, expected)
    for k, name in enumerate("qkv"):
        held, at = ("in_proj_weight", k) if dense._qkv_same_embed_dim else (f"{name}_proj_weight", 0)
        grad, mask = (getattr(dense, f"{held}_{each}") for each in ("orig", "mask"))
        grad, mask = (each.chunk(3 if dense._qkv_same_embed_dim else 1)[at] for each in (grad.grad, mask))
        projection = getattr(sparse, f"{name}_proj")
        torch.testing.assert_close(projection.weight.grad, grad[mask.bool()])
        if projection.bias is not None:
            torch.testing.assert_close(projection.bias.grad, dense.in_proj_bias.grad.chunk(3)[k])


def test_attention_of_one_sequence_of_itself_and_causal() -> None:
    dense, sparse = attention()
    x = torch.randn(5, 12, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for given in ({}, {"attn_mask": mask, "is_causal": True}, {
        "attn_mask": mask, "is_causal": True, "need_weights": False
    }):  # fmt: skip
        for found, expected in zip(sparse(x, x, x, **given), dense(x, x, x, **given), strict=True):
            assert (found is None) == (expected is None)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_drops_as_the_dense_one(need_weights: bool) -> None:
    """With one seed the same of the attention's weights are left out, and nothing outside training."""
    dense, sparse = attention(dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    found = []
    for module in (dense, sparse):
        torch.manual_seed(3)
        found.append([module.train(mode)(x, x, x, need_weights=need_weights)[0] for mode in (True, False)])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(*found[1])


@pytest.mark.parametrize("need_weights", [True, False])
def test_derivatives_states_and_copies_of_attention(need_weights: bool) -> None:
    _, module = attention(kdim=4, vdim=3)
    inputs = [torch.randn(2, 2, width, dtype=torch.float64) for width in (12, 4, 3)]
    checked(module, *inputs, need_weights=need_weights)
    kept_by_copies(module, attention(kdim=4, vdim=3)[1], *inputs)


def test_attention_is_replaced_by_parts() -> None:
    """A projection that lost nothing stays dense, and so does the output's if it is skipped."""
    model = one(nn.MultiheadAttention(8, 2))
    mask = torch.ones(24, 8)
    mask[:3, :4] = 0
    prune.custom_from_mask(model["head"], "in_proj_weight", mask)
    out, x = model["head"].out_proj, torch.randn(3, 2, 8)
    expected = model["head"](x, x, x)[0]
    summary = sparsify(model, skip=["head.out_proj"], strict=True).sparsified
    assert model["head"].out_proj is out and type(model["head"].k_proj) is nn.Linear
    assert [(each.path, each.connections, each.weights) for each in summary.replaced] == [("head.q_proj", 52, 64)]
    assert [(each.path, each.why) for each in summary.left] == [
        ("head.k_proj", "neither a mask nor a zero"), ("head.v_proj", "neither a mask nor a zero"),
        ("head.out_proj", "named in skip"),
    ]  # fmt: skip
    torch.testing.assert_close(model["head"](x, x, x)[0], expected)
    sparsify(model, 0.5)
    assert all(isinstance(getattr(model["head"], f"{each}_proj"), SparseLinear) for each in ("q", "k", "v"))


def test_attention_that_is_skipped_reads_its_own_weights() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 8)})
    model["attention"].out_proj = nn.Linear(8, 8)  # an attention reads its weight, and never calls it
    sparsify(model, 0.5, skip=["attention"], strict=True)
    assert type(model["attention"].out_proj) is nn.Linear and isinstance(model["head"], SparseLinear)
    x = torch.randn(3, 8)
    assert model["attention"](x, x, x)[0].shape == x.shape


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"is_causal": True}, ValueError, "is_causal says what attn_mask is: give it too"),
        ({"key": torch.zeros(3, 4, 1, 12)}, ValueError, r"must have 2 or 3 axes each, got \(2, 4, 2\)"),
        ({"key": torch.zeros(4, 12)}, ValueError, "key and value of one length"),
        ({"key_padding_mask": torch.zeros(3, dtype=torch.int64)}, TypeError, "key_padding_mask must be of truths"),
        ({"attn_mask": torch.zeros(3, 3, dtype=torch.uint8)}, TypeError, "attn_mask must be of truths or floating"),
        ({"key_padding_mask": torch.zeros(1)}, ValueError, r"key_padding_mask must have shape \(3,\), got \(1,\)"),
        ({"key_padding_mask": torch.zeros(1, 3)}, ValueError, r"key_padding_mask must have shape \(3,\), got \(1, 3\)"),
        ({"attn_mask": torch.zeros(1, 3)}, ValueError, r"must have shape \(3, 3\) or \(2, 3, 3\), got \(1, 3\)"),
        ({"attn_mask": torch.zeros(1, 3, 3)}, ValueError, r"must have shape \(3, 3\) or \(2, 3, 3\), got"),
        ({"query": torch.nested.nested_tensor([torch.zeros(2, 12)])}, TypeError, "takes padded tensors"),
    ],
)
def test_attention_refuses_in_a_line(given: dict[str, Any], error: type[Exception], words: str) -> None:
    module = sparsify(nn.MultiheadAttention(12, 2), 0.5)
    x = torch.zeros(3, 12)
    with pytest.raises(error, match=f"^SparseMultiheadAttention: .*{words}") as caught:
        module(**({"query": x, "key": x, "value": x} | given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_broadcasts_no_batch(batch_first: bool) -> None:
    module, x = sparsify(nn.MultiheadAttention(12, 2, batch_first=batch_first), 0.5), torch.zeros(2, 2, 12)
    one = x[:1] if batch_first else x[:, :1]
    for given in ((x, one, one), (one, x, x), (x, x, one)):
        with pytest.raises(ValueError, match=r"^SparseMultiheadAttention: query, key and value must be of one batch"):
            module(*given)
    with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(2, 2\), got \(1, 2\)"):
        module(x, x, x, key_padding_mask=torch.zeros(1, 2, dtype=torch.bool))


# ------------------------------------------------------------------------------------------ PyTorch's transformers


def dense_twin(model: Any, sparsity: float, skip: tuple[str, ...] = ()) -> Any:
    """A copy whose weights that are not among the largest are zero: what `sparsify` leaves, in a dense model."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in twin.named_modules():
            if name.endswith(skip) if skip else False:
                continue
            held = [module.weight] if isinstance(module, nn.Linear) else []
            held += list(module.in_proj_weight.chunk(3)) if isinstance(module, nn.MultiheadAttention) else []
            for weight in held:
                count = round((1 - sparsity) * weight.numel())
                weight[weight.abs() < weight.abs().flatten().topk(count).values.min()] = 0
    return twin


PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2, [False] * 2 + [True] * 4])


@pytest.mark.parametrize(("activation", "nested"), [("relu", True), ("gelu", False)])
@pytest.mark.parametrize("skip", [(), ("self_attn",), ("self_attn.out_proj",), ("linear1", "linear2")], ids=str)
def test_transformer_encoders_compute_the_same_without_their_fast_path(
    skip: tuple[str, ...], activation: str, nested: bool
) -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 20, 0.1, activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
    for parameter in model.parameters():  # a stack begins with copies of one layer
        nn.init.normal_(parameter, std=0.3)
    names = [f"layers.{k}.{name}" for k in (0, 1) for name in skip]
    twin = dense_twin(model, 0.6, ("self_attn.out_proj", *skip) if "self_attn" in skip else skip)
    if "self_attn" in skip:
        for ours, theirs in zip(twin.layers, model.layers, strict=True):
            ours.self_attn = copy.deepcopy(theirs.self_attn)
    sparsify(model, 0.6, skip=names, strict=True)
    x, inputs = torch.randn(3, 6, 12), torch.randn(3, 6, 12, requires_grad=True)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    for masks in ({}, {"src_key_padding_mask": PADDING}, {"mask": causal, "is_causal": True}, {"mask": causal < 0}):
        for module in (model.eval(), copy.deepcopy(model)):
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of nested tensors, in the dense one
                expected, found = twin.eval()(x, **masks), module(x, **masks)
            at = ~PADDING if "src_key_padding_mask" in masks else torch.ones(3, 6, dtype=torch.bool)
            torch.testing.assert_close(found[at], expected[at])
    with torch.inference_mode():  # a layer by itself
        torch.testing.assert_close(model.layers[0](x), twin.layers[0](x))
    model(inputs).sum().backward()
    model.train()(x).sum().backward()
    assert inputs.grad is not None


def test_modules_put_into_an_encoder_by_hand_are_called() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 20, batch_first=True), 1).eval()
    model.layers[0].linear1 = SparseLinear.from_linear(model.layers[0].linear1, 0.5)
    x = torch.randn(3, 6, 12)
    expected = model(x)  # with gradients there is no fast path
    assert not sparsify(model).sparsified.replaced
    with torch.no_grad():
        torch.testing.assert_close(model(x, src_key_padding_mask=PADDING)[0], expected[0])


def test_an_encoder_that_stays_dense_keeps_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True)
    model = nn.ModuleDict({"encoder": nn.TransformerEncoder(layer, 1), "head": nn.Linear(12, 12)})
    sparsify(model, 0.5, skip=["encoder"])
    assert model["encoder"].use_nested_tensor and model["encoder"].layers[0].activation_relu_or_gelu == 1


def test_a_whole_transformer_computes_the_same() -> None:
    model = nn.Transformer(12, 2, 1, 1, 20, dropout=0.0, batch_first=True)
    twin = dense_twin(model, 0.6)
    sparsify(model, 0.6, strict=True)
    x, y = torch.randn(2, 5, 12), torch.randn(2, 3, 12)
    mask = model.generate_square_subsequent_mask(3)
    for mode in (True, False):
        found, expected = (each.train(mode)(x, y, tgt_mask=mask, tgt_is_causal=True) for each in (model, twin))
        torch.testing.assert_close(found, expected)
    assert len(model.sparsified.replaced) == 3 * 4 + 4 and not model.sparsified.left


@pytest.mark.slow
def test_gpt2_of_transformers() -> None:
    """Its Conv1D become sparse; its head, whose weight is the embedding's, stays dense and says so."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, bos_token_id=0, eos_token_id=0, n_positions=16,
        n_embd=24, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ == "Conv1D":
                prune.l1_unstructured(module, "weight", 0.7)
    tokens = torch.randint(0, 50, (2, 9))
    twin = sparsify(copy.deepcopy(model))
    expected = model(tokens, labels=tokens)
    assert {each.kind for each in twin.sparsified.replaced} == {"Conv1D"} and len(twin.sparsified.replaced) == 8
    found = twin(tokens, labels=tokens)
    torch.testing.assert_close(found.logits, expected.logits)
    with pytest.raises(ValueError, match=r"^sparsify: lm_head, Linear, would stay dense: it and transformer.wte share"):
        sparsify(model, 0.9, strict=True)
    (left,) = sparsify(model, 0.9).sparsified.left
    assert (left.path, left.why) == ("lm_head", "it and transformer.wte share a parameter")
    model(tokens, labels=tokens).loss.backward()
    assert isinstance(model.transformer.h[0].mlp.c_fc, SparseLinear) and SparseConv2d not in map(type, model.modules())
