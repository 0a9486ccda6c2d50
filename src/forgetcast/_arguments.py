"""Arguments of public functions, held to their annotations before any work.

What is public is annotated, so one check serves all: a wrong type is one line that names the argument, what was
expected and what came. What a value means (a range, a name, a shape) the functions check themselves.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from numbers import Real
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union

import numpy as np

from forgetcast.errors import InputError

__all__ = ["checked"]

P = ParamSpec("P")
R = TypeVar("R")

PLAIN = {
    bool: ("True or False", (bool, np.bool_, int)),
    int: ("a whole number", (int, np.integer)),
    float: ("a number", (Real, np.number)),
    str: ("text", (str,)),
    type(None): ("None", (type(None),)),
    Path: ("a path", (os.PathLike,)),
}
"""How values of plain types are called, and what is taken for them."""


def checked(*but: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: refuse arguments that are of none of the types that the annotations name.

    Args:
        but: arguments that the function checks itself, with a better message.

    >>> @checked()
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double("2")
    Traceback (most recent call last):
    forgetcast.errors.InputError: double: number: expected a whole number; got str '2'
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        called = function.__qualname__.removesuffix(".__init__").rsplit(".", 1)[-1]

        @wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            try:
                bound = signature.bind(*arguments, **named)
            except TypeError:  # one is missing or unknown: Python says so itself
                return function(*arguments, **named)
            for name, value in bound.arguments.items():
                hint = _hints(function).get(name, Any)  # self and cls have none
                if name not in but and not _fits(value, hint):
                    raise InputError(f"{called}: {name}: expected {_type_name(hint)}; got {_shown(value)}")
            return function(*arguments, **named)

        return call

    return decorate


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """What the annotations of the arguments stand for; asked for at the first call, when all modules are there."""
    of_arguments = {name: text for name, text in function.__annotations__.items() if name != "return"}
    holder = type(function.__name__, (), {"__annotations__": of_arguments})
    return inspect.get_annotations(holder, globals=function.__globals__, locals={}, eval_str=True)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return type(value) in {type(option) for option in parts}
    if origin is Sequence or hint is Sequence:
        within = isinstance(value, list | tuple) or parts[0] is not int  # of numbers arrays and tensors do as well
        return _is_list(value) and (not within or all(_fits(one, parts[0]) for one in value))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(one, parts[1]) for one in value.values())
    if origin is Callable:
        return callable(value)
    if isinstance(origin, type):
        return isinstance(value, origin)
    if isinstance(hint, typing.ForwardRef):
        return any(kind.__name__ == hint.__forward_arg__ for kind in type(value).__mro__)
    if hint is None or hint in PLAIN:
        whole = hint is not bool and isinstance(value, bool | np.bool_)
        return isinstance(value, PLAIN[hint or type(None)][1]) and not whole
    return isinstance(value, hint) if isinstance(hint, type) else True


def _is_list(value: Any) -> bool:
    """Whether a value has an order, a length and items, and is no table, text or model."""
    from pandas import DataFrame
    from torch.nn import Module

    if isinstance(value, str | bytes | Mapping | DataFrame | Module) or getattr(value, "shape", None) == ():
        return False
    return all(hasattr(value, name) for name in ("__len__", "__iter__", "__getitem__"))


def _type_name(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is Sequence:
        return f"a list of {_type_name(parts[0])}"
    if origin in (Mapping, dict):
        return "a dict"
    if origin is Callable:
        return "a function"
    if isinstance(hint, typing.ForwardRef):
        return hint.__forward_arg__
    if hint is None or hint in PLAIN:
        return PLAIN[hint or type(None)][0]
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _shown(value: Any) -> str:
    """The type, and the value where that is short."""
    name = type(value).__name__
    plain = isinstance(value, str | int | float | os.PathLike)
    return f"{name} {str(value)[:60]!r}" if plain else name
