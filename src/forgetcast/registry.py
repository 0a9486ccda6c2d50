"""Looks up factors and unlearners by entry point; built-ins come in by the same door as plugins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from forgetcast.errors import PluginError, UnknownNameError, first_line

__all__ = ["FACTOR_GROUP", "UNLEARNER_GROUP", "load_factors", "load_unlearners", "unlearner"]

FACTOR_GROUP = "forgetcast.factors"
UNLEARNER_GROUP = "forgetcast.unlearners"


def _unique(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Entry points sorted by name; the same name from two different objects is an error."""
    seen: dict[str, EntryPoint] = {}
    for point in points:
        other = seen.setdefault(point.name, point)
        if other.value != point.value:
            raise PluginError(
                f"two plugins register {point.name!r} in {point.group!r}: {other.value} and {point.value}; "
                "rename one or uninstall its package"
            )
    return [seen[name] for name in sorted(seen)]


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise PluginError(
            f"plugin {point.name!r} ({point.value}) failed to load: {type(error).__name__}: {first_line(error)}; "
            "mend or uninstall its package"
        ) from error


@lru_cache(maxsize=1)
def load_factors() -> dict[str, Any]:
    """Every registered factor by name, sorted. An entry point names a Factor or an iterable of them.

    Raises:
        PluginError: an entry point does not load, or two factors share a name.
    """
    from forgetcast.factors import Factor

    found: dict[str, Any] = {}
    origin: dict[str, EntryPoint] = {}
    for point in _unique(entry_points(group=FACTOR_GROUP)):
        loaded = _load(point)
        several = isinstance(loaded, Iterable) and not isinstance(loaded, Factor)
        for item in loaded if several else [loaded]:
            if not isinstance(item, Factor):
                raise PluginError(
                    f"entry point {point.name!r} ({point.value}): expected a function decorated with @factor, "
                    f"or an iterable of them; got {type(item).__name__}"
                )
            if item.name in found:
                raise PluginError(
                    f"two factors are named {item.name!r}: one of entry point {origin[item.name].name!r} "
                    f"({origin[item.name].value}) and one of {point.name!r} ({point.value}); rename one or uninstall "
                    "its package"
                )
            found[item.name], origin[item.name] = item, point
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def load_unlearners() -> dict[str, Any]:
    """Every registered unlearner class by its entry-point name, sorted.

    Raises:
        PluginError: an entry point does not load or names no class, or two share a name.
    """
    found: dict[str, Any] = {}
    for point in _unique(entry_points(group=UNLEARNER_GROUP)):
        loaded = _load(point)
        if not isinstance(loaded, type):
            raise PluginError(
                f"entry point {point.name!r} ({point.value}): expected a class derived from "
                f"forgetcast.unlearn.base.Unlearner; got {type(loaded).__name__}"
            )
        found[point.name] = loaded
    return found


def unlearner(name: str, **settings: Any) -> Any:
    """Make the unlearner registered under ``name``.

    Raises:
        UnknownNameError: nothing is registered under ``name``, or it has no such setting.
    """
    classes = load_unlearners()
    if name not in classes:
        raise UnknownNameError.of("unlearner", name, classes)
    kind = classes[name]
    known = [field.name for field in fields(kind) if field.init] if is_dataclass(kind) else list(settings)
    for setting in settings:
        if setting not in known:
            raise UnknownNameError.of(f"setting of {name}", setting, known)
    return kind(**settings)
