"""What can be made again, of which a few are kept: programs and buffers by batch size, plans by image size."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")


class Few(dict[Key, Made]):
    """A dict of at most so many: whoever adds one more loses the one that was added first.

    Threads may share it.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: Key, made: Made) -> None:
        super().__setitem__(key, made)
        for old in list(self)[: -self.most]:
            self.pop(old, None)
