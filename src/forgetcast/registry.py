"""Looks up factors and unlearners by entry point; built-ins come in by the same door as plugins."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from forgetcast.errors import PluginError, UnknownNameError

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
            f"plugin {point.name!r} ({point.value}) failed to load: {type(error).__name__}: {error}; "
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
    for point in _unique(entry_points(group=FACTOR_GROUP)):
        loaded = _load(point)
        for item in [loaded] if isinstance(loaded, Factor) else loaded:
            if not isinstance(item, Factor):
                raise PluginError(
                    f"entry point {point.name!r} ({point.value}): expected a function decorated with @factor, "
                    f"or an iterable of them; got {type(item).__name__}"
                )
            if item.name in found:
                raise PluginError(f"two factors are named {item.name!r}; a factor's name must be unique")
            found[item.name] = item
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def load_unlearners() -> dict[str, Any]:
    """Every registered unlearner class by its entry-point name, sorted.

    Raises:
        PluginError: an entry point does not load, or two share a name.
    """
    return {point.name: _load(point) for point in _unique(entry_points(group=UNLEARNER_GROUP))}


def unlearner(name: str, **settings: Any) -> Any:
    """Make the unlearner registered under ``name``.

    Raises:
        UnknownNameError: nothing is registered under ``name``.
    """
    classes = load_unlearners()
    if name not in classes:
        raise UnknownNameError.of("unlearner", name, classes)
    return classes[name](**settings)
