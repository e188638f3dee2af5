"""CUDA without a card: through NVIDIA's compiler, and on an emulated device. With a card, `pytest -m gpu`."""
