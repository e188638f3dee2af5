"""Benchmarks: `python -m bench`, or `pytest --benchmark`."""
