"""``forgetcast plugins`` lists what is there, says what is broken and why, and holds others' plugins to the laws."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forgetcast.cli import main
from forgetcast.registry import FACTOR_GROUP, SECTION_GROUP, UNLEARNER_GROUP, load_factors
from plugin_cases import Plugins

SOUND = '''
from forgetcast.factors import factor
from forgetcast.sections import Section

FORGETCAST_CONTRACT = "1.0"

@factor(family="mine", source="ours", high="high", low="low")
def doubled(margin):
    """Twice the margin."""
    return 2 * margin

@factor(family="mine", source="ours", high="high", low="low")
def place(margin):
    """Position in the data, which is no property of a sample."""
    return margin * 0 + range_of(len(margin))

def range_of(n):
    import torch
    return torch.arange(n)

def size(report):
    return Section("Size", [f"{len(report.table)} forecasts"])
'''


@pytest.fixture
def installed(plugins: Plugins, tmp_path: Path) -> Plugins:
    """The project's own factors of one family, and a package of somebody else's."""
    (tmp_path / "sound.py").write_text(SOUND)
    plugins.points += list(distribution("forgetcast").entry_points.select(group=FACTOR_GROUP, name="boundary"))
    plugins.add_installed(tmp_path, FACTOR_GROUP, "acme-plugin", "1.2", doubled="sound:doubled")
    return plugins


def run(*arguments: str) -> Result:
    """The command with these arguments."""
    return CliRunner().invoke(main, ["plugins", *arguments])


def test_everything_is_listed_with_where_it_comes_from(installed: Plugins) -> None:
    """Built-ins and plugins, one line each: package, version, place, contract and status."""
    result = run()
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["kind", "name", "package", "version", "from", "contract", "status"]
    version = distribution("forgetcast").version
    place = "forgetcast.factors.boundary:FACTORS"
    assert ["factor", "boundary_distance", "forgetcast", version, place, "1.0", "ok"] in lines
    assert ["factor", "doubled", "acme-plugin", "1.2", "sound:doubled", "1.0", "ok"] in lines
    assert len(lines) == 1 + len(load_factors())


def test_what_is_broken_is_listed_with_the_reason(installed: Plugins) -> None:
    """As a table and as JSON; listing is no failure, and the list replaces the warning."""
    installed.add(UNLEARNER_GROUP, bad="broken:thing")
    result = run()
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "broken:thing" in result.stdout
    assert "unlearner plugin 'bad' (broken:thing) is left out: failed to load: OSError: no disk" in result.stdout
    rows = json.loads(run("--format", "json").stdout)
    bad = next(row for row in rows if row["name"] == "bad")
    assert (bad["kind"], bad["status"], bad["package"], bad["contract"]) == ("unlearner", "broken", None, None)
    assert bad["reason"].startswith("failed to load: OSError")
    mine = next(row for row in rows if row["name"] == "doubled")
    assert (mine["status"], mine["reason"], mine["built_in"], mine["version"]) == ("ok", None, False, "1.2")


def test_checking_sound_plugins(installed: Plugins) -> None:
    """Exit code 0, and only other packages' are checked; the bar goes to stderr."""
    installed.add(SECTION_GROUP, size="sound:size")
    installed.points = [point for point in installed.points if point.name != "boundary"] + list(
        distribution("forgetcast").entry_points.select(group=FACTOR_GROUP)
    )
    result = run("--check")
    assert result.exit_code == 0, result.output
    assert "0/2" in result.stderr
    assert ", size]" in result.stderr  # what is being checked; whether the full bar is drawn depends on the time
    assert run("--check", "--quiet").stderr == ""


def test_checking_names_the_law_that_is_broken(installed: Plugins) -> None:
    """Exit code 1, the law in words, also in JSON."""
    installed.add(FACTOR_GROUP, place="sound:place")
    installed.add(UNLEARNER_GROUP, mild="plug:Mild")
    result = run("--check", "--quiet")
    assert result.exit_code == 1
    assert "factor place: factor 'place' breaks the law: permuting the samples permutes the values" in result.stdout
    assert "unlearner mild: unlearner 'Mild' breaks the law" in result.stdout
    rows = {row["name"]: row for row in json.loads(run("--check", "--quiet", "--format", "json").stdout)}
    assert [rows[name]["status"] for name in ("place", "mild", "doubled")] == ["broken", "broken", "ok"]
    assert "permuting" in rows["place"]["reason"]


def test_a_broken_plugin_is_one_line_in_other_commands(installed: Plugins, tmp_path: Path) -> None:
    """The place in our code that noticed is of no interest to who runs a command."""
    installed.points += list(distribution("forgetcast").entry_points.select(group=UNLEARNER_GROUP))
    installed.add(UNLEARNER_GROUP, bad="broken:thing")
    result = CliRunner().invoke(
        main, ["inspect", "path", "--recipe", "digits-mlp", "--index", "1", "--unlearners", "bad"]
    )
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert lines[-2].startswith("warning: unlearner plugin 'bad' (broken:thing) is left out: failed to load")
    assert lines[-1].startswith("error: unlearner plugin 'bad' (broken:thing) cannot be used: failed to load")
