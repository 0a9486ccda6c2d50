"""Looks up factors, unlearners and report sections by entry point; built-ins come in by the same door as plugins.

A plugin that cannot be used is named once on stderr, listed by :func:`plugins` and left out; all others go on. A
built-in that cannot be used is an error.

The contract with plugins, which CONTRIBUTING.md holds, has a version. A plugin may declare the one it was written for,
in its package or in the module that an entry point names, with one line::

    FORGETCAST_CONTRACT = "1.0"
"""

from __future__ import annotations

import re
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from forgetcast._arguments import checked
from forgetcast.errors import ForgetcastError, PluginError, PluginWarning, UnknownNameError, first_line

__all__ = [
    "CONTRACT_VERSION",
    "DECLARATION",
    "FACTOR_GROUP",
    "GROUPS",
    "SECTION_GROUP",
    "UNLEARNER_GROUP",
    "Plugin",
    "check_contract",
    "declared_contracts",
    "found",
    "load_factors",
    "load_report_sections",
    "load_unlearners",
    "newer_minor",
    "not_found",
    "plugins",
    "raised",
    "third_party",
    "unlearner",
]

FACTOR_GROUP = "forgetcast.factors"
UNLEARNER_GROUP = "forgetcast.unlearners"
SECTION_GROUP = "forgetcast.report_sections"
GROUPS = {FACTOR_GROUP: "factor", UNLEARNER_GROUP: "unlearner", SECTION_GROUP: "report section"}
"""What is looked up, with the word for one."""

OWN = "forgetcast"

CONTRACT_VERSION = "1.0"
"""Major and minor number: a new major one asks plugins to change, a new minor one only offers more."""
DECLARATION = "FORGETCAST_CONTRACT"
"""Name that a plugin's package or module declares its contract under."""


@runtime_checkable
class _Factor(Protocol):
    """What an entry point for factors names: what ``forgetcast.factors.factor`` makes."""

    name: str
    probes: tuple[str, ...]

    def compute(self, probes: Any) -> Any:
        """The factor's value for every sample."""


@dataclass(frozen=True)
class Plugin:
    """One entry point: what it gives, where it comes from, and whether it can be used."""

    group: str
    """One of ``GROUPS``."""
    name: str
    """Name of the entry point."""
    value: str
    """Where the object is: ``module:object``."""
    package: str
    """Name of the distribution that registers it; empty where that is not known."""
    version: str
    """Its version."""
    built_in: bool
    """Whether it is part of forgetcast."""
    contract: str | None = None
    """The plugin contract that it was written for; None where it declares none."""
    provides: tuple[str, ...] = ()
    """Names of what it gives: one unlearner or section, or any number of factors."""
    reason: str = ""
    """Why it is left out; empty where it is in use."""

    @property
    def kind(self) -> str:
        """ "factor", "unlearner" or "report section"."""
        return GROUPS[self.group]

    def __str__(self) -> str:
        package = f" of package {self.package} {self.version}".rstrip() if self.package else ""
        return f"{self.kind} plugin {self.name!r} ({self.value}){package}"

    def refused(self) -> PluginError:
        """The error for whoever asks for it although it is left out."""
        return PluginError(f"{self} cannot be used: {self.reason}; fix, upgrade or uninstall its package")


@dataclass(frozen=True)
class Found:
    """Everything that is registered in a group."""

    plugins: tuple[Plugin, ...]
    """By name, those that are left out too."""
    objects: dict[str, Any]
    """What is in use, by its name, sorted."""
    origin: dict[str, Plugin]
    """Where each of ``objects`` comes from."""


@cache
def found(group: str) -> Found:
    """Look a group up once; a plugin that is left out is warned of, once per process.

    Raises:
        PluginError: a built-in does not load, or two share a name.
    """
    loaded = [_loaded(point) for point in _distinct(group)]
    loaded = [_without_contested(plugin, objects, loaded) for plugin, objects in loaded]
    for plugin, _ in loaded:
        if plugin.reason and plugin.built_in:
            raise PluginError(f"{plugin}: {plugin.reason}; fix or reinstall forgetcast")
        if plugin.reason:
            _say_once(f"{plugin} is left out: {plugin.reason}; 'forgetcast plugins' lists all")
    pairs = [(name, item, plugin) for plugin, objects in loaded if not plugin.reason for name, item in objects]
    pairs.sort(key=lambda pair: pair[0])
    return Found(
        tuple(plugin for plugin, _ in loaded),
        {name: item for name, item, _ in pairs},
        {name: plugin for name, _, plugin in pairs},
    )


