"""Look-up by entry point: built-ins and plugins by the same door; a plugin that does not work is named."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from forgetcast import registry
from forgetcast.errors import PluginError, PluginWarning, UnknownNameError
from forgetcast.factors import Factor, factor_table
from forgetcast.factors.probes.probes import Probes
from forgetcast.factors.store import factors_of
from forgetcast.registry import (
    FACTOR_GROUP,
    SECTION_GROUP,
    UNLEARNER_GROUP,
    found,
    load_factors,
    load_report_sections,
    load_unlearners,
    unlearner,
)
from forgetcast.screening.costs import measure_costs
from forgetcast.target.example import example_target
from forgetcast.unlearn.trace import trace
from plugin_cases import PLUGIN, Plugins

pytestmark = pytest.mark.usefixtures("fresh_registry")


# -- what is there -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "load"), [(FACTOR_GROUP, load_factors), (UNLEARNER_GROUP, load_unlearners)])
def test_built_ins_come_by_entry_point(group: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this project registers is found, and without entry points there is nothing."""
    there = load()
    assert there
    for point in distribution("forgetcast").entry_points.select(group=group):
        loaded = point.load()
        if group == UNLEARNER_GROUP:
            assert there[point.name] is loaded
        else:
            assert {item.name for item in loaded} <= set(there)
    found.cache_clear()
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
    found.cache_clear()
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


@pytest.mark.parametrize(
    ("group", "load", "value"),
    [(FACTOR_GROUP, load_factors, "plug:zeta"), (UNLEARNER_GROUP, load_unlearners, "plug:Wild")],
)
def test_of_two_plugins_of_one_name_neither_is_taken(group: str, load: Any, value: str, plugins: Plugins) -> None:
    """Which one was meant is not known and must not depend on their order; both are named, a third goes on."""
    plugins.add(group, same=value, good="plug:alpha" if group == FACTOR_GROUP else "plug:Mild")
    plugins.add(group, same="again:zeta" if group == FACTOR_GROUP else "again:Wild")
    with pytest.warns(PluginWarning, match="'same'") as caught:
        assert len(load()) == 1
    texts = sorted(str(item.message) for item in caught)
    assert len(texts) == 2
    assert all("plug:" in text and "again:" in text and "rename one" in text and "\n" not in text for text in texts)
    found.cache_clear()
    plugins.points.reverse()
    assert len(load()) == 1


def test_the_same_plugin_seen_twice_is_one(plugins: Plugins) -> None:
    """A package found by two paths (an editable install beside a wheel) registers the same object twice."""
    plugins.add(FACTOR_GROUP, same="plug:zeta")
    plugins.add(FACTOR_GROUP, same="plug:zeta")
    assert list(load_factors()) == ["zeta"]


def test_two_factors_of_one_name_name_their_plugins(plugins: Plugins) -> None:
    """Also when the entry points are called differently; a plugin is taken whole or not at all."""
    plugins.add(FACTOR_GROUP, one="plug:several", two="plug:again")
    with pytest.warns(PluginWarning, match=r"the factor 'alpha'.*plug:(several|again)"):
        assert load_factors() == {}
    with pytest.raises(PluginError, match=r"cannot be used: two register the factor 'alpha'"):
        raise registry.not_found(FACTOR_GROUP, "alpha")


@pytest.mark.parametrize("value", ["plug:margin_again", "plug:Renamed"])
def test_a_built_in_keeps_its_name(value: str, monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> None:
    """A plugin that takes the name of a factor or an unlearner of the project is left out; the project's stays."""
    group, load = (FACTOR_GROUP, load_factors) if "margin" in value else (UNLEARNER_GROUP, load_unlearners)
    plugins.points += list(distribution("forgetcast").entry_points.select(group=group))
    name = "margin" if group == FACTOR_GROUP else "ssd"
    own = load()[name]
    found.cache_clear()
    plugins.add(group, **{name: value})
    with pytest.warns(PluginWarning, match=f"{name}.*rename one"):
        assert load()[name] is own


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("broken:thing", r"failed to load: OSError: no disk .broken.py, line 1."),
        ("plug:missing", "failed to load: AttributeError"),
        ("no_such_module:thing", "failed to load: ModuleNotFoundError"),
        ("leaves:thing", "failed to load: SystemExit"),
    ],
)
@pytest.mark.parametrize("group", [FACTOR_GROUP, UNLEARNER_GROUP, SECTION_GROUP])
def test_a_plugin_that_does_not_load_is_named_and_left_out(
    group: str, value: str, message: str, plugins: Plugins, tmp_path: Path
) -> None:
    """Name, package, version and what it raised, once; the good ones beside it go on, and asking for it is an error."""
    good = {FACTOR_GROUP: "plug:zeta", UNLEARNER_GROUP: "plug:Mild", SECTION_GROUP: "plug:undecorated"}[group]
    plugins.add(group, alright=good)
    plugins.add_installed(tmp_path, group, "acme-plugin", "1.2", bad=value)
    with pytest.warns(
        PluginWarning, match=rf"'bad' .{value}. of package acme-plugin 1\.2 is left out: {message}"
    ) as all_:
        assert len(found(group).objects) == 1
    assert len(all_) == 1
    assert "\n" not in str(all_[0].message)
    assert isinstance(registry.not_found(group, "bad"), PluginError)
    assert "acme-plugin 1.2" in str(registry.not_found(group, "bad"))
    assert isinstance(registry.not_found(group, "unheard"), UnknownNameError)
    assert "left out" in str(registry.not_found(group, "unheard"))
    found.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(found(group).objects) == 1  # said once


