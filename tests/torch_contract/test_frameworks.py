"""Sparse modules within Lightning and transformers: their trainers, their files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from sparsecore.interop.torch import SparseLinear, sparsify  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet() -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def samples(count: int = 192) -> Any:
    x = torch.randn(count, 16)
    return TensorDataset(x, (x[:, :4].sum(1) > 0).long())


def test_lightning_trains_saves_and_resumes(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs Lightning: pip install lightning")

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = sparsify(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2)), 0.8, skip=["2"])

        def training_step(self, batch: Any, index: int) -> Any:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.01)

    def trained(epochs: int, model: Any, resumed: Any = None) -> Any:
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, default_root_dir=tmp_path, logger=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, accumulate_grad_batches=2,
        )  # fmt: skip
        trainer.fit(model, DataLoader(data, 16, shuffle=False), ckpt_path=resumed)
        return trainer

    data, x = samples(), torch.randn(5, 16)
    model = Model()
    trainer = trained(3, model)
    assert float(trainer.callback_metrics["loss"]) < 0.5
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    torch.manual_seed(9)  # other connections: those of the file count
    again = Model.load_from_checkpoint(path)
    assert torch.equal(again.net(x), model.net(x))
    trained(5, model, path)
    other = Model()
    trained(5, other, path)
    assert torch.equal(other.net(x), model.net(x))


def test_lightning_trains_on_two_processes(tmp_path: Path) -> None:
    """Each with a seed of its own; `DistributedDataParallel` gives them the connections of the first."""
    pytest.importorskip("lightning", reason="needs Lightning: pip install lightning")
    from .lightning_ranks import trained_on_two

    one, other = trained_on_two(tmp_path)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --------------------------------------------------------------------------------------------------- transformers


def sparse_bert() -> Any:
    """A class as transformers wants it: all that it is made of comes from its config."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

    class SparseBert(transformers.BertForSequenceClassification):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for module in list(self.bert.encoder.modules()):
                for name, child in list(module.named_children()):
                    if type(child) is nn.Linear:
                        sizes = child.in_features, child.out_features
                        setattr(module, name, SparseLinear(*sizes, sparsity=config.sparsity))

    return SparseBert, transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        sparsity=0.8,
    )  # fmt: skip


def texts(count: int = 256) -> list[dict[str, Any]]:
    tokens = torch.randint(5, 50, (count, 12))
    tokens[:, 0] = torch.randint(5, 15, (count,))
    return [{"input_ids": row, "labels": int(row[0] < 10)} for row in tokens]


def test_trainer_of_transformers_trains_and_its_files_load(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    kind, config = sparse_bert()
    from transformers import Trainer, TrainingArguments

    model, x = kind(config), torch.randint(5, 50, (4, 12))
    given = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=60, per_device_train_batch_size=32, learning_rate=3e-3,
        report_to=[], use_cpu=True, save_steps=30, logging_steps=10, disable_tqdm=True, max_grad_norm=1.0,
    )  # fmt: skip
    trainer = Trainer(model=model, args=given, train_dataset=texts())
    assert trainer.train().training_loss < 0.6
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert losses[-1] < 0.3 * losses[0]
    model.eval()
    expected = model(x).logits

    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists()
    torch.manual_seed(5)  # other connections: those of the file count
    again = kind.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(again(x).logits, expected)
    patterns = [[m.pattern for m in each.modules() if isinstance(m, SparseLinear)] for each in (model, again)]
    assert len(patterns[0]) == 12 and patterns[0] == patterns[1]

    resumed = Trainer(model=kind(config), args=given, train_dataset=texts())
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-30"))
    assert resumed.state.global_step == 60
    sparse = [m for m in resumed.model.modules() if isinstance(m, SparseLinear)]
    assert [m.pattern for m in sparse] == patterns[0]


def test_a_pretrained_model_is_made_sparse_and_loads_into_one_that_was(tmp_path: Path) -> None:
    """`sparsify` after `from_pretrained`; the state then goes into another that was made sparse the same way."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    _, config = sparse_bert()
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)

    def made() -> Any:
        model = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
        return sparsify(model, 0.8, skip=["classifier", "bert.pooler"]).eval()

    model, other, x = made(), made(), torch.randint(5, 50, (4, 12))
    assert len(model.sparsified.replaced) == 12
    model.gradient_checkpointing_enable()
    model.train()
    model(x, labels=torch.ones(4, dtype=torch.long)).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    model.eval()
    assert not torch.equal(model(x).logits, other(x).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x).logits, other(x).logits)


def test_accelerate_prepares_and_trains() -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    model = sparsify(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2)), 0.8, skip=["2"])
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    worker = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    used, optimizer, loader = worker.prepare(model, optimizer, DataLoader(samples(), 16))
    losses = []
    for _ in range(4):
        for x, y in loader:
            with worker.accumulate(used):
                loss = nn.functional.cross_entropy(used(x), y)
                worker.backward(loss)
                worker.clip_grad_norm_(used.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    x = torch.randn(3, 16)
    assert torch.equal(worker.unwrap_model(used)(x), model(x))
