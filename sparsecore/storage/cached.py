"""Attributes that are made when first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Made = TypeVar("Made")


class cached(Generic[Made]):
    """`functools.cached_property` as Python 3.12 has it, without a lock.

    In 3.11 one lock serves an attribute of all instances: a child that is forked while another thread holds it would
    wait for ever. Two threads that read at the same time may both make the value; either will do.
    """

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached[Made]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Made: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        found = vars(instance)[self.name] = self.make(instance)
        return found
