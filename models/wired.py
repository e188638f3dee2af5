"""What the models share: all patterns from those that are given, and sizes times a width."""

from __future__ import annotations

from collections.abc import Sequence

from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology.wiring import Link, full


def all_patterns(
    model: str, links: Sequence[Link], wiring: Sequence[SparsityPattern] | None, every: bool
) -> list[SparsityPattern]:
    """A pattern for each layer of a model: those that are wired, and all connections of its first and its last.

    Parameters
    ----------
    model : str
        For messages.
    links : sequence of Link
        Every layer, from the inputs to the head.
    wiring : sequence of SparsityPattern, optional
        Of all layers but the first and the last, or of `every` one; all connections if not given.

    Raises
    ------
    ValueError
        If there are more or fewer, or one has another shape than its layer.
    """
    wired = links if every else links[1:-1]
    patterns = [full(link) for link in wired] if wiring is None else list(wiring)
    if len(patterns) != len(wired):
        raise ValueError(f"{model}: wiring must have {len(wired)} patterns, got {len(patterns)}")
    for number, (link, pattern) in enumerate(zip(wired, patterns, strict=True)):
        shape = link.outputs, link.inputs * link.kernel_size[0] * link.kernel_size[1]
        if pattern.shape != shape:
            raise ValueError(f"{model}: pattern {number} must have shape {shape} for {link}, got {pattern.shape}")
    return patterns if every else [full(links[0]), *patterns, full(links[-1])]


def widened(model: str, channels: Sequence[int], width: float) -> list[int]:
    """These channels times a width. Raises ValueError if they are then no whole numbers above 0."""
    found = [round(each * width) for each in channels]
    for each, wide in zip(channels, found, strict=True):
        if wide < 1 or abs(each * width - wide) > 1e-9 * wide:
            raise ValueError(f"width: must make whole numbers of {model}'s {each} channels, got {each} × {width:g}")
    return found


def check_image(model: str, in_shape: Sequence[int], least: int) -> None:
    """Refuse samples that are no images, or too small. Raises ValueError."""
    if len(in_shape) != 3 or min(in_shape[1:]) < least:
        pixels = f" of at least {least}×{least} pixels" if least > 1 else ""
        raise ValueError(f"{model} takes images, (channels, height, width),{pixels}, got {tuple(in_shape)}")


def check_own_sizes(model: str, hidden: Sequence[int]) -> None:
    """Refuse sizes of hidden layers for a model whose paper says them. Raises ValueError."""
    if hidden:
        raise ValueError(f"hidden: not for {model}, whose sizes are its paper's; a width multiplies them")
