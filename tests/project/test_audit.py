"""Which versions an advisory affects: ranges and lists of the OSV format, by canonical names."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from places import ROOT

SPEC = spec_from_file_location("audit", ROOT / "docs" / "audit.py")
assert SPEC is not None
assert SPEC.loader is not None
audit = module_from_spec(SPEC)
SPEC.loader.exec_module(audit)


def advisory(events: list[dict[str, str]] | None = None, *, name: str = "Some_Package", **more: Any) -> dict[str, Any]:
    ranges = [] if events is None else [{"type": "ECOSYSTEM", "events": events}]
    return {"id": "PYSEC-1", "affected": [{"package": {"name": name}, "ranges": ranges, **more}]}


FIXED = [{"introduced": "0"}, {"fixed": "1.10"}]
TWICE = [{"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"last_affected": "2.3"}]


@pytest.mark.parametrize(
    ("events", "version", "affected"),
    [
        (FIXED, "0.1", True),
        (FIXED, "1.9", True),  # 1.9 < 1.10, though not as text
        (FIXED, "1.10", False),
        (FIXED, "1.10rc1", True),
        (FIXED, "1.9+cpu", True),
        (TWICE, "0.9", False),
        (TWICE, "1.0", True),
        (TWICE, "1.2", False),
        (TWICE, "2.3", True),
        (TWICE, "2.3.1", False),
        (TWICE[::-1], "1.5", False),  # in any order
        (TWICE[::-1], "2.1", True),
        ([{"introduced": "3"}], "99", True),
    ],
)
def test_ranges(events: list[dict[str, str]], version: str, affected: bool) -> None:
    """A version is affected from `introduced` until before `fixed`, or until `last_affected`."""
    assert audit.affects(advisory(events), "some-package", version) is affected


def test_listed_versions() -> None:
    """A version that is listed is affected, however it is spelt; what is no version is passed over."""
    listed = advisory(versions=["1.0", "2004d"])
    assert audit.affects(listed, "some.package", "1.0.0")
    assert not audit.affects(listed, "some.package", "1.1")


def test_only_the_package_itself() -> None:
    """Another package whose name begins alike is not meant, nor are ranges of commits."""
    assert not audit.affects(advisory(FIXED), "some-package-extra", "1.0")
    commits = {"id": "PYSEC-2", "affected": [{"package": {"name": "a"}, "ranges": [{"type": "GIT", "events": FIXED}]}]}
    assert not audit.affects(commits, "a", "1.0")


def test_withdrawn_advisories_are_not_read(tmp_path: Path) -> None:
    """What was withdrawn does not count; the others are found by canonical name."""
    (tmp_path / "some").mkdir()
    for number, more in enumerate(({}, {"withdrawn": "2024-01-01T00:00:00Z"})):
        (tmp_path / "some" / f"{number}.yaml").write_text(yaml.safe_dump(advisory(FIXED) | more))
    found = audit.read_advisories(tmp_path)
    assert {name: len(of_one) for name, of_one in found.items()} == {"some-package": 1}
    assert [hit[:3] for hit in audit.hits(found, {"some-package": "1.0", "other": "1.0"})] == [
        ("some-package", "1.0", "PYSEC-1")
    ]


def test_what_is_looked_at() -> None:
    """Dependencies of dependencies and of extras, and every lower bound of the project."""
    here, bounds = audit.installed(), audit.lower_bounds()
    assert {"torch", "sympy", "ray", "transformers"} <= here.keys()
    assert "forgetcast" not in here
    needed = [Requirement(line) for line in audit.distribution("forgetcast").requires]
    assert bounds.keys() == {audit.canonicalize_name(one.name) for one in needed if ">=" in str(one.specifier)}
    assert bounds["jinja2"] == "3.1.6"


def test_a_folder_without_advisories_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and what to give, not an audit that found nothing."""
    monkeypatch.setattr(sys, "argv", ["audit.py", "--advisories", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        audit.main()
    assert stopped.value.code == 2
    assert "holds no .yaml file" in capsys.readouterr().err
