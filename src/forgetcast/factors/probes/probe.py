"""The property that probes are: computed when first read, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, overload

from forgetcast.errors import NotApplicableError
from forgetcast.target.settings import own_settings

__all__ = ["probe"]

T = TypeVar("T")


class Keeper(Protocol):
    """An object with probes."""

    _kept: dict[str, Any]


class probe(Generic[T]):  # noqa: N801 - used as a decorator, like property
    """A property that is computed once; a NotApplicableError is kept and raised again likewise."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> probe[T]: ...
    @overload
    def __get__(self, instance: Keeper, owner: Any = None) -> T: ...
    def __get__(self, instance: Keeper | None, owner: Any = None) -> T | probe[T]:
        if instance is None:
            return self
        kept = instance._kept
        if self.name not in kept:
            try:
                with own_settings():
                    kept[self.name] = self.function(instance)
            except NotApplicableError as error:
                kept[self.name] = error
        value = kept[self.name]
        if isinstance(value, NotApplicableError):
            raise NotApplicableError(str(value))
        return value
