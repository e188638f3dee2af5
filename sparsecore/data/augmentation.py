"""Augmentation of images: what is done to a training sample, anew in every epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Images are moved by up to so many pixels each way, zeros coming in at the edges, and half of them are mirrored.

    Moving a picture is cropping it at random out of a wider border of zeros. What happens to a sample depends on the
    seed, the epoch and the sample only.

    Parameters
    ----------
    shape : (channels, height, width)
    most : int
        Pixels, at least 0 and less than the image has.
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
