"""The table of what forgetcast takes and refuses: every line names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LINES = [
    line
    for line in (TESTS.parent / "docs" / "reference" / "takes.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| what |", "| --- |"))
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:60])
def test_every_line_has_its_test(line: str) -> None:
    """The last column is a file of this folder and a function in it."""
    named = re.search(r"`(\w+\.py)::(\w+)` \|$", line)
    assert named, line
    tree = ast.parse((TESTS / named[1]).read_text(encoding="utf-8"))
    assert named[2] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