def test_a_broken_plugin_that_is_asked_for_is_an_error(plugins: Plugins) -> None:
    """With the reason, not with 'unknown unlearner'."""
    plugins.add(UNLEARNER_GROUP, bad="broken:thing", needy="plug:Needy")
    with (
        pytest.warns(PluginWarning),
        pytest.raises(PluginError, match=r"'bad' .*cannot be used: failed to load: OSErr"),
    ):
        unlearner("bad")
    with pytest.raises(PluginError, match=r"'needy' .*cannot be made: TypeError.*rate"):
        unlearner("needy")


def test_a_broken_built_in_is_an_error(plugins: Plugins) -> None:
    """The project must not go on without a part of its own."""
    plugins.add(FACTOR_GROUP, good="plug:zeta", bad="forgetcast.factors.no_such_module:FACTORS")
    with pytest.raises(PluginError, match=r"'bad' .*failed to load: ModuleNotFoundError.*reinstall forgetcast"):
        load_factors()
    del plugins.points[1]
    assert list(load_factors()) == ["zeta"]  # an error is not remembered


@pytest.mark.parametrize("value", ["plug:undecorated", "plug:number", "plug:mixed"])
def test_what_is_no_factor_is_refused(value: str, plugins: Plugins) -> None:
    """A function without @factor, alone or in a list, is the likely mistake; the message says what is missing."""
    plugins.add(FACTOR_GROUP, bad=value)
    with pytest.warns(PluginWarning, match=rf"'bad' .{value}.*expected a function decorated with @factor.*got (f|i)"):
        assert load_factors() == {}


@pytest.mark.parametrize("value", ["plug:number", "plug:not_a_class", "plug:zeta"])
def test_what_is_no_unlearner_is_refused(value: str, plugins: Plugins) -> None:
    """An unlearner is registered as a class."""
    plugins.add(UNLEARNER_GROUP, bad=value)
    with pytest.warns(PluginWarning, match=rf"'bad' .{value}.*expected a class"):
        assert load_unlearners() == {}


def test_an_unlearner_goes_by_its_own_name(plugins: Plugins) -> None:
    """Outcomes are stored under the name of the class: under another one they would pass for another unlearner's."""
    plugins.add(UNLEARNER_GROUP, disguised="plug:Renamed")
    with pytest.warns(PluginWarning, match="'disguised' .*calls itself 'ssd': register it under that name"):
        assert load_unlearners() == {}


@pytest.mark.parametrize("value", ["plug:number", "plug:Mild"])
def test_what_is_no_section_is_refused(value: str, plugins: Plugins) -> None:
    """A report section is registered as a function."""
    plugins.add(SECTION_GROUP, bad=value)
    with pytest.warns(PluginWarning, match=rf"'bad' .{value}.*expected a function that takes a DifficultyReport"):
        assert load_report_sections() == {}


# -- the contract ---------------------------------------------------------------------------------------


def _package(folder: Path, name: str, declared: str, inner: str = PLUGIN) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(declared)
    (folder / name / "inner.py").write_text(inner)


@pytest.mark.parametrize(
    ("declared", "contract"),
    [("", None), ('FORGETCAST_CONTRACT = "1.0"', "1.0"), ('FORGETCAST_CONTRACT = "1.7"', "1.7")],
)
def test_a_plugin_of_this_contract_is_used(
    declared: str, contract: str | None, plugins: Plugins, tmp_path: Path
) -> None:
    """One that declares none, this version or a later minor one; the declaration of its package counts."""
    name = f"fine{abs(hash(declared))}"
    _package(tmp_path, name, declared)
    plugins.add(UNLEARNER_GROUP, mild=f"{name}.inner:Mild")
    assert list(load_unlearners()) == ["mild"]
    assert [plugin.contract for plugin in found(UNLEARNER_GROUP).plugins] == [contract]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ('"2.0"', "written for plugin contract 2.0, and this forgetcast offers 1.0: upgrade forgetcast"),
        ('"0.9"', "written for plugin contract 0.9, and this forgetcast offers 1.0: upgrade the plugin"),
        ("1", r'FORGETCAST_CONTRACT: expected a version such as "1.0"; got 1'),
    ],
)
def test_a_plugin_of_another_contract_is_refused(declared: str, message: str, plugins: Plugins, tmp_path: Path) -> None:
    """Before its modules are imported, which may fail over what they do not find; it says how to fix it."""
    name = f"other{abs(hash(declared))}"
    _package(tmp_path, name, f"FORGETCAST_CONTRACT = {declared}", "from forgetcast.factors import not_there_yet")
    plugins.add(FACTOR_GROUP, later=f"{name}.inner:zeta", good="plug:zeta")
    with pytest.warns(PluginWarning, match=f"'later' .*{message}"):
        assert list(load_factors()) == ["zeta"]


