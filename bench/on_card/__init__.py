"""A quarter of an hour on a real card, prepared: `bench/on_card.sh OUT` does all of it, part by part.

Each part is a program of its own (`python -m bench.on_card.about OUT`), so that none can take another one down:

==========  ==================================================================================
about       what is there: card, driver, libraries; and everything compiled once
tests       `pytest -m gpu`, the most important first, failures with their inputs
times       steps and kernels beside cuBLAS, cuSPARSE and PyTorch, and what bounds them
train       the main job, its accuracy and seconds
tools       NVIDIA's profiler and its sanitizer over the six kernels of a step
==========  ==================================================================================

`parts` runs them within eight minutes, whatever happens; `floors` says beforehand what each row should take.
"""
