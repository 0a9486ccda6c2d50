"""The wheel as a user meets it: built, installed into its own environment, used outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys, pathlib
import numpy as np, torch
import forgetcast
from forgetcast import DifficultyPredictor, predict_difficulty
from forgetcast.datasets import load

assert pathlib.Path(forgetcast.__file__).is_relative_to(sys.prefix), forgetcast.__file__
assert not any("{root}" in part for part in sys.path if "site-packages" not in part), sys.path
(x, y), heldout = load("digits")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
report = predict_difficulty(model, (x, y), heldout=heldout, objective="both")
assert len(report.table) == 2 * len(y) and np.isfinite(report.table["percentile"]).all()
assert report.table.groupby("objective")["percentile"].std().min() > 0.02
assert not {{m for m in sys.modules if m.startswith(("forgetcast.unlearn.", "forgetcast.corpus", "torchvision"))}}
print(report.to_html("report.html"), len(DifficultyPredictor.published().features))
print(len(forgetcast.Corpus.published().targets))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built in an isolated environment that holds the build backend alone."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_package_predictor_and_template(wheel: Path) -> None:
    """The wheel carries code, typing marker, report template, published predictor and corpus, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "py.typed",
        "templates/report.html.j2",
        "published_model/manifest.json",
        "cli/__init__.py",
        "published_corpus/manifest.json",
    ):
        assert f"forgetcast/{name}" in names
    assert {name.split("/")[0] for name in names} == {"forgetcast", "forgetcast-0.1.0.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_wheel_forecasts_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Import, forecast and report work in an environment whose only copy of forgetcast is the wheel.

    The environment borrows the dependencies of this one through a path file, so that they need not be installed
    twice; path files in a borrowed folder are not read, so the editable install there stays out of reach.
    """
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    installing = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(installing, check=True)
    own = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
    )  # fmt: skip
    (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [python, "-c", PROGRAM.format(root=ROOT)]
    done = subprocess.run(program, cwd=elsewhere, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (elsewhere / "report.html").stat().st_size > 10_000
    version = [environment / "bin" / "forgetcast", "--version"]
    assert subprocess.run(version, cwd=elsewhere, env=clean, capture_output=True, text=True).stdout == (
        "forgetcast 0.1.0\n"
    )
