"""The oldest Python that the project says it supports can run it: by its syntax, its library and its dependencies."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from places import ROOT

OLDEST = "3.10"


def test_oldest_python_is_the_one_promised() -> None:
    """pyproject.toml, the Makefile, CONTRIBUTING.md and the versioning policy name the same oldest Python."""
    for name, words in (
        ("pyproject.toml", f'requires-python = ">={OLDEST}"'),
        ("Makefile", f"forgetcast needs Python {OLDEST} or newer"),
        ("CONTRIBUTING.md", f"Python {OLDEST} or newer"),
        ("docs/reference/versioning.md", f"`requires-python` is {OLDEST} or newer"),
    ):
        assert words in (ROOT / name).read_text(encoding="utf-8"), name


def test_code_needs_no_newer_python(tmp_path: Path) -> None:
    """vermin finds neither syntax nor standard library of a later Python, annotations included; it would."""
    vermin = Path(sysconfig.get_path("scripts")) / "vermin"
    command = [vermin, f"-t={OLDEST}-", "--violations", "--no-tips", "--eval-annotations"]
    folders = [ROOT / name for name in ("src", "docs", "examples", "tests", "benchmarks")]
    done = subprocess.run([*command, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Minimum required versions: {OLDEST}" in done.stdout
    (tmp_path / "later.py").write_text("import tomllib\nfrom datetime import UTC\n")
    assert subprocess.run([*command, tmp_path], capture_output=True).returncode == 1


def test_dependencies_are_the_same_for_every_python() -> None:
    """No dependency is bound to some Pythons by a marker, so that no Python lacks one that the code imports."""
    needed = [Requirement(text) for text in requires("forgetcast") or []]
    assert len(needed) > 20
    assert [str(one) for one in needed if re.search("python_version|python_full_version", str(one.marker))] == []
