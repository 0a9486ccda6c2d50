"""The table of what forgetcast takes and refuses: every line names a test that is there."""

from __future__ import annotations

import ast
import re

import pytest

from places import ROOT, TESTS

LINES = [
    line
    for line in (ROOT / "docs" / "reference" / "takes.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| what |", "| --- |"))
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:60])
def test_every_line_has_its_test(line: str) -> None:
    """The last column is a file among the tests and a function in it."""
    named = re.search(r"`(\w+\.py)::(\w+)` \|$", line)
    assert named, line
    [place] = TESTS.rglob(named[1])
    tree = ast.parse(place.read_text(encoding="utf-8"))
    assert named[2] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
