"""Deployment: a network as an ONNX file, run by onnxruntime."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from sparsecore.models.lenet300 import lenet300

from sparsecore.interop.export import to_onnx
from sparsecore.topology.radix import fit_radix_net


def main() -> None:
    network = lenet300(fit_radix_net([[10, 10]], (784, 300, 100)).patterns)
    x = np.random.default_rng(0).standard_normal((32, 784), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lenet300.onnx"
        to_onnx(network, path, sparse=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        logits = np.asarray(session.run(None, {"x": x})[0])
        print(f"{path.stat().st_size:,} bytes; largest difference {abs(logits - network.logits(x)).max():.1e}")
    np.testing.assert_allclose(logits, network.logits(x), rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
