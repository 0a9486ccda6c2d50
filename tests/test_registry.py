"""Look-up by entry point: built-ins and plugins by the same door; a plugin that does not work is named."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import Any

import pytest

from forgetcast import registry
from forgetcast.errors import PluginError, UnknownNameError
from forgetcast.factors import Factor
from forgetcast.registry import FACTOR_GROUP, UNLEARNER_GROUP, load_factors, load_unlearners, unlearner

PLUGIN = '''
from dataclasses import dataclass
from forgetcast.factors import factor

def made(name):
    def function(margin):
        return margin
    function.__name__ = name
    function.__doc__ = "Title."
    return factor(family="mine", source="ours", high="high", low="low")(function)

zeta, alpha = made("zeta"), made("alpha")
several = [zeta, alpha]
again = (made("alpha"),)

def undecorated(margin):
    """No factor yet."""

number = 7
mixed = [alpha, undecorated]

@dataclass(frozen=True)
class Mild:
    rate: float = 0.1
    steps: int = 3

def not_a_class():
    pass
'''


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What is loaded is kept for the process; tests start and leave without it."""
    for function in (load_factors, load_unlearners):
        function.cache_clear()
    yield
    for function in (load_factors, load_unlearners):
        function.cache_clear()


class Plugins:
    """Entry points as if packages had registered them."""

    def __init__(self) -> None:
        self.points: list[EntryPoint] = []

    def add(self, group: str, **values: str) -> None:
        """Register ``name="module:object"`` in a group."""
        self.points += [EntryPoint(name, value, group) for name, value in values.items()]

    def __call__(self, *, group: str) -> list[EntryPoint]:
        return [point for point in self.points if point.group == group]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """No plugin but those a test adds; the module ``plug`` holds objects for them."""
    (tmp_path / "plug.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("raise OSError('no disk\\nat all')")
    monkeypatch.syspath_prepend(tmp_path)
    found = Plugins()
    monkeypatch.setattr(registry, "entry_points", found)
    return found


# -- what is there -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "load"), [(FACTOR_GROUP, load_factors), (UNLEARNER_GROUP, load_unlearners)])
def test_built_ins_come_by_entry_point(group: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this project registers is found, and without entry points there is nothing."""
    found = load()
    assert found
    for point in distribution("forgetcast").entry_points.select(group=group):
        loaded = point.load()
        if group == UNLEARNER_GROUP:
            assert found[point.name] is loaded
        else:
            assert {item.name for item in loaded} <= set(found)
    load.cache_clear()
    monkeypatch.setattr(registry, "entry_points", Plugins())
    assert load() == {}


def test_built_ins_are_sorted_and_go_by_their_own_names() -> None:
    """The key of every factor and unlearner is the name it gives itself."""
    assert list(load_factors()) == sorted(load_factors())
    assert list(load_unlearners()) == sorted(load_unlearners())
    assert all(isinstance(item, Factor) and item.name == name for name, item in load_factors().items())
    assert all(kind.name == name for name, kind in load_unlearners().items())
    assert all(unlearner(name).name == name for name in load_unlearners())


def test_a_plugin_gives_one_factor_or_several(plugins: Plugins) -> None:
    """An entry point names a factor or an iterable of them; all are sorted by the factor's own name."""
    plugins.add(FACTOR_GROUP, several="plug:several")
    assert list(load_factors()) == ["alpha", "zeta"]
    load_factors.cache_clear()
    plugins.points.clear()
    plugins.add(FACTOR_GROUP, anything="plug:zeta")
    assert list(load_factors()) == ["zeta"]


def test_the_order_of_installation_does_not_matter(plugins: Plugins) -> None:
    """Entry points come in any order; what is loaded is sorted."""
    plugins.add(UNLEARNER_GROUP, b="plug:Mild", a="plug:Mild")
    assert list(load_unlearners()) == ["a", "b"]


def test_loading_happens_once(plugins: Plugins) -> None:
    """Plugins are imported at the first look-up only."""
    plugins.add(UNLEARNER_GROUP, mild="plug:Mild")
    first = load_unlearners()
    plugins.points.clear()
    assert load_unlearners() is first


def test_an_unlearner_is_made_with_its_settings(plugins: Plugins) -> None:
    """Defaults where nothing is said; the repr carries all of them."""
    plugins.add(UNLEARNER_GROUP, mild="plug:Mild")
    assert repr(unlearner("mild")) == "Mild(rate=0.1, steps=3)"
    assert repr(unlearner("mild", rate=0.5)) == "Mild(rate=0.5, steps=3)"


# -- what is refused -----------------------------------------------------------------------------------


def test_unknown_names_and_settings_come_with_the_known_ones(plugins: Plugins) -> None:
    """A misspelt unlearner or setting is answered with the nearest."""
    plugins.add(UNLEARNER_GROUP, mild="plug:Mild")
    with pytest.raises(UnknownNameError, match="unknown unlearner 'wild': did you mean 'mild'"):
        unlearner("wild")
    with pytest.raises(UnknownNameError, match=r"setting of mild 'rates': did you mean 'rate'.* Known: rate, steps"):
        unlearner("mild", rates=1)


@pytest.mark.parametrize(("group", "load"), [(FACTOR_GROUP, load_factors), (UNLEARNER_GROUP, load_unlearners)])
def test_two_plugins_of_one_name_are_both_named(group: str, load: Any, plugins: Plugins) -> None:
    """The same name for two different objects is an error that says where both come from."""
    plugins.add(group, same="plug:zeta")
    plugins.add(group, same="plug:Mild")
    with pytest.raises(
        PluginError, match=r"two plugins register 'same'.*plug:zeta and plug:Mild; rename one"
    ) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_the_same_plugin_seen_twice_is_one(plugins: Plugins) -> None:
    """A package found by two paths (an editable install beside a wheel) registers the same object twice."""
    plugins.add(FACTOR_GROUP, same="plug:zeta")
    plugins.add(FACTOR_GROUP, same="plug:zeta")
    assert list(load_factors()) == ["zeta"]


def test_two_factors_of_one_name_name_their_plugins(plugins: Plugins) -> None:
    """Also when the entry points are called differently."""
    plugins.add(FACTOR_GROUP, one="plug:several", two="plug:again")
    with pytest.raises(PluginError, match=r"two factors are named 'alpha'.*plug:several.*plug:again"):
        load_factors()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("broken:thing", "'bad' .broken:thing. failed to load: OSError: no disk; mend or uninstall"),
        ("plug:missing", "'bad' .plug:missing. failed to load: AttributeError"),
        ("no_such_module:thing", "'bad' .no_such_module:thing. failed to load: ModuleNotFoundError"),
    ],
)
@pytest.mark.parametrize(("group", "load"), [(FACTOR_GROUP, load_factors), (UNLEARNER_GROUP, load_unlearners)])
def test_a_plugin_that_does_not_load_is_named(
    group: str, load: Any, value: str, message: str, plugins: Plugins
) -> None:
    """Name, place and the first line of what it raised; the good ones beside it are not blamed."""
    plugins.add(group, alright="plug:zeta" if group == FACTOR_GROUP else "plug:Mild", bad=value)
    with pytest.raises(PluginError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["plug:undecorated", "plug:number", "plug:mixed"])
def test_what_is_no_factor_is_refused(value: str, plugins: Plugins) -> None:
    """A function without @factor, alone or in a list, is the likely mistake; the message says what is missing."""
    plugins.add(FACTOR_GROUP, bad=value)
    with pytest.raises(PluginError, match=rf"'bad' .{value}.: expected a function decorated with @factor.*got (f|i)"):
        load_factors()


@pytest.mark.parametrize("value", ["plug:number", "plug:not_a_class", "plug:zeta"])
def test_what_is_no_unlearner_is_refused(value: str, plugins: Plugins) -> None:
    """An unlearner is registered as a class."""
    plugins.add(UNLEARNER_GROUP, bad=value)
    with pytest.raises(PluginError, match=rf"'bad' .{value}.: expected a class"):
        load_unlearners()


def test_an_error_is_not_remembered(plugins: Plugins) -> None:
    """Once the broken plugin is gone, the next look-up works."""
    plugins.add(FACTOR_GROUP, good="plug:zeta", bad="broken:thing")
    with pytest.raises(PluginError):
        load_factors()
    del plugins.points[1]
    assert list(load_factors()) == ["zeta"]
