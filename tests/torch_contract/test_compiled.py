"""What `torch.compile`, `torch.export` and the ONNX exporters make of a module computes what the module does."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import fx, nn  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from sparsecore.interop.torch import SparseLinear, rewire  # noqa: E402
from sparsecore.prune import RewiringSchedule  # noqa: E402

from .subjects import Subject, each_of_few, each_of_ours, each_subject, one_line  # noqa: E402

BATCHES = (4, 4, 7, 2, 1)
"""Those of a training, and a last one that is smaller."""
has_compiler = any(map(shutil.which, ("g++", "clang++", "c++")))
needs_compiler = pytest.mark.skipif(not has_compiler, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(model: Any, x: Any) -> list[Any]:
    """y, dx and the parameters' gradients."""
    x = x.clone().requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


def trains_and_answers(module: Any, compiled: Any, subject: Subject, batches: tuple[int, ...] = BATCHES) -> None:
    for batch in batches:
        x = subject.x(batch)
        for found, expected in zip(step(compiled, x), step(module, x), strict=True):
            torch.testing.assert_close(found, expected)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), module(x))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), module(x))


@each_subject
def test_compiled_whole(subject: Subject) -> None:
    """In one graph; all but its code is made as by the default backend."""
    module = subject.make(1)
    trains_and_answers(module, torch.compile(module, backend="aot_eager", fullgraph=True), subject)


@each_of_few
def test_compiled_for_any_batch(subject: Subject) -> None:
    module, graphs = subject.make(1), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=graphs, fullgraph=True, dynamic=True)
    for batch in (6, 7, 3):  # the first is unlike all other sizes, which would be taken to be the same one
        x = subject.x(batch)
        for found, expected in zip(step(compiled, x), step(module, x), strict=True):
            torch.testing.assert_close(found, expected)
    assert graphs.frame_count == 1, "one graph for all"


@each_of_few
def test_a_compiled_model_follows_its_parameters(subject: Subject) -> None:
    module, x = subject.make(1), subject.x()
    model = nn.Sequential(module, nn.ReLU())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (compiled(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        torch.testing.assert_close(compiled(x), model(x))
    assert losses == sorted(losses, reverse=True)
    model.load_state_dict(nn.Sequential(subject.make(2)).state_dict())
    torch.testing.assert_close(compiled(x), model(x))


@needs_compiler
def test_compiled_by_the_default_backend() -> None:
    subject = Subject(lambda seed: nn.Sequential(SparseLinear(8, 6, sparsity=0.5), nn.GELU()), (8,))
    module = subject.make(1)
    trains_and_answers(module, torch.compile(module), subject, (4,))


@pytest.mark.slow
@needs_compiler
@each_subject
def test_compiled_by_the_default_backend_for_many_batch_sizes(subject: Subject) -> None:
    module = subject.make(1)
    model = nn.Sequential(module, nn.GELU())
    trains_and_answers(model, torch.compile(model), subject)


# ---------------------------------------------------------------------------------------------------------- export


def exported(module: Any, subject: Subject) -> Any:
    batch = torch.export.Dim("batch", min=1, max=1024)
    return torch.export.export(module, (subject.x(),), dynamic_shapes=({0: batch},))


@each_subject
def test_an_exported_program_computes_the_same(subject: Subject) -> None:
    module = subject.make(1).eval()
    program = exported(module, subject)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for each in (program, torch.export.load(file)):
        for batch in (3, 5, 1):
            x = subject.x(batch)
            torch.testing.assert_close(each.module()(x), module(x))
    assert set(program.state_dict) >= set(dict(module.named_parameters()))


@pytest.mark.slow
@each_of_few
def test_an_exported_program_runs_in_another_process(subject: Subject, tmp_path: Path) -> None:
    module, x = subject.make(1).eval(), subject.x(5)
    torch.export.save(exported(module, subject), tmp_path / "program.pt2")
    torch.save((x, module(x)), tmp_path / "wanted.pt")
    code = (
        "import torch, sparsecore.interop.torch\n"
        "x, y = torch.load('wanted.pt')\n"
        "torch.testing.assert_close(torch.export.load('program.pt2').module()(x), y)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@each_of_ours
def test_fx_is_right_or_refused(subject: Subject) -> None:
    module, x = subject.make(1), subject.x(2)
    try:
        traced = fx.symbolic_trace(module)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        one_line(error)
        return
    for batch in (2, 5):
        x = subject.x(batch)
        torch.testing.assert_close(traced(x), module(x))


@each_of_ours
def test_tracing_is_right_or_refused(subject: Subject) -> None:
    """`torch.jit.trace`, which the older ONNX exporter works by: a trace that forgets x would be a constant."""
    module, x = subject.make(1).eval(), subject.x(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(module, x, check_trace=False)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            one_line(error)
            return
    x = subject.x(2)
    torch.testing.assert_close(traced(x), module(x))


# ------------------------------------------------------------------------------------------------------------ ONNX


def in_onnx(module: Any, subject: Subject, path: Path, dynamo: bool) -> Any:
    """The graph of a module that is exported for batches of any size."""
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    many: dict[str, Any] = {"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    if dynamo:
        many = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=1024)},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (subject.x(),), str(path), dynamo=dynamo, input_names=["x"], output_names=["y"], **many
        )
    return pytest.importorskip("onnx").load(str(path)).graph


def run_onnx(path: Path, x: Any) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


PRODUCTS = ("Gemm", "MatMul", "Conv", "ConvTranspose")


def is_true_in_onnx(subject: Subject, dynamo: bool, path: Path) -> None:
    """Its graph is of nodes that any runtime knows, products among them, and gives the same for other inputs."""
    module = subject.make(1).eval()
    nodes = in_onnx(module, subject, path, dynamo).node
    assert {node.domain for node in nodes} == {""}
    layers = sum(not list(each.children()) and bool(list(each.parameters())) for each in module.modules())
    assert sum(node.op_type in PRODUCTS for node in nodes) >= layers
    for batch in (3, 5, 1):
        x = subject.x(batch)
        torch.testing.assert_close(run_onnx(path, x), module(x), rtol=1e-4, atol=1e-5)


@each_subject
def test_onnx_by_the_older_exporter(subject: Subject, tmp_path: Path) -> None:
    is_true_in_onnx(subject, False, tmp_path / "model.onnx")


@each_of_few
def test_onnx_by_dynamo(subject: Subject, tmp_path: Path) -> None:
    is_true_in_onnx(subject, True, tmp_path / "model.onnx")


@pytest.mark.slow
@each_subject
def test_onnx_of_every_module_by_dynamo(subject: Subject, tmp_path: Path) -> None:
    is_true_in_onnx(subject, True, tmp_path / "model.onnx")


def test_onnx_of_a_model_whose_connections_are_about_to_move(tmp_path: Path) -> None:
    subject = Subject(lambda seed: nn.Sequential(SparseLinear(8, 6, sparsity=0.5)), (8,))
    model = subject.make(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    moving = rewire(model, optimizer, schedule=RewiringSchedule(every=2, end=8, fraction=0.3))
    for _ in range(3):
        model(subject.x()).sum().backward()
        optimizer.step()
        moving.step()
    assert model[0].caught is not None, "the next step is looked at"
    graph = in_onnx(model, subject, tmp_path / "model.onnx", False)
    assert any(node.op_type == "Gemm" for node in graph.node)
    x = subject.x()
    torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", x), model(x))