def plugins() -> tuple[Plugin, ...]:
    """Every registered entry point, by group and name, those that are left out too.

    Raises:
        PluginError: a built-in does not load, or two share a name.
    """
    return tuple(plugin for group in GROUPS for plugin in found(group).plugins)


def load_factors() -> dict[str, Any]:
    """Every registered factor by name, sorted. An entry point names a Factor or an iterable of them.

    Raises:
        PluginError: a built-in does not load, or two share a name.
    """
    return found(FACTOR_GROUP).objects


def load_unlearners() -> dict[str, Any]:
    """Every registered unlearner class by its entry-point name, sorted.

    Raises:
        PluginError: a built-in does not load, or two share a name.
    """
    return found(UNLEARNER_GROUP).objects


def load_report_sections() -> dict[str, Any]:
    """Every registered report section, a function of a report, by its entry-point name, sorted."""
    return found(SECTION_GROUP).objects


@checked()
def unlearner(name: str, **settings: Any) -> Any:
    """Make an unlearner.

    Args:
        name: what it is registered under.
        settings: its fields, such as ``steps=40``; the others have their defaults.

    Raises:
        UnknownNameError: nothing is registered under ``name``, or it has no such setting.
        PluginError: it is a plugin that cannot be used, or cannot be made.
    """
    classes = load_unlearners()
    if name not in classes:
        raise not_found(UNLEARNER_GROUP, name)
    kind = classes[name]
    known = [field.name for field in fields(kind) if field.init] if is_dataclass(kind) else list(settings)
    for setting in settings:
        if setting not in known:
            raise UnknownNameError.of(f"setting of {name}", setting, known)
    try:
        return kind(**settings)
    except Exception as error:
        plugin = third_party(UNLEARNER_GROUP, name)
        if plugin is None or isinstance(error, ForgetcastError):
            raise
        raise PluginError(f"{plugin} cannot be made: {raised(error)}; fix its package") from error


def not_found(group: str, name: str) -> ForgetcastError:
    """The error for a name that is not in use: why its plugin is left out, or else which names there are."""
    there = found(group)
    broken = [plugin for plugin in there.plugins if plugin.reason]
    for plugin in broken:
        if name == plugin.name or name in plugin.provides:
            return plugin.refused()
    known = UnknownNameError.of(GROUPS[group], name, there.objects)
    left_out = f"; left out: {', '.join(str(plugin) for plugin in broken)} (see forgetcast plugins)" if broken else ""
    return UnknownNameError(f"{known}{left_out}")


def third_party(group: str, name: str) -> Plugin | None:
    """Where the object called ``name`` comes from; None where it is built in or not registered."""
    plugin = found(group).origin.get(name)
    return None if plugin is None or plugin.built_in else plugin


def raised(error: BaseException) -> str:
    """What a plugin raised and where, for its author: type, first line of the message, file and line.

    >>> try:
    ...     int("seven")
    ... except ValueError as error:
    ...     print(raised(error))
    ValueError: invalid literal for int() with base 10: 'seven' (... line 2)
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


# -- one entry point ---------------------------------------------------------------------------------------

_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(text, PluginWarning, stacklevel=4)


def _distinct(group: str) -> list[EntryPoint]:
    """Entry points by name and value; a package found by two paths registers the same twice."""
    points = {(point.name, point.value): point for point in entry_points(group=group)}
    return [points[key] for key in sorted(points)]


def _loaded(point: EntryPoint) -> tuple[Plugin, list[tuple[str, Any]]]:
    """The plugin, and its objects with their names; none where it cannot be used."""
    package, version = _distribution(point)
    built_in = (package or point.value.partition(".")[0]) == OWN
    plugin = Plugin(point.group, point.name, point.value, package, version, built_in)
    contract = CONTRACT_VERSION if built_in else None
    try:
        for declared in () if built_in else declared_contracts(point.value.partition(":")[0].strip()):
            contract = declared
        objects = list(_named(point, point.load()))
    except PluginError as error:
        return replace(plugin, contract=contract, reason=str(error)), []
    except (Exception, SystemExit) as error:
        reason = f"failed to load: {raised(error)}"
        if newer_minor(contract):
            reason += (
                f"; it was written for plugin contract {contract}, newer than {CONTRACT_VERSION}: upgrade forgetcast"
            )
        return replace(plugin, contract=contract, reason=reason), []
    return replace(plugin, contract=contract, provides=tuple(name for name, _ in objects)), objects


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package that registers an entry point; empty where that is not known."""
    dist = getattr(point, "dist", None)
    if dist is None:
        return "", ""
    try:
        return re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower(), dist.version
    except Exception:  # damaged metadata say nothing about the plugin itself
        return "", ""


