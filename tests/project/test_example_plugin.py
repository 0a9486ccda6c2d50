"""The example plugin, installed as a user would: its own checks pass, and forgetcast finds what it brings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

pytestmark = pytest.mark.slow

PLUGIN = ROOT / "examples" / "forgetcast-example-plugin"

PROGRAM = """
import numpy as np
from forgetcast.target.example import example_target
from forgetcast.factors import factor_table
from forgetcast.corpus.measuring import measure
from forgetcast.predict import predict_difficulty
from forgetcast.report.page import render_html

target = example_target()
table = factor_table(target)
p = target.logits().double().softmax(1).numpy()
assert np.allclose(table.values["gini_impurity"], 1 - (p**2).sum(1), atol=1e-5)
assert table.values["gini_impurity_quantile"].between(0, 1).all()
outcomes, _ = measure(target, [0, 1], unlearners=["uniform_target"], objectives=["erase"], progress=False)
assert outcomes["unlearner"].eq("uniform_target").all() and outcomes["forgetting"].gt(0.9).all()
page = render_html(predict_difficulty(target), rows=1, waterfalls=0)
assert "Section <code>hardest_classes</code> of the plugin forgetcast-example-plugin 0.1.0" in page
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables under which the plugin is importable; it was installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(folder), str(PLUGIN)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return os.environ | {"PYTHONPATH": str(folder)}


def test_the_plugin_passes_its_own_checks(installed: dict[str, str], tmp_path: Path) -> None:
    """Its tests hold it to the laws of ``forgetcast.testing``."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(PLUGIN)]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "6 passed" in done.stdout


def test_forgetcast_uses_what_the_plugin_brings(installed: dict[str, str], tmp_path: Path) -> None:
    """A factor table has its column, its unlearner is measured like any other, and the report has its section."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