def test_a_later_minor_contract_is_named_when_loading_fails(plugins: Plugins, tmp_path: Path) -> None:
    """It may need what is not here yet."""
    _package(tmp_path, "ahead", 'FORGETCAST_CONTRACT = "1.7"', "from forgetcast.factors import not_there_yet")
    plugins.add(FACTOR_GROUP, ahead="ahead.inner:zeta")
    with pytest.warns(PluginWarning, match=r"ImportError.*contract 1\.7, newer than 1\.0: upgrade forgetcast"):
        assert load_factors() == {}


# -- what raises at run time ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raises", "wrong_shape", "text"])
def test_a_plugin_factor_that_raises_does_not_apply(name: str, plugins: Plugins) -> None:
    """The reason names plugin and error; built-in factors beside it have the values they have without it."""
    plugins.points += list(distribution("forgetcast").entry_points.select(group=FACTOR_GROUP))
    target = example_target()
    alone = factor_table(target, names=["margin", "loss"]).values
    found.cache_clear()
    plugins.add(FACTOR_GROUP, bad=f"plug:{name}")
    with pytest.warns(PluginWarning, match=rf"factor '{name}' of factor plugin 'bad' .plug:{name}. raised"):
        table = factor_table(target, names=["margin", name, "loss"])
    assert table.failed == (name,)
    assert set(table.not_applicable) == {name}
    assert table.values[name].isna().all()
    assert table.values[list(alone)].equals(alone)


def test_a_plugin_factor_may_still_say_that_it_does_not_apply(plugins: Plugins) -> None:
    """That is no failure."""
    plugins.add(FACTOR_GROUP, bad="plug:declines")
    table = factor_table(example_target())
    assert table.failed == ()
    assert table.not_applicable == {"declines": "not for this one"}


def test_a_built_in_factor_that_raises_is_an_error(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the project's own is turned into a footnote; nor is a probe that a plugin asked for."""
    plugins.add(FACTOR_GROUP, bad="plug:zeta")
    monkeypatch.setattr(Probes, "margin", property(lambda self: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        factor_table(example_target())
    monkeypatch.undo()
    found.cache_clear()
    own = load_factors()["margin"]
    monkeypatch.setitem(load_factors(), "margin", replace(own, function=lambda margin: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        factor_table(example_target(), names=["margin"])


def test_kept_factors_are_asked_again_after_a_failure(plugins: Plugins, tmp_path: Path) -> None:
    """A table with a failure is not written: with the plugin fixed, the next call shall have the values."""
    plugins.add(FACTOR_GROUP, bad="plug:raises")
    said: list[str] = []
    with pytest.warns(PluginWarning):
        factors_of(example_target(), ["raises"], tmp_path / "kept", say=said.append)
    assert "raises failed" in said[0]
    assert not (tmp_path / "kept").exists()


def test_costs_go_on_without_a_plugin_that_fails(plugins: Plugins) -> None:
    """Its reason stands beside those of unlearners that cannot serve the model."""
    plugins.points += list(distribution("forgetcast").entry_points.select(group=UNLEARNER_GROUP))
    plugins.add(UNLEARNER_GROUP, stumbling="plug:Stumbling")
    costs = measure_costs(example_target(), ["gradient_ascent", "stumbling"], 3)
    assert list(costs.unlearners.index) == ["gradient_ascent"]
    assert "'stumbling' (plug:Stumbling) raised RuntimeError: over sample" in costs.failed["stumbling"]


def test_traces_go_on_without_a_plugin_that_fails(plugins: Plugins) -> None:
    """Named in a warning; if nothing else was asked for, it is an error."""
    plugins.points += list(distribution("forgetcast").entry_points.select(group=UNLEARNER_GROUP))
    plugins.add(UNLEARNER_GROUP, stumbling="plug:Stumbling")
    both = [unlearner("stumbling"), unlearner("gradient_ascent")]
    with pytest.warns(PluginWarning, match=r"'stumbling'.*RuntimeError: over sample 3.*left out"):
        points = trace(example_target(), 3, both, most_steps=2)
    assert set(points["unlearner"]) == {"gradient_ascent"}
    with pytest.warns(PluginWarning), pytest.raises(PluginError, match="no path is left"):
        trace(example_target(), 3, both[:1], most_steps=2)


def test_entry_point_groups_keep_their_names() -> None:
    """They are part of the plugin contract: packages that are out there name them."""
    assert set(registry.GROUPS) == {"forgetcast.factors", "forgetcast.unlearners", "forgetcast.report_sections"}