def _named(point: EntryPoint, loaded: Any) -> Iterator[tuple[str, Any]]:
    """What an entry point gives, by name.

    Raises:
        PluginError: it is not what its group is for.
    """
    if point.group == FACTOR_GROUP:
        several = isinstance(loaded, Iterable) and not isinstance(loaded, _Factor)
        for item in loaded if several else [loaded]:
            if not isinstance(item, _Factor):
                raise PluginError(
                    f"expected a function decorated with @factor, or an iterable of them; got {type(item).__name__}"
                )
            yield item.name, item
        return
    if point.group == UNLEARNER_GROUP:
        if not isinstance(loaded, type):
            raise PluginError(
                f"expected a class derived from forgetcast.unlearn.base.Unlearner; got {type(loaded).__name__}"
            )
        name = getattr(loaded, "name", point.name)
        if name != point.name:  # outcomes are stored under the class's own name
            raise PluginError(f"its class calls itself {name!r}: register it under that name")
    elif not callable(loaded) or isinstance(loaded, type):
        raise PluginError(f"expected a function that takes a DifficultyReport; got {type(loaded).__name__}")
    yield point.name, loaded


def _without_contested(
    plugin: Plugin, objects: list[tuple[str, Any]], everything: list[tuple[Plugin, list[tuple[str, Any]]]]
) -> tuple[Plugin, list[tuple[str, Any]]]:
    """Leave a plugin out that gives a name which something else gives too; a built-in keeps its name.

    Of two plugins both are left out, for which one was meant is not known and must not depend on their order.
    """
    owners: dict[str, list[Plugin]] = defaultdict(list)
    for other, given in everything:
        for name, _ in given:
            owners[name].append(other)
    for name, _ in objects:
        if len(owners[name]) == 1 or (plugin.built_in and sum(other.built_in for other in owners[name]) == 1):
            continue
        rivals = [other for other in owners[name] if other is not plugin] or [plugin]
        reason = (
            f"two register the {plugin.kind} {name!r}, the other is {rivals[0]}: rename one or uninstall its package"
        )
        return replace(plugin, reason=reason), []
    return plugin, objects


# -- the contract ------------------------------------------------------------------------------------------


def declared_contracts(module: str) -> Iterator[str]:
    """The contracts that a module was written for: those of the packages around it, then its own, which counts.

    Packages are imported from the outside inwards and refused at once. So one written for another contract says so
    before its modules fail over what they do not find.

    Raises:
        PluginError: one is another major version, or no version at all.
    """
    for name in accumulate(module.split("."), "{}.{}".format):
        declared = getattr(import_module(name), DECLARATION, None)
        if declared is not None:
            check_contract(declared)
            yield declared


def check_contract(declared: Any) -> None:
    """Refuse a plugin of another contract.

    Raises:
        PluginError: another major version, or no version at all.

    >>> check_contract("1.7")
    >>> check_contract("2.0")
    Traceback (most recent call last):
    forgetcast.errors.PluginError: written for plugin contract 2.0, and this forgetcast offers 1.0: upgrade forgetcast
    """
    if not isinstance(declared, str) or not re.fullmatch(r"\d+\.\d+", declared):
        raise PluginError(f'{DECLARATION}: expected a version such as "{CONTRACT_VERSION}"; got {declared!r}')
    theirs, ours = _numbers(declared)[0], _numbers(CONTRACT_VERSION)[0]
    if theirs != ours:
        fix = "upgrade forgetcast" if theirs > ours else "upgrade the plugin"
        raise PluginError(
            f"written for plugin contract {declared}, and this forgetcast offers {CONTRACT_VERSION}: {fix}"
        )


def newer_minor(declared: str | None) -> bool:
    """Whether a plugin that may be used was written for more than is offered here.

    >>> newer_minor("1.1"), newer_minor("1.0"), newer_minor(None)
    (True, False, False)
    """
    return declared is not None and _numbers(declared) > _numbers(CONTRACT_VERSION)


def _numbers(contract: str) -> tuple[int, ...]:
    return tuple(int(part) for part in contract.split("."))
