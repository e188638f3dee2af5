"""What a sparse layer costs: bytes for its connections, and none for the connections it does not have."""

import gc
import json
import subprocess
import sys
import weakref

import numpy as np
import pytest

from sparsecore import RunConfig, run
from sparsecore.layers.linear import SparseLinear
from sparsecore.network import Network
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random
from sparsecore.topology.radix import radix_layer
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

from .small import FORMATS, network, store

PER_CONNECTION = 40


def memory_of(*things):
    """Bytes of all arrays that can be reached from these, each block of memory counted once and whole."""
    blocks, seen, waiting = {}, set(), list(things)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            while isinstance(thing.base, np.ndarray):
                thing = thing.base
            blocks[id(thing)] = thing.nbytes
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple)):
            waiting += thing
        elif type(thing).__module__.startswith("sparsecore.") and hasattr(thing, "__dict__"):
            waiting += vars(thing).values()
    return sum(blocks.values())


def trained(pattern, format, batch=16):
    """Bytes of all that a layer of this pattern makes a program keep, but activations, after a step that trained it.

    Another layer stands in front, so that dx is computed; what is its own is not counted.
    """
    out_features, in_features = pattern.shape
    front = SparseLinear(SparsityPattern.full((in_features, 1)), rng=np.random.default_rng(0))
    layer = SparseLinear(pattern, rng=np.random.default_rng(1), format=format)
    net, optimizer = Network([front, layer]), SGD(0.1, 0.9)
    step = Step(net, store(batch, features=1, classes=min(out_features, 2)), optimizer)
    step.run(0, batch)
    assert np.mean(step.grads[-layer.weight.size - out_features :] != 0) > 0.9
    (workspace,) = step._workspaces.values()
    scratch = [array for array in workspace.child(1)._arrays.values() if array.ndim == 1]
    return memory_of(layer, optimizer, step.grads, scratch) - 3 * (front.weight.nbytes + front.bias.nbytes)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "pattern",
    [
        uniform_random(20_000, 20_000, 0.9995, np.random.default_rng(0)),  # 10 an output, as in the largest layer below
        uniform_random(300, 784, 0.9, np.random.default_rng(0)),
        uniform_random(40_000, 5_000, 0.998, np.random.default_rng(0)),
        radix_layer(10, 1, 100, 8, 30),
        dense(1000, 1000),
        dense(10, 100_000),
        dense(100_000, 10),
    ],
    ids=repr,
)
def test_bytes_of_a_connection(pattern, format):
    assert trained(pattern, format) / pattern.nnz <= PER_CONNECTION


def test_the_count_counts():
    """Seven times four: values, gradients, momentum, columns, and the transpose's columns, origins and values."""
    pattern = uniform_random(300, 784, 0.5, np.random.default_rng(0))
    assert 28 < trained(pattern, "csr") / pattern.nnz < PER_CONNECTION
    whole = np.zeros(100, np.float32)
    assert memory_of(whole[:50], {"a": [whole[50:]]}) == 400


def test_a_larger_outside_costs_no_connection_more():
    """The same connections in a layer with a hundred times the inputs, of which it reads the same."""
    pattern = uniform_random(1000, 1000, 0.98, np.random.default_rng(0))
    wide = SparsityPattern((1000, 100_000), pattern.indptr, pattern.indices * 100)
    per_input = (trained(wide, "csr") - trained(pattern, "csr")) / (100_000 - 1000)
    assert per_input <= 32


def test_a_step_keeps_few_batch_sizes_and_the_same_bits():
    one, other = network(), network()
    batches = store(200)
    optimizer, apart = SGD(0.05, 0.9), SGD(0.05, 0.9)
    step, held = Step(one, batches, optimizer), []
    for batch in (*range(100, 140), 3, 139, 100, 7):
        step.run(0, batch)
        assert step.output(batch, 0) is not None
        held.append(memory_of(step))
        Step(other, batches, apart).run(0, batch)
        assert np.array_equal(one.params, other.params) and np.array_equal(optimizer.velocity, apart.velocity)
    assert max(held) < 1.4 * held[9]  # the largest batch has 9 tiles, the first ten have 7


MILLION = """
import json, resource
import numpy as np
from sparsecore.topology import uniform_random
from tests.test_memory import trained

pattern = uniform_random(1_000_000, 1_000_000, 1 - 1e-5, np.random.default_rng(0))
size = trained(pattern, FORMAT, batch=32)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"connections": pattern.nnz, "bytes": size, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_million_by_a_million(format):
    """10 million connections train at batch 32, dx included, in under 2 GB."""
    script = MILLION.replace("FORMAT", repr(format))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    print(report)
    assert report["connections"] == 10_000_000
    assert report["bytes"] / report["connections"] <= PER_CONNECTION
    assert report["peak"] < 2e9


def test_a_run_that_nobody_holds_is_gone_at_once(tmp_path):
    """Its arrays are too large to wait until Python looks for circles: ten runs in a process took ten times as much."""
    gc.collect()
    gc.disable()
    try:
        done = run(RunConfig(model="lenet300", dataset="mnist-subset", epochs=1, batch_size=2000), out=tmp_path / "a")
        gone = weakref.ref(done.network)
        del done
        assert gone() is None
    finally:
        gc.enable()
