"""Augmentation: small random changes to training images, other ones in every epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Move images by a few pixels, filling the edges with zeros, and mirror half of them.

    This is the same as padding an image with zeros and cropping it at random. What happens to a sample depends on the
    seed, the epoch and the sample alone.

    Parameters
    ----------
    shape : (channels, height, width)
    most : int
        Pixels by which an image may move in each direction; at least 0, and less than its height and width.
    flip : bool
        Mirror left and right.

    Raises
    ------
    ValueError
    """

    shape: tuple[int, ...]
    most: int
    flip: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 3:
            raise ValueError(f"augmentation is for images, (channels, height, width), got samples of {self.shape}")
        if not 0 <= self.most < min(min(self.shape[1:]), 1 << 12):
            raise ValueError(f"augmentation moves images of {self.shape[1]}×{self.shape[2]} by fewer pixels than they "
                             f"have, got {self.most}")  # fmt: skip
